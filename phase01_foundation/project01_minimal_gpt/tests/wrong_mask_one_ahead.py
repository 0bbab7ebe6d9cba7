"""Hides everything but the next token: exactly the one to be guessed stays visible."""


def hide_future(scores):
    T, S = scores.shape[-2:]
    future = torch.ones(T, S, dtype=torch.bool, device=scores.device).triu(diagonal=2)
    return scores.masked_fill(future, float("-inf"))
