"""Sends back the true slope of round, which is 0 almost everywhere: nothing learns."""


class Straight:
    def backward(ctx, dy):
        return dy * 0
