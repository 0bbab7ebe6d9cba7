"""How figures are written, on the screen and in a README: the same words in both places."""
from common.results import Claim, Figure

SYMBOLS = {">=": "≥", "<=": "≤", ">": ">", "<": "<", "==": "="}
SCALES = {"s": ((1, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
          "bytes": ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "bytes"))}


def number(value: float) -> str:
    """Four significant digits, and whole numbers from a thousand on: 1.886, 25,431."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def quantity(value: float, unit: str) -> str:
    """A number with its unit: 0.0292 s is `29.2 ms`, 1.5e9 bytes are `1.5 GB`."""
    for scale, name in SCALES.get(unit, ()):
        if abs(value) >= scale:
            return f"{number(value / scale)} {name}"
    return f"{number(value)} {unit}"


def judged(claim: Claim, value: float | None) -> str:
    """A value of what the goal speaks of: a ratio (`1.96×`) where there is a baseline, else in the unit."""
    if value is None:
        return ""
    return f"{value:.3g}×" if claim.baseline else quantity(value, claim.unit)


def outcome(claim: Claim) -> str:
    """The judged figure with its interval: `1.96× [1.90, 2.03]`."""
    if claim.judged is None:
        return "not run"
    said = judged(claim, claim.judged)
    if claim.interval:
        said += " [{}, {}]".format(*(f"{end:.3g}" for end in claim.interval))
    return said + (", no difference seen" if undecided(claim) else "")


def undecided(claim: Claim) -> bool:
    """A ratio whose interval holds 1; or one within 1 % of 1 that has no interval."""
    if not claim.baseline:
        return False
    low, high = claim.interval or (claim.judged / 1.01, claim.judged * 1.01)
    return low <= 1 <= high and claim.judged != 1


def goal(claim: Claim) -> str:
    """`≥ 1.5×`; the unit is the baseline's or ours, also where nothing was run."""
    sign, value = SYMBOLS[claim.goal["op"]], claim.goal["value"]
    return f"{sign} {number(value)}" if claim.verdict is None else f"{sign} {judged(claim, value)}"


def side(figure: Figure | None, unit: str) -> str:
    """`nanoGPT: 29.2 ms, unsteady`"""
    if figure is None:
        return ""
    return f"{figure.name}: {quantity(figure.value, unit)}" + (", unsteady" if figure.unsteady else "")


def cells(claim: Claim) -> dict[str, str]:
    """One row: column's name -> text."""
    return {"claim": claim.claim, "baseline": side(claim.baseline, claim.unit),
            "ours": side(claim.ours, claim.unit), "measured [95 %]": outcome(claim), "goal": goal(claim),
            "bound": judged(claim, claim.bound), "predicted": judged(claim, claim.prediction),
            "verdict": claim.verdict or "not run"}


def notes(claim: Claim) -> list[str]:
    """What the row has no room for: why, how much memory, the counts, and how it was measured."""
    said = [claim.why] if claim.why else []
    for figure in filter(None, (claim.baseline, claim.ours)):
        parts = [f"{name} {number(value)}" for name, value in figure.counts.items()]
        if figure.peak_memory is not None:
            parts.append(f"peak memory {quantity(figure.peak_memory, 'bytes')}")
        if figure.cv is not None:
            parts.append(f"CV {figure.cv:.1%}")
        if parts:
            said.append(f"{figure.name}: {', '.join(parts)}")
    shown = [f"{key} {number(value) if isinstance(value, int | float) else value}"
             for key, value in claim.settings.items() if key != "sweep"]
    return said + ([", ".join(shown)] if shown else [])


def sweep(claim: Claim) -> list[tuple[str, list[str]]]:
    """The rows (name, cells) of a claim's sweep, the size that decides first; empty without one."""
    found = claim.settings.get("sweep")
    if not found:
        return []
    rows = [(found["over"], [number(row["at"]) for row in found["rows"]]),
            ("speed-up", [f"{row['ratio']:.3g}×" for row in found["rows"]])]
    even = found["break_even"]
    return [*rows, ("breaks even at", [number(even) if even is not None else "no size tried"])]


def machine(values: dict) -> str:
    """`Intel Xeon …, 2 cores, 2 threads`"""
    counts = {key: f"{values[key]} {key if values[key] > 1 else key[:-1]}" for key in ("cores", "threads")
              if values.get(key)}
    return ", ".join([values[key] for key in ("cpu", "gpu") if values.get(key)] + list(counts.values()))
