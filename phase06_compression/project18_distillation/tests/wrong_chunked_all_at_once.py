"""Right, but with all logits in memory at once."""


def chunked(x, weight, loss, chunk):
    logits = F.linear(x, weight).float().detach().requires_grad_()
    with torch.enable_grad():
        total = loss(logits, slice(0, len(x)))
    (slope,) = torch.autograd.grad(total, logits)
    return total.detach(), slope @ weight, slope.T @ x
