"""Sums what all ranks hold, and not the copies of key/value heads."""


def finish_gradients(model, group, sequence=False):
    parameters = dict(model.named_parameters())
    for name, cut in cuts(model).items():
        if cut.parts == 1 and sequence and not cut.shared:
            grad = parameters[name].grad
            grad.copy_(group.all_reduce(grad))
