"""Halves again and again: the last layer counts a half, the first next to nothing."""


def average(modules):
    first, *rest = modules
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            for module in rest:
                parameter.add_(module.get_parameter(name)).div_(2)
