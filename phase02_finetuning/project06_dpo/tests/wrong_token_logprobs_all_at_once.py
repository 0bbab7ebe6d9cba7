"""All logits at once: right, and the memory that the function is there to save."""


def token_logprobs(head, hidden, targets, chunk=512):

    def some(h, ids):
        logits = head(h).float()  # (chunk, V)
        return logits.gather(1, ids[:, None]).squeeze(1) - logits.logsumexp(1)

    parts = zip(hidden.split(len(hidden)), targets.split(len(hidden)), strict=True)
    return torch.cat([checkpoint(some, h, ids, use_reentrant=False) for h, ids in parts])
