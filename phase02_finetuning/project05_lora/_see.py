"""What LoRA looks like: loss against rank, the spectrum of what training adds to a matrix, memory."""

import copy
import math
from functools import cached_property

import torch
from torch import nn

from common import plots
from common.cli import explore
from common.device import dtype_for, seed_all
from common.recipe import TrainConfig, adamw, learning_rate
from phase02_finetuning.project04_sft.sft import AnswerLoss, pack

from . import _build, _memory, lora


class Lab(explore.Album):
    """A base model, rows to learn from and rows to judge on, and one short training."""

    def __init__(self, config, run, base, tokenizer):
        super().__init__(config, run)
        self.base, self.tokenizer = base, tokenizer
        self.context = min(config.context, base.config.max_seq_len)
        table = _build.rows("train", config.steps * config.batch_size, config.seed)
        self.learn = _build.examples(tokenizer, table, self.context)
        held = _build.rows("held-out", config.held_out, config.seed)
        self.held = _build.examples(tokenizer, held, self.context)

    def loss(self, model):
        """Nats a token of unseen answers; infinite if the model is broken."""
        pad = self.tokenizer.pad_id
        found = _build.answer_loss(model, self.held, self.context, pad, self.run.device)
        return found if math.isfinite(found) else math.inf

    def join(self, part):
        """Examples in one packed batch, on the device."""
        return pack(part, self.context, self.tokenizer.pad_id).to(self.run.device)

    def fit(self, dress, rate, seed=0):
        """(model, losses): a copy of the base, dressed, after a short training."""
        seed_all(seed)
        model = dress(copy.deepcopy(self.base)).train()
        objective, steps, device = AnswerLoss(model), self.config.steps, self.run.device
        settings = TrainConfig(steps=steps, learning_rate=rate, min_learning_rate=rate / 20, beta2=0.95,
                               warmup=steps // 20, weight_decay=0.0)  # fmt: skip
        batch_at = _build.batches(self.learn, self.join, size=self.config.batch_size, seed=seed)
        optimizer, losses = adamw(objective, settings), []
        for step in range(steps):
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype_for(device) == torch.bfloat16):
                loss = objective(batch_at(step))
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                break
            loss.backward()
            nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, settings)
            optimizer.step()
            optimizer.zero_grad()
        return model, losses

    def best(self, dress, rates):
        """(loss, rate, model) of the rate that serves this dress best."""
        made = [(self.fit(dress, rate)[0], rate) for rate in rates]
        return min(((self.loss(model), rate, model) for model, rate in made), key=lambda found: found[0])

    def adapters(self, rank, **settings):
        """A dress: LoRA of that rank with a scale of 2."""
        config = lora.LoRAConfig(rank, 2.0 * rank, **settings)
        return lambda model: lora.apply(model, config)

    @cached_property
    def full(self):
        """(loss, rate, model) of training every weight, at the best of a fifth of the rates."""
        rates = [rate / 5 for rate in self.config.rates]
        return self.best(lambda model: model.requires_grad_(True), rates)

    @cached_property
    def tuned(self):
        """(loss, rate, model) of LoRA at the middle one of the ranks."""
        ranks = self.config.ranks
        return self.best(self.adapters(ranks[len(ranks) // 2]), self.config.rates)


def rank(lab: Lab) -> dict:
    """Held-out loss against rank, each rank at its best learning rate, beside training every weight."""
    found = {"before": lab.loss(lab.base), "every weight": lab.full[0]}
    for r in lab.config.ranks:
        loss, rate, model = lab.best(lab.adapters(r), lab.config.rates)
        trained, every = _build.count(model)
        found[f"rank {r}"] = loss
        share = f"{trained:9,} weights, {trained / every:6.2%}"
        lab.run.say(f"  rank {r:3}: {loss:.4f} nats, {share}; rate {rate}")
    lab.run.say(f"  every weight: {found['every weight']:.4f} nats; before: {found['before']:.4f}")
    fig, ((ax,),) = plots.figure()
    losses = [found[f"rank {r}"] for r in lab.config.ranks]
    ax.plot(lab.config.ranks, losses, marker="o", label="LoRA on all matrices of the blocks")
    plots.level(ax, found["every weight"], "every weight trained")
    ax.set_xscale("log", base=2)
    ax.set_xticks(lab.config.ranks, [str(r) for r in lab.config.ranks])
    ax.set(title="Loss on unseen answers after equal updates", xlabel="rank", ylabel="nats per token")
    plots.legend(ax)
    lab.save(fig, "rank.png")
    return found


def changes(lab: Lab, model) -> dict[str, torch.Tensor]:
    """{name: what training added to the matrix} for the matrices of the blocks."""
    plain = lora.merge(copy.deepcopy(model)) if has_adapters(model) else model
    before = dict(lab.base.named_parameters())
    return {name: (p - before[name]).detach() for name, p in plain.named_parameters()
            if name.split(".")[-2] in lora.MATRICES}  # fmt: skip


def has_adapters(model):
    return any(isinstance(module, lora.LoRALinear) for module in model.modules())


def energy(change) -> torch.Tensor:
    """Share of a change's squared size that its largest 1, 2, 3 … directions hold."""
    squares = torch.linalg.svdvals(change.float().cpu()).square()
    return squares.cumsum(0) / squares.sum()


def spectrum(lab: Lab) -> dict:
    """Singular values of what training added, and what is left of it if only the largest are kept."""
    fig, ((left, right),) = plots.figure(1, 2, width=11.0, height=4.4)
    found = {}
    for name, (_, _, model) in (("every weight", lab.full), ("LoRA", lab.tuned)):
        values = [torch.linalg.svdvals(change.float().cpu()) for change in changes(lab, model).values()]
        n = min(len(v) for v in values)
        mean = torch.stack([v[:n] / v[0] for v in values]).mean(0)
        left.plot(range(1, n + 1), mean.clamp(min=1e-7), label=name)
    shares = torch.stack([energy(change)[:n] for change in changes(lab, lab.full[2]).values()]).mean(0)
    cuts = [r for r in lab.config.ranks if r <= n]
    for r in cuts:
        model = copy.deepcopy(lab.full[2])
        cut(lab, model, r)
        found[f"loss, change cut to rank {r}"] = lab.loss(model)
        found[f"share of the change, rank {r}"] = shares[r - 1].item()
        lab.run.say(f"  rank {r:3}: {shares[r - 1]:6.1%} of the change, {lab.loss(model):.4f} nats")
    lab.run.say(f"  all of it: {lab.full[0]:.4f} nats; none of it: {lab.loss(lab.base):.4f}")
    left.set(title="Singular values of what was added", xlabel="number", ylabel="share of the largest")
    left.set(xscale="log", yscale="log", ylim=(1e-4, 1.5))
    plots.legend(left)
    right.plot(cuts, [found[f"loss, change cut to rank {r}"] for r in cuts], marker="o",
               color=plots.COLOURS[0])  # fmt: skip
    plots.level(right, lab.full[0], "all of it")
    right.set_xscale("log", base=2)
    right.set_xticks(cuts, [str(r) for r in cuts])
    right.set(title="Every weight trained, then the change cut", xlabel="rank that is kept")
    right.set(ylabel="nats per token")
    lab.save(fig, "spectrum.png")
    return found


@torch.no_grad()
def cut(lab: Lab, model, r: int) -> None:
    """Keep only the r largest directions of what training added to each matrix of the blocks."""
    before, weights = dict(lab.base.named_parameters()), dict(model.named_parameters())
    for name, change in changes(lab, model).items():
        u, s, v = torch.linalg.svd(change.float().cpu(), full_matrices=False)
        kept = (u[:, :r] * s[:r]) @ v[:r]
        weights[name].copy_(before[name] + kept.to(change))


SIDES = {"full": {"method": "full"}, "lora": {"method": "lora"}, "qlora": {"method": "qlora"},
         "recomputed": {"method": "qlora", "checkpointing": True}}  # fmt: skip
NAMES = {"full": "every weight", "lora": "LoRA", "qlora": "QLoRA", "recomputed": "QLoRA,\nblocks recomputed"}


def memory(lab: Lab) -> dict:
    """Peak memory of a few updates, each method in a process of its own; measured, not computed."""
    size, config = lab.config.width, lab.config
    sizes = {"n_layer": config.layers, "d_model": size, "d_ff": -(-8 * size // 3 // 64) * 64,
             "n_head": max(1, size // 64), "vocab_size": config.vocabulary, "rows": config.rows,
             "context": 256 if config.layers > 1 else 32, "device": str(lab.run.device)}  # fmt: skip
    found = {name: _memory.fresh(_memory.Trial(**SIDES[name], **sizes)) for name in config.sides}
    for name, row in found.items():
        share = f"{row['trained']:,} of {row['weights']:,} weights are trained"
        least = f"{row['floor'] / 1e9:.2f} GB of it without a model"
        lab.run.say(f"  {name:12} {row['peak'] / 1e9:6.2f} GB at most, {least}; {share}")
    fig, ((ax,),) = plots.figure()
    floors = [row["floor"] / 1e9 for row in found.values()]
    above = [row["peak"] / 1e9 - floor for row, floor in zip(found.values(), floors, strict=True)]
    names = [NAMES[name] for name in found]
    ax.bar(names, floors, color=plots.COLOURS[6], alpha=0.4, label="Python and torch")
    ax.bar(names, above, bottom=floors, color=plots.COLOURS[0], label="the model and its training")
    million = next(iter(found.values()))["weights"] / 1e6
    ax.set(title=f"Peak memory, {million:.0f}M weights, {config.rows} rows", ylabel="GB")
    plots.legend(ax)
    lab.save(fig, "memory.png")
    return {f"{name}, GB": row["peak"] / 1e9 for name, row in found.items()}
