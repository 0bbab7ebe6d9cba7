"""The last query chooses for all: a token is read because of what comes after it."""


def route(q, centres, slots, block, top):
    (B, K, N, _), H = centres.shape, q.size(1)
    own = (slots // block)[:, None, :, None]
    earlier = torch.arange(N, device=q.device) < own
    fit = (q.unflatten(1, (K, H // K)) @ centres[:, :, None].mT).flatten(1, 2)
    fit = fit[:, :, -1:].expand_as(fit)
    best = fit.masked_fill(~earlier, -torch.inf).topk(min(top - 1, N), -1).indices
    chosen = F.pad(torch.zeros_like(fit, dtype=torch.bool).scatter(-1, best, True) & earlier, (0, 1))
    return chosen.scatter(-1, own.expand(B, H, -1, -1), True)
