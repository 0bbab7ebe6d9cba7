"""The logit of the target, without the logsumexp that makes it a probability."""


def token_logprobs(head, hidden, targets, chunk=512):

    def some(h, ids):
        logits = head(h).float()  # (chunk, V)
        return logits.gather(1, ids[:, None]).squeeze(1)

    parts = zip(hidden.split(chunk), targets.split(chunk), strict=True)
    return torch.cat([checkpoint(some, h, ids, use_reentrant=False) for h, ids in parts])
