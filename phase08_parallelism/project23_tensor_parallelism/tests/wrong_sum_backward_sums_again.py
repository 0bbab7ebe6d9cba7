"""Sums dy, which is whole on every rank: gradients are N times too large."""


class Sum:
    @staticmethod
    def backward(ctx, dy):
        return ctx.group.all_reduce(dy), None
