"""Crops the wrong end: once the context is full the model sees its beginning for ever."""


def generate(model, tokens, n_new, *, temperature=1.0, k=0, p=1.0, generator=None):
    for _ in range(n_new):
        new = pick(model(tokens[:, : model.config.max_seq_len])[:, -1], temperature, k, p, generator)
        tokens = torch.cat((tokens, new[:, None]), dim=1)
    return tokens
