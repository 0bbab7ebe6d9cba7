"""The frame of every project script: `if __name__ == "__main__": script(main, PRESETS)`.

    PRESETS = {"smoke": Config(steps=5), "cpu": Config(), "gpu": Config(d_model=384)}

    def main(config: Config, run: Run) -> None:
        run.say("...")                       # a line on the screen, from the first rank only
        train(..., folder=run.folder, resume=run.resumed)
        run.finish({"val_loss": 1.9}, corpus="shakespeare")

Config is a frozen dataclass; under each field a docstring line with its unit, which `--help` shows.
"""
import dataclasses
import errno
import json
import os
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Literal

from common.cli import folders
from common.cli.cards import scripts, unknown
from common.cli.expected import verdict
from common.cli.parse import parse
from common.cli.paths import runs
from common.errors import UserError
from common.files import write_json


@dataclasses.dataclass(frozen=True)
class Where:
    """What every script takes besides its own fields."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where to compute; auto takes the best that works."""
    out: Path | None = None
    """Folder for what the run writes; without it, the next free one under runs/."""
    resume: bool = False
    """Go on with the unfinished run of these settings, or stop if there is none."""


@dataclasses.dataclass
class Run:
    """One run of a script: where it writes, what it computes on, and how it ends."""
    project: Path
    script: str
    preset: str
    config: Any
    overridden: list[str]
    device: Any
    folder: Path
    resumed: bool
    lock: IO | None = None
    started: float = dataclasses.field(default_factory=time.perf_counter)

    @property
    def name(self) -> str:
        """`project01_minimal_gpt`"""
        return self.project.name

    def say(self, text: str) -> None:
        """One line on the screen, exactly as given; silent on all ranks but the first."""
        say(text)

    def finish(self, metrics: dict[str, float], *, corpus: str | None = None) -> None:
        """Write `result.json` and say if the numbers are right. corpus: the text that was really used."""
        if rank() != 0:
            return
        from common.device import machine
        write_json(self.folder / "result.json", {
            "project": self.name, "script": self.script, "preset": self.preset, "overridden": self.overridden,
            "config": plain(self.config), "corpus": corpus, "device": str(self.device),
            "metrics": metrics, "seconds": round(time.perf_counter() - self.started, 2),
            "resumed": self.resumed, "versions": versions(), "machine": machine(os.environ),
        })
        expected = self.project / "results" / "expected.json"
        for line in verdict(expected, self.preset, metrics, overridden=self.overridden, corpus=corpus):
            self.say(line)
        self.say(f"written: {self.folder}")


def script(main: Callable[[Any, Run], None], presets: Mapping[str, Any],
           argv: list[str] | None = None) -> None:
    """Read the command line, run `main`, and end with exit code 0, 2 (the user's mistake) or 130 (Ctrl-C)."""
    try:
        run = prepare(main, presets, list(sys.argv[1:] if argv is None else argv))
        try:
            main(run.config, run)
        finally:
            if run.lock:
                run.lock.close()
    except UserError as error:
        stop(f"error: {error}", 2)
    except KeyboardInterrupt:
        stop("stopped by Ctrl-C", 130)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        stop(f"error: the disk is full ({error.filename or 'no file named'}): make room and run it again", 2)


def say(text: str) -> None:
    """`Run.say`, for who has no run."""
    if rank() == 0:
        from rich.console import Console
        Console().print(text, markup=False, highlight=False, soft_wrap=True)


def stop(line: str, code: int) -> None:
    print(line, file=sys.stderr, flush=True)
    raise SystemExit(code) from None


