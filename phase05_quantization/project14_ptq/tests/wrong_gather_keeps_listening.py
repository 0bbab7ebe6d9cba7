"""Leaves its hook behind: whatever the model reads later is counted too."""


def gather(block, stage, states, where):
    matrix = block.get_submodule(stage[0])
    moments = Moments(matrix.in_features, states[0].device)
    matrix.register_forward_pre_hook(lambda module, inputs: moments.add(inputs[0]))
    for x, place in zip(states, where, strict=True):
        block(x, **place)
    return moments
