"""Divides by a temperature of 0."""


def pick(logits, temperature=1.0, k=0, p=1.0, generator=None):
    logits = top_p(top_k(logits / temperature, k), p)
    return torch.multinomial(logits.softmax(dim=-1), num_samples=1, generator=generator).squeeze(1)
