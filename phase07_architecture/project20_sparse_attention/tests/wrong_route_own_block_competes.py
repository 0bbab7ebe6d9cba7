"""The query's own block is judged with the others, by a mean that holds what comes after it."""


def route(q, centres, slots, block, top):
    (_, K, N, _), H = centres.shape, q.size(1)
    own = (slots // block)[:, None, :, None]
    upto = torch.arange(N, device=q.device) <= own
    fit = (q.unflatten(1, (K, H // K)) @ centres[:, :, None].mT).flatten(1, 2)
    best = fit.masked_fill(~upto, -torch.inf).topk(min(top, N), -1).indices
    chosen = torch.zeros_like(fit, dtype=torch.bool).scatter(-1, best, True) & upto
    return F.pad(chosen, (0, 1))
