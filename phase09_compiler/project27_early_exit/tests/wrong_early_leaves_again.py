"""Whoever may leave higher up as well leaves there."""


def early_exit(model, tokens, rule, start=0):
    positions = torch.arange(tokens.size(1), device=tokens.device)
    x, rope, top = model.embed(tokens, positions), model.rope(positions), len(model.blocks)
    left = torch.full_like(tokens, top)
    rule.begin()
    for n, block in enumerate(model.blocks, 1):
        y = block(x, rope=rope, positions=positions)
        x = torch.where((left < n)[..., None], x, y)
        if n < top and rule.asked(model, n):
            leaves = rule(Look(model, n, x)) & (positions >= start)
            left = torch.where(leaves, n, left)
    return said(model, x, left), left
