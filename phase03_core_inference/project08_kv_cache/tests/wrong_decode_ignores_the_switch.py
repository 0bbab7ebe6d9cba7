"""Recomputes everything although it was given caches: right, and saves nothing."""


def decode(model, tokens, n, caches=None, choose=greedy):
    check_room(model, tokens.size(1), n)
    return recompute(model, tokens, n, choose)
