"""Factors H and not its inverse: errors are passed on as if inputs that are alike were opposed."""


def inverse_factor(H, damp=0.01):
    upper, failed = torch.linalg.cholesky_ex(damped(H, damp), upper=True)
    demand(not failed, f"the inputs' moments are not positive with damp {damp}: raise it, or add more text")
    return upper
