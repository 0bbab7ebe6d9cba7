"""Fills up on the left: every position is wrong, and the model looks at the padding."""


def pad(examples, pad_id):
    B, T = len(examples), max(len(example.tokens) for example in examples) - 1
    tokens, targets = torch.full((B, T), pad_id), torch.full((B, T), IGNORE)
    for b, example in enumerate(examples):
        n = len(example.tokens) - 1
        tokens[b, T - n :] = torch.tensor(example.tokens[:-1])
        targets[b, T - n :] = torch.tensor(targets_of(example))
    return Batch(tokens, targets)
