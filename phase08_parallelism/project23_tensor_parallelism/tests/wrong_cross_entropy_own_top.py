"""Each rank subtracts its own largest logit: sums of different units are added."""


def cross_entropy(logits, targets, start, group):
    logits = logits.flatten(0, 1).to(torch.promote_types(logits.dtype, torch.float32))
    targets = targets.flatten()
    top = logits.detach().amax(1)
    logits = logits - top[:, None]
    total = Sum.apply(logits.exp().sum(1), group)
    mine = (targets >= start) & (targets < start + logits.size(1))
    place = (targets - start).where(mine, 0)
    asked = Sum.apply(logits.gather(1, place[:, None])[:, 0] * mine, group)
    counts = targets != IGNORE
    return ((total.log() - asked) * counts).sum() / counts.sum().clamp(min=1)
