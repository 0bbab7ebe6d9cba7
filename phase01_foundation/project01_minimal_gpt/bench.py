"""Measure the claims: how soon ours reaches nanoGPT's loss, the loss after as many steps, the time of a step.

nanoGPT runs as it ships, from $THIRTY_RIVALS, with its README's recipe for this kind of machine. It and our
`fast` are started in turn as whole commands: start, evaluations, samples and checkpoints included.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from common.benchmark import values
from common.cli import launch
from common.cli.bench import bench
from common.device import matmul_parameters, model_flops, seed_all
from common.errors import UserError
from common.results import Figure
from common.training import adamw

from . import fast, train
from .attention import Attention, merge_heads
from .gpt import FeedForward
from .text import Characters, batch

RECIPES = {  # nanoGPT's README, for the sizes of our presets cpu and gpu
    "cpu": "--device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 --batch_size=12 "
           "--n_layer=4 --n_head=4 --n_embd=128 --dropout=0.0",
    "cuda": "--device=cuda",
}  # fmt: skip
SENTENCES = {
    "time-to-loss": "Reaches nanoGPT's final loss in at most two thirds of its time",
    "loss-at-equal-steps": "After equally many steps the loss is at least 0.05 lower than nanoGPT's",
    "step": "A training step takes no longer than nanoGPT's",
    "step-alike": "Nor does a step with nanoGPT's choices: torch's own attention, exact GELU, no biases",
}  # fmt: skip


class NanoGPT:
    """A copy of the rival in a folder of its own, with our text as its data."""

    def __init__(self, checkout, folder, text, recipe, steps):
        self.folder = folder / "nanoGPT"
        shutil.copytree(checkout, self.folder, ignore=shutil.ignore_patterns(".git"))
        (self.folder / "data" / "shakespeare_char" / "input.txt").write_text(text, encoding="utf-8")
        self.python("data/shakespeare_char/prepare.py")
        self.recipe = [*recipe.split(), f"--max_iters={steps}", f"--lr_decay_iters={steps}",
                       f"--warmup_iters={min(100, steps // 10)}", f"--eval_interval={min(250, steps)}",
                       "--always_save_checkpoint=True"]

    def python(self, *arguments):
        """What a script of the rival prints; UserError with its last words where it fails."""
        done = subprocess.run([sys.executable, *arguments], cwd=self.folder, env=launch.environment(),
                              capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"nanoGPT's {arguments[0]} failed: {done.stderr.strip().splitlines()[-1]}")
        return done.stdout

    def train(self, *more):
        """The validation loss of the last estimate, after training with the recipe."""
        said = self.python("train.py", "config/train_shakespeare_char.py", *self.recipe, *more)
        return float(re.findall(r"^step \d+: .* val loss ([\d.]+)", said, flags=re.M)[-1])

    def loss(self, batches):
        """The loss of the model just trained, from its own `estimate_loss` over so many batches."""
        return self.train("--init_from=resume", f"--eval_iters={batches}")

    def step(self, batch):
        """(its model, a function that makes one training step with its own optimizer)."""
        spec = importlib.util.spec_from_file_location("nanogpt_model", self.folder / "model.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sizes = dict(re.findall(r"--(n_layer|n_head|n_embd|block_size)=(\d+)", " ".join(self.recipe)))
        V = int(batch[0].max()) + 1
        model = module.GPT(module.GPTConfig(vocab_size=V, bias=False, dropout=0.0,
                                            **{name: int(size) for name, size in sizes.items()}))
        optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), batch[0].device.type)
        return model, stepper(model, lambda: model(*batch)[1], optimizer)


def stepper(model, loss_now, optimizer):
    """A function that makes one training step and returns the loss before the first one."""
    first = []

    def step():
        loss = loss_now()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        first.append(loss.item()) if not first else None
        return first[0]

    return step


def our_step(config, batch, device, dress=lambda model: model):
    """The same for our model, with the optimizer of our runs."""
    V = int(batch[0].max()) + 1
    objective = train.Surprise(dress(train.build(config, V, device)))
    optimizer = adamw(objective, config.train_config())
    return objective.model, stepper(objective, lambda: objective(batch), optimizer)


def our_run(module, preset, steps, folder):
    """The validation loss that a whole command of ours reaches, over the whole split."""
    shutil.rmtree(folder, ignore_errors=True)
    arguments = [preset, "--steps", str(steps), "--eval_every", str(steps), "--out", str(folder)]
    with open(folder.with_suffix(".log"), "w", encoding="utf-8") as log:
        code = launch.start(module.__name__, arguments, output=log)
    if code:
        raise UserError(f"our {module.__name__} {preset} failed with exit code {code}; see {log.name}")
    return json.loads((folder / "result.json").read_text(encoding="utf-8"))["metrics"]["val_loss"]


def sample_batch(text, config, device):
    """One batch of the text, every symbol of it present."""
    ids = torch.tensor(Characters(text).encode(text))
    inputs, targets = batch(ids, config.context, config.batch_size, seed=0)
    inputs = inputs.contiguous().clone()
    inputs[0, 0] = ids.max()
    return inputs.to(device), targets.contiguous().to(device)


def same_start(nano, ours):
    """Give our model nanoGPT's weights; ours has biases too, which start at zero."""
    weights = {"transformer.wte.weight": ours.embed, "transformer.wpe.weight": ours.positions,
               "transformer.ln_f.weight": ours.norm}
    for i, block in enumerate(ours.blocks):
        h = f"transformer.h.{i}."
        weights |= {h + "ln_1.weight": block.norm_attn, h + "ln_2.weight": block.norm_ffn,
                    h + "attn.c_proj.weight": block.attn.wo, h + "mlp.c_fc.weight": block.ffn.w_up,
                    h + "mlp.c_proj.weight": block.ffn.w_down}
    given = dict(nano.named_parameters())
    with torch.no_grad():
        for name, module in weights.items():
            module.weight.copy_(given[name])
        for i, block in enumerate(ours.blocks):
            packed = given[f"transformer.h.{i}.attn.c_attn.weight"].chunk(3)
            for module, weight in zip((block.attn.wq, block.attn.wk, block.attn.wv), packed, strict=True):
                module.weight.copy_(weight)


