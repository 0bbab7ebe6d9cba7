"""The mean over an answer: what SimPO wants and DPO does not."""


def sequence_logprobs(model, pairs, chunk=512):
    hidden = model.hidden(pairs.tokens, positions=pairs.positions, mask=pairs.mask)  # (R, T, C)
    logprobs = token_logprobs(model.head, hidden.flatten(0, 1)[pairs.asks], pairs.targets, chunk)  # (N,)
    sums = logprobs.new_zeros(pairs.ends.numel()).index_add(0, pairs.owners, logprobs).view(2, -1)
    return sums / pairs.lengths
