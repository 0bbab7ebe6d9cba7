"""Is the number right? A run's metrics against `results/expected.json` (DESIGN 12.12)."""
import json
import math
from pathlib import Path

CAUSES = ("usual causes: an edited technique file, another version of torch, too few steps, "
          "a run resumed with other code")


def verdict(path: Path, preset: str, metrics: dict, *, overridden: list[str],
            corpus: str | None = None) -> list[str]:
    """Lines to print after a run. A band is for one preset as it stands, on one corpus."""
    bands = json.loads(path.read_text(encoding="utf-8")).get(preset, {}) if path.is_file() else {}
    bands = {name: band for name, band in bands.items() if name in metrics}
    if not bands:
        return [f"no expected band for preset {preset} yet"]
    if overridden:
        return [f"{', '.join(overridden)} changed: the expected band of preset {preset} does not apply"]
    return [line for name, band in bands.items()
            for line in compare(name, metrics[name], band, preset, corpus)]


def compare(name: str, value: float, band: dict, preset: str, corpus: str | None) -> list[str]:
    middle, half = (band["low"] + band["high"]) / 2, (band["high"] - band["low"]) / 2
    places = min(4, max(0, -math.floor(math.log10(half)))) if half > 0 else 4
    expected = f"{middle:.{places}f} ± {half:.{places}f}"
    label = name.replace("_", " ")
    if corpus and band.get("corpus", corpus) != corpus:
        return [f"{label} {value:.{places}f}; {expected} is expected on {band['corpus']}, not on {corpus}"]
    if band["low"] <= value <= band["high"]:
        return [f"{label} {value:.{places}f}, expected {expected} for preset {preset}"]
    return [f"{label} {value:.{places + 1}f}, expected {expected} for preset {preset}: outside the band",
            CAUSES]
