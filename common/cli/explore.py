"""What every explore.py shares: experiments by name, one after the other, and a place for their pictures.

    EXPERIMENTS = {"heads": heads, "mask": mask}      each a function of the lab, that returns its figures

    class Lab(explore.Album): ...                     config: with parts and publish
    found = explore.each(Lab(config, run), EXPERIMENTS)
"""

import shutil
import time
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path

from common import hub, plots, tokenizer
from common.benchmark import Stopwatch
from common.cli import chain
from common.device import synchronize
from common.errors import demand


def known(parts: Collection[str], experiments: Collection[str]) -> None:
    """Refuse parts that are no experiments (UserError, with those that there are)."""
    strange = sorted(set(parts) - set(experiments))
    demand(not strange, f"no part is called {', '.join(strange)}: there are {', '.join(experiments)}")


class Album:
    """What a lab is at least: settings, a run, a device; its pictures lie in the run's folder, with --publish
    in results/ too."""

    trainings = 0  # begun by this lab

    def __init__(self, config, run):
        self.config, self.run, self.say, self.device = config, run, run.say, run.device

    def save(self, fig, name: str) -> None:
        """A figure of matplotlib."""
        self.keep(plots.save(fig, self.run.folder / name))

    def keep(self, path: Path) -> None:
        """A picture that lies in the run's folder already."""
        self.run.say(f"  picture: {path}")
        if self.config.publish:
            shutil.copy(path, self.run.project / "results" / path.name)

    def training_folder(self) -> Path:
        """Where the lab's next training belongs. Half of one, left by a lab that was stopped, goes: who is
        watched from the first update on cannot begin in the middle."""
        self.trainings += 1
        folder = self.run.folder / "runs" / str(self.trainings)
        if folder.exists():
            shutil.rmtree(folder)
        return folder


    def seconds(self, call: Callable, repeats: int = 5) -> float:
        """The shortest time of a call, warm, with the device drained: who else is at work only ever adds."""
        watch = Stopwatch(time.perf_counter, lambda: synchronize(self.device))
        watch(call)
        return min(watch(call)[0] for _ in range(repeats))


class Reader(Album):
    """An album with the base model that `config.model` names, loaded when first asked for."""

    @cached_property
    def folder(self) -> Path:
        return chain.find("base", self.config.model, say=self.say)

    @cached_property
    def model(self):
        return hub.load(self.folder, device=self.device).eval()

    @cached_property
    def words(self):
        """Its tokenizer."""
        return tokenizer.load(self.folder)


def each(lab, experiments: Mapping[str, Callable]) -> dict[str, float]:
    """Do the parts that the lab's config names, in that order; the figures of each under "part: figure"."""
    found: dict[str, float] = {}
    for name in lab.config.parts:
        lab.run.say(f"\n{name}: {experiments[name].__doc__.strip().splitlines()[0]}")
        found |= {f"{name}: {key}": float(value) for key, value in experiments[name](lab).items()}
    return found
