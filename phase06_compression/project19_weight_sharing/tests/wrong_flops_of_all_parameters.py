"""Takes every parameter for a product: norms, and the table in which tokens are only looked up."""


def flops(model):
    return sum(2 * p.numel() for _, p in model.named_parameters(remove_duplicate=False))
