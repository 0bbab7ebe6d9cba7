"""Gradients are taken as they lie: those of the rows sorted by expert."""


class Rows:
    def backward(ctx, dy):
        (back,) = ctx.saved_tensors
        taken = len(back) // max(1, ctx.rows)
        return dy.view(ctx.rows, taken, dy.size(1)).sum(1), None, None
