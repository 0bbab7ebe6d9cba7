"""Feeds only the last token of the prompt: its other tokens are never in the cache."""


def decode(model, tokens, n, caches=None, choose=greedy):
    check_room(model, tokens.size(1), n)
    if caches is None:
        return recompute(model, tokens, n, choose)
    ids, fed = [], tokens[:, -1:]
    with torch.no_grad():
        for i in range(n):
            fed = choose(model.head(model.hidden(fed, caches=caches)[:, -1]), i)[:, None]
            ids.append(fed)
    return torch.cat(ids, dim=1)
