"""What splitting the backward pass costs on one GPU: blocks forwards and backwards, in one and two parts."""

import copy

import torch

from common.model import Block, ModelConfig, Rope

from .split import split, weight_part

GOAL = {"unit": "s", "better": "lower", "goal": ("<=", 1.05)}
SENTENCE = (
    "On one GPU forward and backward of four blocks in two parts take at most 1.05 times as long as whole"
)


def bench_split(b):
    """No speed is claimed of a pipeline where there is one GPU: only that the split costs next to nothing."""
    if b.device.type == "cuda":  # pragma: no cover - gpu
        measure(b)
    else:
        b.not_run("split-gpu", SENTENCE, why="no GPU here", **GOAL)


def measure(b):  # pragma: no cover - gpu
    """Blocks of 2048 channels on 4096 tokens, in bfloat16."""
    config = ModelConfig(d_model=2048, n_head=16, n_kv_head=8, d_ff=5632, max_seq_len=2048)
    torch.manual_seed(0)
    whole = torch.nn.ModuleList(Block(config) for _ in range(4)).to(b.device, torch.bfloat16)
    parts = copy.deepcopy(whole)
    notes = split(parts)
    positions = torch.arange(2048, device=b.device)
    rope = Rope(config.head_dim, config.rope_theta)(positions)
    x = torch.randn(2, 2048, 2048, device=b.device, dtype=torch.bfloat16, requires_grad=True)

    def run(blocks, notes):
        y = x
        for block in blocks:
            y = block(y, rope=rope, positions=positions)
        for p in (x, *blocks.parameters()):
            p.grad = None
        y.float().square().mean().backward()
        weight_part(notes)
        return blocks[0].ffn.w_up.weight.grad[:8].float()

    found = b.compare({"whole": lambda: run(whole, []), "in two parts": lambda: run(parts, notes)},
                      check=lambda p, q: (p - q).abs().max() <= 0.05 * p.abs().max())  # fmt: skip
    b.claim(
        "split-gpu",
        SENTENCE,
        measured=found.figures("in two parts"),
        bound=1.0,
        settings={"tokens": 4096, "channels": 2048},
        why="the same products in another order",
        **GOAL,
    )
