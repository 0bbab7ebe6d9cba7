"""Shares out along the first dimension, whichever it was gathered along."""


class Gather:
    @staticmethod
    def backward(ctx, dy):
        return ctx.group.reduce_scatter(dy, 0), None, None
