"""The mean of what comes back, where it is the sum."""


class Rows:
    def backward(ctx, dy):
        (back,) = ctx.saved_tensors
        taken = len(back) // max(1, ctx.rows)
        return dy[back].view(ctx.rows, taken, dy.size(1)).sum(1) / max(1, taken), None, None
