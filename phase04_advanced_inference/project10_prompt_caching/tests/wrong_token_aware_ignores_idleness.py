"""Only size counts: a long prompt in use goes before a short one nobody wants."""


def token_aware(item, now):
    return -item.size
