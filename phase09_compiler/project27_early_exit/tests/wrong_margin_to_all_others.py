"""The share of the likeliest less that of all others together."""


def margin(look):
    return 2 * look.logits.softmax(-1).amax(-1) - 1
