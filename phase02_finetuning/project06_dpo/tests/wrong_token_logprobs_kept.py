"""In chunks, but autograd keeps the logits of every chunk for the way back."""


def token_logprobs(head, hidden, targets, chunk=512):

    def some(h, ids):
        logits = head(h).float()  # (chunk, V)
        return logits.gather(1, ids[:, None]).squeeze(1) - logits.logsumexp(1)

    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([some(h, ids) for h, ids in parts])
