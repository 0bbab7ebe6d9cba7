"""Divides each matrix by its own size first, so that no matrix loses more than another."""


def globally(weights, sparsity):
    flat = torch.cat([(w / w.std()).abs().flatten() for w in weights.values()])
    parts = largest(flat, kept(len(flat), sparsity)).split([w.numel() for w in weights.values()])
    return {name: part.view_as(w) for part, (name, w) in zip(parts, weights.items(), strict=True)}
