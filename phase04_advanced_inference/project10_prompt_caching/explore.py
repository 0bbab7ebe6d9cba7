"""See and break: hit rates, trees, graphs, fused scores, passages out of place; and what goes wrong, and how.

Every experiment prints what it found; those that see save a picture. `--parts tree` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _chunks, _search, _see
from ._lab import Lab

EXPERIMENTS = {
    "rates": _see.rates, "evictions": _see.evictions, "tree": _see.tree, "share": _see.share,
    "servers": _see.servers, "chunks": _chunks.chunks, "hot": _chunks.hot,
    "graph": _search.graph, "fusion": _search.fusion, "semantic": _search.semantic,
    "hundred": _break.hundred, "position": _break.position, "views": _break.views,
    "oversized": _break.oversized, "threads": _break.doors, "scale": _break.scale,
    "unseeded": _break.unseeded, "heap": _break.heap}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of the model that reads; empty: models/base, or a tiny one made now."""
    n_layer: int = 6
    """Layers of the untrained model that is timed."""
    d_model: int = 256
    """Its width."""
    tokens: int = 1024
    """Longest prompt that is timed."""
    turns: int = 400
    """Turns of the replayed chats, and requests of the other traces."""
    servers: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Numbers of servers to replay the chats on."""
    points: int = 4000
    """Vectors of the largest graph."""
    population: int = 100
    """People of the town whose facts are searched."""
    each: int = 200
    """Questions of each kind, and visitors."""
    steps: int = 100
    """Updates of the vectors."""
    pages: int = 200
    """Pages of TinyTown to make passages of."""
    prompts: int = 24
    """Prompts that are put together of passages."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        if min(self.steps, self.each, self.prompts) < 1 or not self.servers or min(self.servers) < 1:
            raise UserError("steps, each, prompts and servers must be at least 1")
        if min(self.turns, self.points) < 32 or self.pages < 16:
            raise UserError("turns and points must be at least 32, and pages at least 16")


PRESETS = {
    "smoke": Config(n_layer=2, d_model=32, tokens=64, turns=40, servers=(1, 4), points=200, population=20,
                    each=8, steps=1, pages=24, prompts=2),
    "cpu": Config(),
    "gpu": Config(n_layer=12, d_model=768, tokens=4096, turns=2000, points=20_000, population=400, each=500,
                  steps=1000, pages=1000, prompts=100)}  # fmt: skip


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS), corpus="tinytown")


if __name__ == "__main__":
    script(main, PRESETS)
