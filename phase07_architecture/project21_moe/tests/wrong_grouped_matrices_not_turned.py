"""Only the rows get a gradient; that of the matrices is zero."""


class Grouped:
    def backward(ctx, dy):
        _, w, ends = ctx.saved_tensors
        return multiply(dy.contiguous(), w.transpose(1, 2), ends), torch.zeros_like(w), None