def measure_step(b, nano, text, config):
    """Claim "step": both models, the same weights, the same batch. Seconds of a step of each."""
    seed_all(0)
    one_batch = sample_batch(text, config, b.device)
    model, theirs = nano.step(one_batch)
    our_model, ours = our_step(config, one_batch, b.device)
    same_start(model, our_model)
    alike_model, alike = our_step(config, one_batch, b.device, dressed_alike)
    same_start(model, alike_model)
    # nanoGPT has the exact GELU, ours GPT-2's approximation: the losses agree to three decimals
    run = b.compare({"nanoGPT": theirs, "ours": ours, "ours, alike": alike}, check=5e-3)
    claim = {"unit": "s", "better": "lower", "goal": ("<=", 1.0)}
    b.claim("step", SENTENCES["step"], measured=run.figures("ours"), **claim,
            why="gpt.py writes attention out and keeps q, k and v apart, as the lesson tells it; the row "
                "below shows what nanoGPT's other choices are worth at 64 tokens")
    b.claim("step-alike", SENTENCES["step-alike"], measured=run.figures("ours, alike"), **claim,
            why="what is left is three products for q, k and v where nanoGPT has one")
    return [run.sides[name].median for name in ("nanoGPT", "ours")]


class OwnAttention(Attention):
    """Attention by torch's fused form, which never writes the table of shares down."""

    def forward(self, x):
        y = F.scaled_dot_product_attention(*self.project(x), is_causal=True)
        return self.wo(merge_heads(y))


class ExactFeedForward(FeedForward):
    """GELU as it is defined, where GPT-2 has an approximation by tanh."""

    def forward(self, x):
        return self.w_down(F.gelu(self.w_up(x)))


def dressed_alike(model):
    """Our model with the three choices in which nanoGPT's differs for speed."""
    for block in model.blocks:
        block.attn.__class__, block.ffn.__class__ = OwnAttention, ExactFeedForward
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.LayerNorm):
            module.bias = None
    return model


