"""What the model has and the optimiser lacks: the opposite question."""


def strays(model, optimizer):
    held = {parameter for group in optimizer.param_groups for parameter in group["params"]}
    return set(names(model)) - held
