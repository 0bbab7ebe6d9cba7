"""Who is left moves together: tokens get the places of others."""


def prefill(model, tokens, shares, weigh=importance):
    demand(len(tokens) == 1, f"{len(tokens)} prompts: rows would keep different tokens; read one at a time")
    demand(
        all(n >= 1 and 0 < share <= 1 for n, share in shares.items()),
        "shares are above 0 and at most 1, after 1 block or more: the first cache has to count all",
    )
    positions = torch.arange(tokens.size(1), device=tokens.device)
    x, caches, kept = model.embed(tokens, positions), [Cache() for _ in model.blocks], [positions]
    for n, (block, cache) in enumerate(zip(model.blocks, caches, strict=True), 1):
        before, rope = x, model.rope(positions)
        x = block(x, rope=rope, positions=positions, cache=cache)
        if n in shares:
            weights = weigh(block, before[:, -1], cache, model.rope(positions[-1:]))
            places = most_important(weights, math.ceil(shares[n] * len(positions)))
            x, positions = x[:, places], torch.arange(len(places))
            kept.append(positions)
    return model.norm(x[:, -1]), caches, kept