def race(b, nano, folder, steps):
    """Whole commands in turn, A B B A: (seconds of each side's runs, the losses they reached)."""
    losses = {}

    def theirs():
        losses["nanoGPT"] = nano.train()
        return losses["nanoGPT"]

    def ours():
        losses["ours"] = our_run(fast, preset_of(b), round(share_of(b) * steps), folder)
        return losses["ours"]

    def reached(_, ours):
        """Ours, over the whole split, is no higher than nanoGPT's loss over many of its own batches."""
        losses["nanoGPT"] = nano.loss(b.pick(smoke=20, quick=200, full=500))
        return ours <= losses["nanoGPT"]

    run = b.compare({"nanoGPT": theirs, "ours": ours}, check=reached, warm=False,
                    budget=b.pick(smoke=1, quick=60, full=420))
    return {name: list(side.seconds) for name, side in run.sides.items()}, losses


def preset_of(b):
    return "gpu" if b.device.type == "cuda" else "cpu"


def share_of(b):
    """How many steps `fast` takes for each of nanoGPT's."""
    return fast.PRESETS[preset_of(b)].steps / train.PRESETS[preset_of(b)].steps


def main(b):
    if b.device.type not in RECIPES:
        raise UserError(f"nanoGPT's README has no recipe for {b.device.type}: use --device cpu or cuda")
    config = train.PRESETS[preset_of(b)]
    steps = b.pick(smoke=40, quick=500, full=config.steps)
    text, corpus = train.read(config.corpus, b.say)
    checkout = b.rival("nanoGPT")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        if checkout is None:
            return alone(b, folder, round(share_of(b) * steps))
        nano = NanoGPT(checkout, folder, text, RECIPES[b.device.type], steps)
        step = measure_step(b, nano, text, config)
        seconds, losses = race(b, nano, folder / "fast", steps)
        b.claim("time-to-loss", SENTENCES["time-to-loss"], unit="s", better="lower", goal=("<=", 0.67),
                measured=values("ours", seconds["ours"], "nanoGPT", seconds["nanoGPT"]), headline=True,
                bound=share_of(b) * bound_of(b, config) / step[0], prediction=share_of(b) * step[1] / step[0],
                settings={"corpus": corpus, "steps of nanoGPT": steps, "its loss": losses["nanoGPT"],
                          "our steps": round(share_of(b) * steps), "our loss": losses["ours"]})
        lower = losses["nanoGPT"] - our_run(train, preset_of(b), steps, folder / "equal")
        b.claim("loss-at-equal-steps", SENTENCES["loss-at-equal-steps"], unit="nats", better="higher",
                goal=(">=", 0.05), measured=values("nanoGPT's loss less ours", [lower]),
                settings={"corpus": corpus, "steps": steps, "nanoGPT's loss": losses["nanoGPT"]})


def bound_of(b, config):
    """Seconds of a step at the ceiling of this machine's matrix products."""
    model = train.build(config, 65, "cpu")
    tokens = config.batch_size * config.context
    flops = model_flops(matmul_parameters(model), config.n_layer, config.d_model, config.context)
    return flops * tokens / b.ceilings.fp32


def alone(b, folder, steps):
    """Without the rival: our own time, and rows that say what is missing."""
    loss = our_run(fast, preset_of(b), steps, folder / "fast")
    seconds = json.loads((folder / "fast" / "result.json").read_text(encoding="utf-8"))["seconds"]
    b.say(f"ours alone: val loss {loss:.3f} after {steps} steps and {seconds:.0f} s")
    missing = {"unit": "s", "better": "lower", "why": "nanoGPT is not in $THIRTY_RIVALS"}
    b.not_run("time-to-loss", SENTENCES["time-to-loss"], goal=("<=", 0.67), headline=True,
              ours=Figure("ours", seconds), **missing)
    for name in ("step", "step-alike"):
        b.not_run(name, SENTENCES[name], goal=("<=", 1.0), **missing)
    b.not_run("loss-at-equal-steps", SENTENCES["loss-at-equal-steps"], goal=(">=", 0.05),
              **{**missing, "unit": "nats", "better": "higher"})


def profiled(b):
    """A training step of the preset for this device."""
    config = train.PRESETS[preset_of(b)]
    text, _ = train.read(config.corpus, b.say)
    return our_step(config, sample_batch(text, config, b.device), b.device)[1]


if __name__ == "__main__":
    bench(main, profiled)
