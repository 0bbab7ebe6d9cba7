"""Lets the short ones go first: the sign is wrong."""


def token_aware(item, now):
    return (now - item.used + 1) * item.size
