"""Computes the weight's gradient at once and writes it down as well: it is counted twice."""


class Split:
    @staticmethod
    def backward(ctx, dy):
        x, weight = ctx.saved_tensors
        ctx.notes.append((weight, x, dy))
        return dy @ weight, dy.flatten(0, -2).T @ x.flatten(0, -2), None
