"""Subtracts nothing: large logits overflow."""


def cross_entropy(logits, targets, start, group):
    logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets.flatten()
    total = Sum.apply(logits.exp().sum(1), group)
    mine = (targets >= start) & (targets < start + logits.size(1))
    place = (targets - start).where(mine, 0)
    asked = Sum.apply(logits.gather(1, place[:, None])[:, 0] * mine, group)
    counts = targets != IGNORE
    return ((total.log() - asked) * counts).sum() / counts.sum().clamp(min=1)
