"""Means over texts, each counted once however long it is."""


def influence(model, batches):
    turned = torch.zeros(len(model.blocks))
    with torch.no_grad():
        for tokens in batches:
            positions = torch.arange(tokens.size(1))
            x, rope = model.embed(tokens, positions), model.rope(positions)
            for i, block in enumerate(model.blocks):
                y = block(x, rope=rope, positions=positions)
                turned[i] += (1 - F.cosine_similarity(x, y, dim=-1)).mean().item()
                x = y
    return turned / len(batches)
