"""Takes whole chunks only: what is left over at the end is not learned from."""


def chunked(x, weight, loss, chunk):
    total, dx, dw = x.new_zeros((), dtype=torch.float32), torch.zeros_like(x), torch.zeros_like(weight)
    for start in range(0, len(x) - chunk + 1, chunk):
        rows = slice(start, start + chunk)
        logits = F.linear(x[rows], weight).float().detach().requires_grad_()
        with torch.enable_grad():
            some = loss(logits, rows)
        (slope,) = torch.autograd.grad(some, logits)
        dx[rows], dw, total = slope @ weight, dw + slope.T @ x[rows], total + some.detach()
    return total, dx, dw
