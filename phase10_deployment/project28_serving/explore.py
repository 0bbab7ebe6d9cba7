"""See and break: a server under load, its dashboard, its router; and what it is without each of its guards.

Every experiment prints what it found; most save a picture. `--parts latency` does that one only.
"""

from dataclasses import dataclass

from common.cli import explore
from common.cli.script import script
from common.errors import UserError

from . import _break, _see
from ._lab import Lab

EXPERIMENTS = {
    "latency": _see.latency, "dashboard": _see.dashboard, "routing": _see.routing,
    "overload": _break.overload, "hangup": _break.hangup, "replica": _break.replica,
    "sidechannel": _break.sidechannel, "lock": _break.lock}  # fmt: skip


@dataclass(frozen=True)
class Config:
    parts: tuple[str, ...] = tuple(EXPERIMENTS)
    """Which experiments."""
    model: str = ""
    """Folder or name of the model that is served; empty: models/sft, or a tiny one made now."""
    requests: int = 80
    """Requests of one load."""
    median: int = 16
    """Tokens of the middle answer; lengths are log-normal."""
    longest: int = 64
    """Tokens of the longest."""
    max_batch: int = 16
    """Requests that run at a time."""
    seconds: float = 8.0
    """How long a crowd keeps coming."""
    chats: int = 12
    """Conversations side by side."""
    guesses: int = 40
    """Secrets that a stranger looks for; and how often somebody tries to get in."""
    publish: bool = False
    """Also put the pictures into results/, where the lesson shows them."""

    def __post_init__(self):
        explore.known(self.parts, EXPERIMENTS)
        if min(self.requests, self.median, self.longest, self.chats, self.guesses) < 2 or self.max_batch < 2:
            raise UserError("requests, median, longest, max_batch, chats and guesses must be at least 2")
        if self.seconds <= 0:
            raise UserError("seconds must be above 0")


PRESETS = {
    "smoke": Config(requests=8, median=3, longest=6, max_batch=2, seconds=0.4, chats=2, guesses=3),
    "cpu": Config(),
    "gpu": Config(requests=1000, median=128, longest=512, max_batch=128, seconds=30)}  # fmt: skip


def main(config, run):
    run.finish(explore.each(Lab(config, run), EXPERIMENTS))


if __name__ == "__main__":
    script(main, PRESETS)
