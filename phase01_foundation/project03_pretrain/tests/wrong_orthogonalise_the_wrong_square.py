"""Uses xᵀx on the left, as if every matrix were square."""


def orthogonalise(g, steps=5):
    a, b, c = 3.4445, -4.7750, 2.0315
    x = g.bfloat16() / g.norm().clamp(min=1e-7)
    for _ in range(steps):
        square = x.T @ x
        x = a * x + (b * square + c * square @ square) @ x
    return x
