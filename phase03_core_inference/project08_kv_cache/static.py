"""One decode step as one graph: compiled on a CPU, recorded and replayed on a GPU.

Came before: `StaticCache`, of which nothing changes its shape from step to step. New here: what that is for.
A step of a small model on a GPU is some three hundred launches of kernels that each take less time than their
launch; recorded once, it is one. On a CPU launches are cheap, and a matrix product with one row is not: a
compiler can read the weights in order, once, nearly as fast as memory gives them.

Seam: the surgery (`one_row`), then a function in the model's place for single tokens (`decode_ragged`).
Ansel et al. 2024, "PyTorch 2", ASPLOS (torch.compile); gpt-fast (a static cache and a compiled step).
"""

import torch
from torch import nn

from common.errors import demand
from common.exercise import exercise
from common.model import swap


class OneRow(nn.Linear):
    """A linear layer that, compiled, reads its weight row by row where there is a single row of inputs.

    A library's product for one row walks over several rows of the weight at once, and memory likes that less.
    """

    stands_for = nn.Linear  # it computes the same, so a model with it can be saved

    @exercise
    def forward(self, x):
        """(..., C) -> (..., out). Compiled and with a single row in x, a fused sum of products; else as ever.

        Not compiled, the product of weight and x would be written to memory: never do it there.
        """
        if not (torch.compiler.is_compiling() and x.numel() == x.size(-1)):
            return super().forward(x)
        y = (self.weight * x.unsqueeze(-2)).sum(-1)  # (..., out, C) -> (..., out), fused: never in memory
        return y if self.bias is None else y + self.bias


def one_row(model):
    """Have every linear layer read its weight in order when it is compiled for one row; returns the model."""

    def make(old):
        old.__class__ = OneRow  # the weights, their names and their ties stay
        return old

    return swap(model, nn.Linear, make)


def compiled(model, backend="inductor"):
    """The model as a step of single tokens in one graph: every shape is fixed, so nothing is compiled twice.

    The first call with a batch size compiles, for half a minute; `fullgraph`: what would break it raises.
    """
    return torch.compile(model, fullgraph=True, dynamic=False, backend=backend)


class Replayed:  # pragma: no cover - gpu
    """A step recorded as a CUDA graph: step(tokens (B, 1), positions=(B, 1), caches=…) -> logits (B, 1, V).

    It holds the addresses of the caches it was recorded with: to begin a new text, go on with the same ones.
    The logits are overwritten by the next step. UserError for other caches or another batch.
    """

    def __init__(self, step, caches, B):
        device = caches[0].k.device
        self.caches, self.graph = caches, torch.cuda.CUDAGraph()
        self.tokens, self.positions = (torch.zeros(B, 1, dtype=torch.long, device=device) for _ in range(2))
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(side):  # libraries allocate in their first calls
            for _ in range(3):
                step(self.tokens, positions=self.positions, caches=caches)
        torch.cuda.current_stream().wait_stream(side)
        with torch.no_grad(), torch.cuda.graph(self.graph):
            self.logits = step(self.tokens, positions=self.positions, caches=caches)

    def __call__(self, tokens, *, positions, caches):
        demand(caches is self.caches, "this graph writes into the caches it was recorded with: pass those")
        demand(tokens.shape == self.tokens.shape, f"recorded for {len(self.tokens)} rows, not {len(tokens)}")
        self.tokens.copy_(tokens)
        self.positions.copy_(positions)
        self.graph.replay()
        return self.logits


def step_for(model, caches, B, backend="inductor"):
    """The fastest step there is: compiled on a CPU; on a GPU recorded, which needs no compiler."""
    if caches[0].k.device.type == "cuda":
        return Replayed(model, caches, B)  # pragma: no cover - gpu
    return compiled(model, backend)
