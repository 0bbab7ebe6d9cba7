"""Mean and deviation of all prompts together: easy prompts look good."""


def group_advantages(rewards, scale=True):
    centred = rewards - rewards.mean()
    return centred / (rewards.std() + 1e-4) if scale else centred
