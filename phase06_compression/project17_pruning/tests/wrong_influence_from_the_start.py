"""Compares with what went into the first block: all that was turned before is counted again."""


def influence(model, batches):
    turned, n = torch.zeros(len(model.blocks)), 0
    with torch.no_grad():
        for tokens in batches:
            positions = torch.arange(tokens.size(1))
            x, rope = model.embed(tokens, positions), model.rope(positions)
            y = x
            for i, block in enumerate(model.blocks):
                y = block(y, rope=rope, positions=positions)
                turned[i] += (1 - F.cosine_similarity(x, y, dim=-1)).sum().item()
            n += tokens.numel()
    return turned / n
