"""Takes the candidate that is best for all rows together: a row with other numbers gets a bad one."""


def first_step(x, bits):
    steps = torch.stack(candidates(x, bits))
    errors = torch.stack([(naive(x, step, bits) - x).square().sum(1, keepdim=True) for step in steps])
    return steps[errors.sum((1, 2)).argmin()]
