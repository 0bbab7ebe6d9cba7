"""The stages of one run: plain fine-tuning, a reward model where asked, the method; and what came out."""

import copy
import sys
from dataclasses import asdict

import torch

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.paths import models
from common.errors import demand
from common.training import train
from data.tinytown import reward
from phase02_finetuning.project04_sft.sft import AnswerLoss, pad, prompt

from . import _data, _judge
from ._rollouts import Asked, Phases, drift, scored_by
from .dpo import LOSSES, PreferenceLoss, sequence_logprobs
from .grpo import GRPOLoss
from .ppo import ActorCritic, KLControl, PPOLoss
from .reward_model import RewardLoss, RewardModel


class Tuning:
    """One run: the models, the rows, and the stages, each of which can be resumed."""

    def __init__(self, config, run):
        self.config, self.run, self.device = config, run, run.device
        folder = chain.find("sft", config.model, say=run.say)
        self.tokenizer = tokenizers.load(folder)
        self.sft = hub.load(folder, device=self.device)
        self.model = copy.deepcopy(self.sft)
        context = self.model.config.max_seq_len
        self.found = _data.read(config, self.tokenizer, context, run.say)
        self.pad = self.tokenizer.pad_id or 0
        self.judged = all("checker" in row for row in self.found.held_rows)
        self.phases = None

    # ---- stages ----

    def fit(self, name, objective, batch_at, steps, rate, **more):
        """One stage in a folder of its own; gone on with if it was begun."""
        folder = self.run.folder / name if name else self.run.folder
        return train(objective, batch_at, self.config.train_config(self.device, steps, rate), folder=folder,
                     resume=self.run.resumed, say=self.run.say, **more)  # fmt: skip

    def warm(self):
        """Plain fine-tuning on answers of the pairs, so that the reference could have written them."""
        pairs, config = self.found.pairs, self.config
        kinds = ("chosen",) if config.warm_on == "chosen" else ("chosen", "rejected")
        rows = [_data.example(pair, getattr(pair, kind)) for pair in pairs for kind in kinds]

        def batch_at(i):
            which = _data.order(len(rows), 2 * config.batch_size, i, config.seed + 1)
            return pad([rows[j] for j in which], self.pad).to(self.device)

        self.run.say(f"plain fine-tuning on {' and '.join(kinds)} answers, {config.warm} updates")
        self.fit("warm", AnswerLoss(self.model), batch_at, config.warm, config.warm_rate)

    def pairs_at(self, known=None):
        """i -> batch i of the pairs; known (2, n): the reference's log-probabilities."""
        config = self.config

        def batch_at(i):
            which = _data.order(len(self.found.pairs), config.batch_size, i, config.seed)
            reference = None if known is None else known[:, which]
            rows = [self.found.pairs[j] for j in which]
            return _data.laid_out(config.layout, rows, self.pad, reference).to(self.device)

        return batch_at

    def autocast(self):
        """The precision of training, so that the reference is the policy of the first step, bit for bit."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.fast(self.device))

    @torch.no_grad()
    def known(self, model, pairs):
        """(2, n): what a model gives both answers of each pair."""
        made = (_data.laid_out(self.config.layout, some, self.pad) for some in _data.batches(pairs, 32))
        with self.autocast():
            return torch.cat([sequence_logprobs(model, batch.to(self.device)) for batch in made], 1).cpu()

    def prefer(self, steps, rate, beta, gamma):
        """DPO, IPO or SimPO."""
        self.run.say("the reference's log-probabilities, once for all")
        objective = PreferenceLoss(self.model, self.config.method, beta, gamma)
        known, held = (self.known(self.reference, pairs) for pairs in (self.found.pairs, self.found.held))
        simpo, asked = self.config.method == "simpo", [p.prompt for p in self.found.held[:32]]

        def evaluate():
            policy = self.known(self.model, self.found.held)
            lengths = torch.tensor([[len(p.chosen) for p in self.found.held],
                                    [len(p.rejected) for p in self.found.held]])  # fmt: skip
            losses = LOSSES[self.config.method](policy, held, lengths, beta, gamma)
            gap = policy / lengths if simpo else policy - held
            right = (gap[0] - gap[1]).sign().add(1).div(2).mean()  # a tie is half right
            return {"val_loss": losses.mean().item(), "accuracy": right.item(),
                    "margin": (gap[0] - gap[1]).mean().item(), "chosen": (policy - held)[0].mean().item(),
                    "rejected": (policy - held)[1].mean().item(),
                    "kl": drift(self.model, self.reference, self.tokenizer, asked,
                                max_tokens=self.config.max_tokens)}  # fmt: skip

        return self.fit("", objective, self.pairs_at(known), steps, rate, evaluate=evaluate)

    def rewarded(self):
        """What ppo and grpo hear: (rows, texts, tokens, mask) -> a number for each answer."""
        if self.config.reward == "judge":
            demand(self.judged, f"{self.config.preferences} has no judge of its own: add --reward model")
            return lambda rows, texts, *_: [reward(row, text) for row, text in zip(rows, texts, strict=True)]
        model = RewardModel(copy.deepcopy(self.reference)).to(self.device)
        self.run.say(f"a reward model, {self.config.reward_steps} updates on the pairs")
        self.fit("reward", RewardLoss(model), self.pairs_at(), self.config.reward_steps, 2e-4)
        right = []
        with torch.no_grad():
            for some in _data.batches(self.found.held, 32):
                batch = _data.laid_out(self.config.layout, some, self.pad).to(self.device)
                chosen, rejected = model(batch.tokens, batch.ends, batch.positions, batch.mask).view(2, -1)
                right += (chosen > rejected).tolist()
        self.run.say(f"the reward model ranks {sum(right) / len(right):.1%} of the held-out pairs rightly")
        return lambda rows, texts, tokens, mask: scored_by(model, tokens, mask)

    def reinforce(self, steps, rate, beta, score=None):
        """PPO or GRPO. score: in place of what the config says."""
        if self.config.method == "ppo":
            control = KLControl(beta, self.config.kl_target, horizon=2000)
            objective = PPOLoss(ActorCritic(self.model), control).to(self.device)
        else:
            objective = GRPOLoss(self.model, beta=beta)
        asked = [Asked(row, prompt(row["messages"], self.tokenizer)) for row in self.found.rows]
        room = self.model.config.max_seq_len - self.config.max_tokens
        asked = [a for a in asked if len(a.prompt) <= room]
        demand(asked, f"max_tokens {self.config.max_tokens} leaves no prompt any room in the context")
        self.phases = Phases(objective, self.reference, self.tokenizer, asked, self.config, self.run.folder,
                             score or self.rewarded(), reward if self.judged else None)  # fmt: skip
        names = ("score", "kl", "length", *(["reward"] if self.judged else []))

        def evaluate():
            recent = self.phases.log[-8:]  # of a run that has just begun or been resumed there are none
            means = {name: sum(row[name] for row in recent) / len(recent) for name in names if recent}
            return {"phases": float(self.phases.phase + 1), **means}

        return self.fit("", objective, self.phases, steps, rate, evaluate=evaluate)

    def tune(self):
        """All stages; returns the history of the last one."""
        if self.config.warm:
            self.warm()
        self.reference = copy.deepcopy(self.model).eval().requires_grad_(False)
        steps, rate, beta, gamma = self.config.written()
        self.run.say(f"{self.config.method}: {steps} updates, learning rate {rate:g}, beta {beta:g}")
        if self.config.method in LOSSES:
            return self.prefer(steps, rate, beta, gamma)
        return self.reinforce(steps, rate, beta)

    # ---- what came out ----

    def judge(self) -> dict[str, float]:
        """Win rate over the model that it began as, manners, skill before and after; the texts of a few."""
        if not self.judged:
            self.run.say("these rows have no programmatic judge: ./thirty run 6 rate lets you be the judge")
            return {}
        rows = self.found.held_rows[: self.config.judged]
        length = self.config.max_tokens
        found = _judge.duel(self.model, self.sft, self.tokenizer, rows, max_tokens=length)
        low, high = found["interval"]
        self.run.say(f"win rate over {self.config.model or 'models/sft'}: {found['win_rate']:.1%} "
                     f"[{low:.1%}, {high:.1%}] of {len(rows)} held-out questions")  # fmt: skip
        for name, part in (("tuned", "ours"), ("before", "theirs")):
            shares = ", ".join(f"{key} {value:.0%}" for key, value in found[part].items() if key != "reward")
            self.run.say(f"  {name:6}  reward {found[part]['reward']:+.2f}: {shares}")
        before, after = (_judge.skill_of(m, self.tokenizer, self.config.judged, max_tokens=length)
                         for m in (self.sft, self.model))  # fmt: skip
        self.run.say(f"skill, right answers to held-out questions: {before:.1%} before, {after:.1%} after")
        for row, ours, theirs in list(zip(rows, *found["texts"], strict=True))[:3]:
            self.run.say(f"  {row['messages'][-1]['content']}\n    before: {theirs}\n    tuned:  {ours}")
        return {"win_rate": found["win_rate"], "win_low": low, "win_high": high, "skill_before": before,
                "skill": after, "reward_before": found["theirs"]["reward"], "reward": found["ours"]["reward"],
                "polite": found["ours"]["polite"], "correct": found["ours"]["correct"]}  # fmt: skip

    def save(self, metrics):
        """The model folder of the run, and the chain's where asked."""
        card = {"made_by": "project06_dpo", "command": " ".join(sys.argv), "config": asdict(self.config),
                "metrics": metrics, "tokenizer": self.tokenizer.sha256}  # fmt: skip
        chained = [models() / self.config.method] if self.config.save else []
        for folder in [self.run.folder / "model", *chained]:
            hub.save(self.model, folder, tokenizer=self.tokenizer, card=card)
            self.run.say(f"saved: {folder}")
