"""Rounds on the way back as well: small gradients become 0."""


class Straight:
    def backward(ctx, dy):
        return dy.round()
