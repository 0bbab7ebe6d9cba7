"""What cutting costs on one GPU: the products of a block, whole and as the parts of 2 and 4 virtual ranks."""

import torch
import torch.nn.functional as F

GOAL = {"unit": "s", "better": "lower", "goal": ("<=", 1.05)}
SENTENCE = (
    "On one GPU the products of a block in {} parts, one after the other, take at most 1.05 times as long"
    " as whole"
)


def bench_products(b):
    """No speed is claimed where there is one GPU: only that parts of matrices are no slower to multiply."""
    for parts in (2, 4):
        if b.device.type == "cuda":  # pragma: no cover - gpu
            measure(b, parts)
        else:
            b.not_run(f"products-{parts}", SENTENCE.format(parts), why="no GPU here", **GOAL)


def measure(b, parts):  # pragma: no cover - gpu
    """(tokens, C) through A (4C, C) and B (C, 4C) in bfloat16."""
    C, n = 4096, 8192
    x = torch.randn(n, C, device=b.device, dtype=torch.bfloat16)
    A, B = (
        torch.randn(*shape, device=b.device, dtype=torch.bfloat16) / 64 for shape in ((4 * C, C), (C, 4 * C))
    )
    cut = [(a.contiguous(), c.contiguous()) for a, c in zip(A.chunk(parts), B.chunk(parts, 1), strict=True)]

    def whole():
        return F.linear(F.linear(x, A), B)[:8]

    def split():
        return sum(F.linear(F.linear(x, a), c)[:8] for a, c in cut)

    run = b.compare(
        {"whole": whole, "parts": split}, check=lambda p, q: (p - q).abs().max() < 0.05 * p.abs().max()
    )
    b.claim(
        f"products-{parts}",
        SENTENCE.format(parts),
        measured=run.figures("parts"),
        bound=1.0,
        settings={"tokens": n, "channels": C},
        **GOAL,
        why="the same products; narrower matrices fill the last row of tiles less well",
    )
