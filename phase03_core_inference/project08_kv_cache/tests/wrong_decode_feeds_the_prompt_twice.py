"""The last token of the prompt is in the cache already, and is fed once more."""


def decode(model, tokens, n, caches=None, choose=greedy):
    check_room(model, tokens.size(1), n)
    if caches is None:
        return recompute(model, tokens, n, choose)
    with torch.no_grad():
        model.hidden(tokens, caches=caches)
        ids, fed = [], tokens[:, -1:]
        for i in range(n):
            fed = choose(model.head(model.hidden(fed, caches=caches)[:, -1]), i)[:, None]
            ids.append(fed)
    return torch.cat(ids, dim=1)
