"""No square: very negative logits are rewarded without end."""


def z_loss(logits):
    return logits.logsumexp(-1).sum() / max(1, len(logits))
