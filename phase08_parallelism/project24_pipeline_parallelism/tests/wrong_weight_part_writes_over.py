"""Sets the gradient in place of adding to it: only the last micro-batch counts."""


def weight_part(notes):
    for weight, x, dy in notes:
        weight.grad = dy.flatten(0, -2).T @ x.flatten(0, -2)
    notes.clear()
