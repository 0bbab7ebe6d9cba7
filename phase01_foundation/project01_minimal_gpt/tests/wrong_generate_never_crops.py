"""Lets the text outgrow the context."""


def generate(model, tokens, n_new, *, temperature=1.0, k=0, p=1.0, generator=None):
    for _ in range(n_new):
        new = pick(model(tokens)[:, -1], temperature, k, p, generator)
        tokens = torch.cat((tokens, new[:, None]), dim=1)
    return tokens
