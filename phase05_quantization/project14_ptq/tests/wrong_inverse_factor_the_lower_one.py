"""Takes the lower factor: its rows belong to the columns that are done already."""


def inverse_factor(H, damp=0.01):
    lower, failed = torch.linalg.cholesky_ex(damped(H, damp))
    demand(not failed, f"the inputs' moments are not positive with damp {damp}: raise it, or add more text")
    return torch.linalg.cholesky(torch.cholesky_inverse(lower))
