"""Divides dy among the terms, as if the sum were a mean."""


class Sum:
    @staticmethod
    def backward(ctx, dy):
        return dy / ctx.group.world, None
