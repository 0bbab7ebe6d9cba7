"""Only questions choose; passages do not."""


def info_nce(questions, passages, temperature=0.05):
    logits = questions @ passages.T / temperature
    return F.cross_entropy(logits, torch.arange(len(logits), device=logits.device))
