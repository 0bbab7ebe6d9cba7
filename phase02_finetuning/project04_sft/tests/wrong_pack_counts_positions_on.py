"""Counts positions on over the whole row: a conversation begins in the middle of nowhere."""


def pack(examples, context, pad_id):
    rows = shelves([len(example.tokens) - 1 for example in examples], context)
    B, T = len(rows), max(sum(len(examples[i].tokens) - 1 for i in row) for row in rows)
    tokens, targets = torch.full((B, T), pad_id), torch.full((B, T), IGNORE)
    owner, positions = torch.full((B, T), -1), torch.zeros(B, T, dtype=torch.long)
    for b, row in enumerate(rows):
        place = 0
        for i in row:
            here = slice(place, place := place + len(examples[i].tokens) - 1)
            tokens[b, here] = torch.tensor(examples[i].tokens[:-1])
            targets[b, here] = torch.tensor(targets_of(examples[i]))
            owner[b, here], positions[b, here] = i, torch.arange(here.start, here.stop)
    together = owner[:, :, None] == owner[:, None, :]
    mask = together & torch.ones(T, T, dtype=torch.bool).tril()
    return Batch(tokens, targets, positions, mask[:, None])
