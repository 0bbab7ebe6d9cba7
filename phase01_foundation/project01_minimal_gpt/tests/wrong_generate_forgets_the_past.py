"""Shows the model the newest token only: it can no longer know what it was writing."""


def generate(model, tokens, n_new, *, temperature=1.0, k=0, p=1.0, generator=None):
    new = tokens
    for _ in range(n_new):
        new = pick(model(new[:, -model.config.max_seq_len :])[:, -1], temperature, k, p, generator)[:, None]
        tokens = torch.cat((tokens, new), dim=1)
    return tokens
