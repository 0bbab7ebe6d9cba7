"""Tells the loss the rows of the first chunk each time: other places' targets."""


def chunked(x, weight, loss, chunk):
    total, dx, dw = x.new_zeros((), dtype=torch.float32), torch.empty_like(x), torch.zeros_like(weight)
    for start in range(0, len(x), chunk):
        rows = slice(start, start + chunk)
        logits = F.linear(x[rows], weight).float().detach().requires_grad_()
        with torch.enable_grad():
            some = loss(logits, slice(0, len(logits)))
        (slope,) = torch.autograd.grad(some, logits)
        dx[rows], dw, total = slope @ weight, dw + slope.T @ x[rows], total + some.detach()
    return total, dx, dw
