"""The mask of the batch is not passed on: the answers see each other."""


def sequence_logprobs(model, pairs, chunk=512):
    hidden = model.hidden(pairs.tokens, positions=pairs.positions)  # (R, T, C)
    logprobs = token_logprobs(model.head, hidden.flatten(0, 1)[pairs.asks], pairs.targets, chunk)  # (N,)
    return logprobs.new_zeros(pairs.ends.numel()).index_add(0, pairs.owners, logprobs).view(2, -1)
