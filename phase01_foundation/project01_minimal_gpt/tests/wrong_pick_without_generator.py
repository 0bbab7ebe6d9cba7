"""Draws from the global random numbers, so that a seed means nothing."""


def pick(logits, temperature=1.0, k=0, p=1.0, generator=None):
    if temperature == 0:
        return logits.argmax(dim=-1)
    logits = top_p(top_k(logits / temperature, k), p)
    return torch.multinomial(logits.softmax(dim=-1), num_samples=1).squeeze(1)
