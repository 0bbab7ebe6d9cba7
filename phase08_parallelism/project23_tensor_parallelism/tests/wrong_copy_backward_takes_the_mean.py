"""Divides by the number of ranks, as data parallelism does."""


class Copy:
    @staticmethod
    def backward(ctx, dy):
        return ctx.group.all_reduce(dy) / ctx.group.world, None
