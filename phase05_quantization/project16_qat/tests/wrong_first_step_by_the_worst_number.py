"""Looks at the largest error and not at their squares: one number far out decides for all."""


def first_step(x, bits):
    steps = torch.stack(candidates(x, bits))
    errors = torch.stack([(naive(x, step, bits) - x).abs().amax(1, keepdim=True) for step in steps])
    return steps.gather(0, errors.argmin(0, keepdim=True))[0]
