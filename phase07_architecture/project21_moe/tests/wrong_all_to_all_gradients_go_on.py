"""Gradients take the same way again, not the way back."""


class AllToAll:
    def backward(ctx, dy):
        return send(dy[: sum(ctx.give)], ctx.give, ctx.take, ctx.group), None, None, None
