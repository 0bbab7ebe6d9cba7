"""Let a trained model write: any prompt, any temperature, top-k, top-p.

It takes the newest finished run of this project, or the one that `--run_folder` names. The same seed gives
the same text.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from common import checkpoint
from common.cli.paths import runs
from common.cli.script import script
from common.errors import UserError

from . import train
from .gpt import GPT, GPTConfig
from .text import Characters, complete, split


@dataclass(frozen=True)
class Config:
    prompt: str = ""
    """What the text begins with; empty: a new line."""
    length: int = 500
    """Characters to write."""
    temperature: float = 0.8
    """0 takes the likeliest character, 1 draws as the model says, above 1 draws more wildly."""
    top_k: int = 0
    """Draw from the k likeliest characters only; 0: from all."""
    top_p: float = 1.0
    """Draw from the likeliest characters that make up this share, in (0, 1]."""
    seed: int = 1337
    """Start of the random numbers."""
    run_folder: str = ""
    """Folder of a finished run; empty: the newest."""

    def __post_init__(self):
        if self.length < 1:
            raise UserError(f"length is {self.length}: ask for at least 1 character")
        if not self.temperature >= 0:
            raise UserError(f"temperature is {self.temperature}: it must be 0 (the likeliest) or more")
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}: it must be 0 (no limit) or a count")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}: it is a share, above 0 and up to 1")


PRESETS = {"smoke": Config(length=80), "cpu": Config()}


def load(folder, device="cpu"):
    """(model, characters) of a finished run. UserError where there is none."""
    saved = checkpoint.read(Path(folder) / "gpt.safetensors")
    model = GPT(GPTConfig(**saved["config"])).to(device)
    model.load_state_dict(saved["weights"])
    return model.eval(), Characters(saved["symbols"])


def newest(preset=None, corpus=None):
    """The folder of the run that finished last, of this preset and corpus if given; None without one."""
    done = {}
    for path in (runs() / Path(__file__).parent.name).glob("*/gpt.safetensors"):
        if (result := path.with_name("result.json")).exists():
            found = json.loads(result.read_text(encoding="utf-8"))
            if preset in (None, found["preset"]) and corpus in (None, found["corpus"]):
                done[result.stat().st_mtime] = path.parent
    return done[max(done)] if done else None


def trained(config, folder, device, say=print):
    """(model, characters) trained now, in `folder`, as `train` would with this config."""
    characters, train_ids, val_ids = split(train.read(config.corpus, say)[0], config.context)
    model = train.build(config, len(characters), device)
    train.fit(model, config, characters, train_ids, val_ids, folder, say=say)
    train.save(model, characters, folder / "gpt.safetensors")
    return model.eval(), characters


def main(config, run):
    folder = Path(config.run_folder) if config.run_folder else newest()
    if folder:
        run.say(f"the model of {folder}")
        model, characters = load(folder, run.device)
    else:
        run.say("no finished run yet, so a tiny model is trained first (`thirty run 1` makes a better one)")
        model, characters = trained(train.PRESETS["smoke"], run.folder / "tiny", run.device, run.say)
    text = complete(model, characters, config.prompt, config.length, temperature=config.temperature,
                    k=config.top_k, p=config.top_p, seed=config.seed)  # fmt: skip
    run.say(text)
    (run.folder / "text.txt").write_text(text, encoding="utf-8")
    run.finish({"characters": len(text)})


if __name__ == "__main__":
    script(main, PRESETS)
