"""The value behind the last token is not zero: the mask is forgotten."""


def gae(rewards, values, mask, gamma=1.0, lam=0.95):
    values, after = values, torch.zeros_like(values[:, 0])  # (B, L), (B,)
    advantages = torch.zeros_like(values)
    for t in reversed(range(values.size(1))):
        following = values[:, t + 1] if t + 1 < values.size(1) else torch.zeros_like(after)
        after = (rewards[:, t] + gamma * following - values[:, t] + gamma * lam * after) * mask[:, t]
        advantages[:, t] = after
    return advantages
