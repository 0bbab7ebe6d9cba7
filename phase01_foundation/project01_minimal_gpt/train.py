"""Train a character GPT on a text, and watch it learn to write.

The course of a run: read the text, number its characters, train on the first nine tenths, judge on the last.
It ends with a sample, the loss curve as a picture, and whether the number is right.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import nn

from common import checkpoint, plots
from common.cli.script import script
from common.device import seed_all
from common.errors import UserError
from common.training import TrainConfig, train
from data import corpora

from .gpt import GPT, GPTConfig, loss
from .text import batch, complete, split, split_loss


@dataclass(frozen=True)
class Config:
    corpus: str = "shakespeare"
    """Name of a corpus, or a UTF-8 text file of your own."""
    n_layer: int = 4
    """Blocks, one above the other."""
    n_head: int = 4
    """Attention heads in a block."""
    d_model: int = 128
    """Numbers per token."""
    context: int = 64
    """Characters that the model sees at once."""
    dropout: float = 0.0
    """Share of numbers dropped in training; against learning a small text by heart."""
    batch_size: int = 12
    """Sequences in a step."""
    steps: int = 2000
    """Updates of the weights."""
    learning_rate: float = 4e-3
    """Highest size of an update; it warms up over 100 steps and falls to a tenth along a cosine."""
    eval_every: int = 250
    """Steps from one validation, sample and checkpoint to the next."""
    precision: str = "fp32"
    """fp32, or bf16 to multiply in bfloat16."""
    seed: int = 1337
    """Start of the random numbers: weights, batches, samples."""
    tracker: str = ""
    """trackio, tensorboard or wandb, to follow the run there too."""

    def __post_init__(self):
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}: a step needs at least 1 sequence")

    def train_config(self):
        return TrainConfig(
            steps=self.steps, learning_rate=self.learning_rate, min_learning_rate=self.learning_rate / 10,
            warmup=min(100, self.steps // 10), eval_every=self.eval_every, save_every=self.eval_every,
            precision=self.precision, keep_best=True)  # fmt: skip


PRESETS = {
    "smoke": Config(n_layer=2, n_head=2, d_model=64, context=32, batch_size=16, steps=200, learning_rate=5e-3,
                    eval_every=100),
    "cpu": Config(),
    "gpu": Config(n_layer=6, n_head=6, d_model=384, context=256, dropout=0.2, batch_size=64, steps=5000,
                  learning_rate=1e-3, precision="bf16"),
}


def read(corpus, say=print):
    """(text, name of what was really read): a known corpus, or the UTF-8 file that `corpus` names."""
    file = Path(corpus)
    if not file.suffix and not file.is_file():
        corpus = corpora.resolve(corpus, say=say)
        return corpora.load(corpus), corpus
    try:
        return file.read_text(encoding="utf-8"), file.name
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text (byte {error.start} is not a character): "
                        "save it as UTF-8, or choose another file") from None
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror}): name a text file or a corpus") from None


class Surprise(nn.Module):
    """What is made small: the mean loss of the model on a batch (inputs, targets)."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        inputs, targets = batch
        return loss(self.model(inputs), targets)


def build(config, n_symbols, device):
    """A new GPT of these sizes, its weights drawn from the seed."""
    seed_all(config.seed)
    sizes = {name: getattr(config, name) for name in ("n_layer", "n_head", "d_model", "dropout")}
    return GPT(GPTConfig(vocab_size=n_symbols, max_seq_len=config.context, **sizes)).to(device)


def fit(model, config, characters, train_ids, val_ids, folder, *, optimizer=None, resume=False, say=print):
    """Train the model in place, a sample at each evaluation into folder/samples; returns the history."""
    device = next(model.parameters()).device
    train_ids = train_ids.to(device)

    def batch_at(i):
        return batch(train_ids, config.context, config.batch_size, seed=config.seed * 1_000_003 + i)

    def sample(step, metrics):
        page = folder / "samples" / f"step_{step:05}.txt"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text(complete(model, characters, n=200, seed=config.seed), encoding="utf-8")

    history = train(Surprise(model), batch_at, config.train_config(), folder=folder, resume=resume, say=say,
                    evaluate=lambda: {"val_loss": split_loss(model, val_ids, most=200)},
                    on_eval=sample, optimizer=optimizer, tracker=config.tracker or None)  # fmt: skip
    best = checkpoint.read(folder / "best.safetensors")
    checkpoint.load_weights(Surprise(model), best["weights"])
    return history


def save(model, characters, path):
    """Everything that `generate` needs, in one file: sizes, vocabulary, weights."""
    checkpoint.write(path, {"config": asdict(model.config), "symbols": "".join(characters.symbols),
                            "weights": model.state_dict()})


def course(config, run, build, optimizer=None):
    """A whole run but for its verdict: (model made by `build`, characters, metrics, corpus)."""
    text, corpus = read(config.corpus, run.say)
    characters, train_ids, val_ids = split(text, config.context)
    model = build(config, len(characters), run.device)
    n_weights, blind = sum(p.numel() for p in model.parameters()), math.log(len(characters))
    run.say(f"{corpus}: {len(text):,} characters, {len(characters)} different; {n_weights:,} weights")
    run.say(f"guessing blindly would cost ln {len(characters)} = {blind:.2f} nats a character")

    history = fit(model, config, characters, train_ids, val_ids, run.folder, optimizer=optimizer,
                  resume=run.resumed, say=run.say)
    val_loss = split_loss(model, val_ids)
    run.say(f"\n{'-' * 30} what it writes now {'-' * 30}\n" + complete(model, characters, seed=config.seed))
    run.say(f"{'-' * 80}\nearlier samples: {run.folder / 'samples'}")
    picture = plots.loss_curve(history.series("loss"), history.series("val_loss"),
                               title=f"{corpus}: {val_loss:.3f} nats a character on unseen text",
                               levels={"blind guessing": blind})
    run.say(f"loss curve: {plots.save(picture, run.folder / 'loss.png')}")
    return model, characters, {"val_loss": val_loss, "bits_per_character": val_loss / math.log(2)}, corpus


def main(config, run):
    model, characters, metrics, corpus = course(config, run, build)
    save(model, characters, run.folder / "gpt.safetensors")
    run.finish(metrics, corpus=corpus)


if __name__ == "__main__":
    script(main, PRESETS)
