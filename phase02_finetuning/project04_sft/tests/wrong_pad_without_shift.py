"""Asks each token for itself, which it can see."""


def pad(examples, pad_id):
    B, T = len(examples), max(len(example.tokens) for example in examples) - 1
    tokens, targets = torch.full((B, T), pad_id), torch.full((B, T), IGNORE)
    for b, example in enumerate(examples):
        for t, (token, counts) in enumerate(list(zip(*example, strict=True))[:-1]):
            tokens[b, t] = token
            targets[b, t] = token if counts else IGNORE
    return Batch(tokens, targets)
