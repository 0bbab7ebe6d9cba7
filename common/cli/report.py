"""Verb report: what READMEs show of the results, between `<!-- name:begin -->` and `<!-- name:end -->`.

The root's README has the blocks map and ledger; a project's README has results, and may have expected.
Nothing in them is typed: map and ledger come from the cards and from the headline of each result file,
results from `results/<device>.json` and `profile_<device>.json`, expected from `results/expected.json`.
"""
import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from common.cli import tables
from common.cli.cards import Card, cards
from common.cli.paths import ROOT
from common.errors import UserError
from common.files import write_text
from common.results import Claim, Result, read

NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Report:
    check: bool = False
    """Write nothing; name each README that is out of date, and exit with code 1 if there is one."""

    def __call__(self) -> int:
        stale, broken = 0, 0
        for path, text_of in readmes(ROOT):
            name = path.relative_to(ROOT).as_posix()
            try:
                text = text_of()
            except UserError as error:
                print(f"{name} cannot be written: {error}", file=sys.stderr)
                broken += 1
                continue
            if text != path.read_text(encoding="utf-8"):
                stale += 1
                self.mend(path, name, text)
        if not stale and not broken:
            print("every README is up to date")
        return 1 if broken or (self.check and stale) else 0

    def mend(self, path: Path, name: str, text: str) -> None:
        if self.check:
            print(f"{name} is out of date: run ./thirty report", file=sys.stderr)
        else:
            write_text(path, text)
            print(f"written: {name}")


def readmes(root: Path) -> Iterator[tuple[Path, Callable[[], str]]]:
    """(README, what makes the text that should stand in it) for the root and every project that has one."""
    everything = cards(root)
    makers = [(root / "README.md", partial(of_root, root, everything)),
              *((card.folder / "README.md", partial(of_project, card)) for card in everything)]
    return ((path, make) for path, make in makers if path.is_file())


def of_root(root: Path, everything: Sequence[Card]) -> str:
    return fill(root / "README.md", {"map": the_map(everything), "ledger": ledger(everything)})


def of_project(card: Card) -> str:
    blocks = {"results": measured(card), "expected": expected(card.folder / "results" / "expected.json")}
    return fill(card.folder / "README.md", blocks, may_lack=("expected",))


def fill(path: Path, blocks: dict[str, str], may_lack: Sequence[str] = ()) -> str:
    """The file's text with each block between its two marks; UserError where a block has none, or several."""
    text = path.read_text(encoding="utf-8")
    for name, inside in blocks.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        new = f"{begin}\n{inside}\n{end}"
        text, found = re.subn(f"{begin}\n.*?{end}", lambda _, new=new: new, text, flags=re.DOTALL)
        if found != 1 and (found or name not in may_lack):
            raise UserError(f"the lines {begin} and {end} must stand in it once, and are there {found} times")
    return text


