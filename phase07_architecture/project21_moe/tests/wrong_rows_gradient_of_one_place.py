"""A row that was taken twice gets the gradient of one of its places."""


class Rows:
    def backward(ctx, dy):
        (back,) = ctx.saved_tensors
        taken = len(back) // max(1, ctx.rows)
        return dy[back].view(ctx.rows, taken, dy.size(1)).select(1, 0) if len(dy) else dy, None, None