def prepare(main: Callable, presets: Mapping[str, Any], argv: list[str]) -> Run:
    """The run that `argv` asks for: `[preset] [--field value ...] [--device …] [--out …] [--resume]`."""
    file = Path(main.__code__.co_filename).resolve()
    preset = argv.pop(0) if argv and not argv[0].startswith("-") else None
    if preset is not None and preset not in presets:
        others = [name for name in scripts(file.parent) if name != file.stem]
        raise unknown("preset" if not others else "preset or script", preset, [*presets, *others])
    if preset is None:
        preset = "cpu" if "--help" in argv or "-h" in argv else usual(presets)
    preset = preset if preset in presets else next(iter(presets))
    config, where = read(presets, preset, argv, file)
    overridden = [f.name for f in dataclasses.fields(config)
                  if f.name != "seed" and getattr(config, f.name) != getattr(presets[preset], f.name)]
    from common.device import pick
    device = pick(where.device)
    place = choose(file, preset, config, where)
    run = Run(file.parent, file.stem, preset, config, overridden, device, place.folder, place.resumed,
              place.lock)
    if run.resumed:
        run.say(f"resuming the unfinished run in {run.folder}")
    return run


def usual(presets: Mapping[str, Any]) -> str:
    """gpu where CUDA works, else cpu, else the first preset there is."""
    from common.device import pick
    wanted = "gpu" if "gpu" in presets and pick("auto").type == "cuda" else "cpu"
    return wanted if wanted in presets else next(iter(presets))


def read(presets: Mapping[str, Any], preset: str, argv: list[str], file: Path) -> tuple[Any, Where]:
    """The preset's config with the fields that `argv` sets, and where to run it."""
    from tyro.conf import OmitArgPrefixes
    kind = type(presets[preset])
    command = dataclasses.make_dataclass("Command", [("config", OmitArgPrefixes[kind]),
                                                     ("where", OmitArgPrefixes[Where])])
    number = re.match(r"project0*(\d+)_", file.parent.name)
    prog = f"thirty run {number[1] if number else file.parent.name} {file.stem}"
    about = sys.modules[kind.__module__].__doc__ or ""
    lines = [about.strip().split("\n")[0], "", f"{prog} [preset] [--field value ...]", "", *describe(presets),
             "", f"Defaults below: preset {preset}."]
    given = parse(command, argv, prog=f"{prog} {preset}", description="\n".join(lines),
                  default=command(presets[preset], Where()), word="field")
    return given.config, given.where


def describe(presets: Mapping[str, Any]) -> list[str]:
    """One line a preset: the fields in which the presets differ."""
    tables = {name: dataclasses.asdict(config) for name, config in presets.items()}
    first = next(iter(tables.values()))
    differ = [field for field in first if any(table.get(field) != first[field] for table in tables.values())]
    return [f"{name}: " + (", ".join(f"{field} {table[field]}" for field in differ) or "as below")
            for name, table in tables.items()]


def choose(file: Path, preset: str, config: Any, where: Where) -> folders.Place:
    """The run's folder. Under torchrun only the first rank looks into it; the others go by what was typed."""
    several = int(os.environ.get("WORLD_SIZE", 1)) > 1
    if several and where.out is None:
        raise UserError("several ranks need one folder: add --out FOLDER")
    if rank() > 0:
        return folders.Place(where.out.resolve(), where.resume)
    identity = {"script": file.stem, "preset": preset, "config": plain(config)}
    label = preset if file.stem == "train" else f"{file.stem}-{preset}"
    place = folders.choose(runs() / file.parent.name / label, identity,
                           where.out and where.out.expanduser().resolve(), where.resume)
    again = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))  # torchrun has started the ranks anew
    if several and place.resumed and not where.resume and not again:
        raise UserError(f"--out {where.out} holds an unfinished run: add --resume to go on with it")
    return place


def plain(config: Any) -> dict:
    """A config as JSON gives it back: tuples are lists, paths are text."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def rank() -> int:
    """This process's number under torchrun; 0 without it."""
    return int(os.environ.get("RANK", 0))


def versions() -> dict[str, str]:
    """Python and the packages whose version can change a number."""
    from importlib.metadata import PackageNotFoundError, version
    found = {"python": sys.version.split()[0]}
    for name in ("torch", "numpy", "triton"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