def grid(head: Sequence[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    cells = ([cell.replace("|", "\\|").replace("\n", " ") for cell in line] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


# --- the root -----------------------------------------------------------------------------------------------

def the_map(everything: Sequence[Card]) -> str:
    """A table a phase: number, project, insight, tier, week."""
    parts = []
    for phase, group in groupby(everything, key=lambda card: card.phase):
        title = f"**Phase {int(phase[5:7])}: {phase.split('_', 1)[1].replace('_', ' ')}**"
        rows = [(str(card.number), link(card) if card.built else f"{card.title} (not built yet)",
                 card.insight, card.tier, str(card.week)) for card in group]
        parts.append(f"{title}\n\n" + grid(("", "project", "insight", "tier", "week"), rows))
    return "\n\n".join(parts)


def link(card: Card) -> str:
    """The title, linked to its lesson where there is one."""
    return f"[{card.title}]({card.phase}/{card.name}/README.md)" if card.built else card.title


def ledger(everything: Sequence[Card]) -> str:
    """Number, project, claim, CPU, GPU and status of all projects; what nobody measured says so."""
    head = ("", "project", "claim", "CPU", "GPU", "status")
    return grid(head, [(str(card.number), link(card), *standing(card)) for card in everything])


def standing(card: Card) -> tuple[str, str, str, str]:
    """claim, CPU, GPU, status. The claim is the headline's, as the bench words it; else the card's."""
    found = results(card)
    cpu = [headline(result) for name, result in found.items() if name == "cpu"]
    gpu = [f"{name}: {headline(result)}" for name, result in found.items() if name != "cpu"]
    claims = [result.headline.claim for result in found.values()]
    status = "measured" if found else "built" if card.built else "not built yet"
    return (*claims, card.claim)[0], "".join(cpu) or NOT_MEASURED, "; ".join(gpu) or NOT_MEASURED, status


def headline(result: Result) -> str:
    """`1.96× [1.90, 2.03], goal ≥ 1.5×: met`"""
    claim = result.headline
    if claim.verdict is None:
        return "not run"
    return f"{tables.outcome(claim)}, goal {tables.goal(claim)}: {claim.verdict}"


def results(card: Card) -> dict[str, Result]:
    """device -> its result, the CPU first. UserError for a file that is none, or that a quick bench wrote."""
    paths = [path for path in (card.folder / "results").glob("*.json")
             if path.stem != "expected" and not path.stem.startswith("profile_")]
    found = {path.stem: read(path) for path in sorted(paths, key=lambda p: (p.stem != "cpu", p))}
    for name, result in found.items():
        if result.mode != "full" or result.device != name:
            raise UserError(f"results/{name}.json holds a {result.mode} result of {result.device}: "
                            f"measure again with ./thirty bench {card.number} --full")
    return found


# --- a project ----------------------------------------------------------------------------------------------

def measured(card: Card) -> str:
    """Everything under "Measure it" that is generated: a part a device, and the profiles."""
    found = results(card)
    parts = [of_device(result) for result in found.values()]
    if "cpu" not in found:
        parts.append(f"On a CPU: not measured; `./thirty bench {card.number} --full` measures it.")
    if not set(found) - {"cpu"}:
        parts.append("On a GPU: not measured.")
    parts += [profiled(json.loads(path.read_text(encoding="utf-8")))
              for path in sorted((card.folder / "results").glob("profile_*.json"))]
    return "\n\n".join(parts)


def of_device(result: Result) -> str:
    """The claims as a table, then each one's reasons, counts and sweep, then where they were measured."""
    rows = [tables.cells(claim) for claim in result.claims]
    where = [f"Measured on {tables.machine(result.machine)}", f"Python {result.versions.get('python')}",
             f"torch {result.versions.get('torch')}", result.date, f"commit {result.commit}",
             *(f"{name} {version}" for name, version in result.rivals.items())]
    notes = [f"- *{claim.claim}*: {'; '.join(said)}" for claim in result.claims
             if (said := tables.notes(claim))]
    sweeps = [swept(claim) for claim in result.claims if tables.sweep(claim)]
    parts = [f"**{result.device}**", grid(list(rows[0]), (row.values() for row in rows)), "\n".join(notes),
             *sweeps, ", ".join(where) + "."]
    return "\n\n".join(filter(None, parts))


def swept(claim: Claim) -> str:
    """The size that decides, one column a size, and where it breaks even."""
    (over, sizes), (name, ratios), (even, at) = tables.sweep(claim)
    return grid([over, *sizes], [[name, *ratios]]) + f"\n\n*{claim.claim}*: {even} {at[0]}."


def profiled(found: dict) -> str:
    """Where the time goes: the largest operations."""
    peak = max((held for _, held in found["memory"]), default=0)
    rows = [(f"`{op['name']}`", str(op["calls"]), f"{op['ms']:.3g}", f"{op['share']:.0%}")
            for op in found["operations"]]
    spent, held = tables.quantity(found["seconds"], "s"), tables.quantity(peak, "bytes")
    return (f"Where the time goes on {found['device']}: {found['steps']} calls took {spent} and held at most "
            f"{held} of new tensors.\n\n" + grid(("operation", "calls", "own ms", "share"), rows))


def expected(path: Path) -> str:
    """The bands of every preset that was run, as a table."""
    if not path.is_file():
        return "No preset has an expected band yet."
    bands = json.loads(path.read_text(encoding="utf-8"))
    rows = [(preset, metric.replace("_", " "), *(f"{band[key]:.4g}" for key in ("mean", "sd", "low", "high")),
             ", ".join(map(str, band["seeds"])), band["machine"])
            for preset, metrics in bands.items() for metric, band in metrics.items()]
    return grid(("preset", "metric", "mean", "sd", "from", "to", "seeds", "machine"), rows)
