"""Leaves the temperature out."""


def info_nce(questions, passages, temperature=0.05):
    logits = questions @ passages.T
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2
