"""scale False divides all the same."""


def group_advantages(rewards, scale=True):
    centred = rewards - rewards.mean(1, keepdim=True)
    return centred / (rewards.std(1, keepdim=True) + 1e-4)
