"""Answers that the policy writes while it learns, what they are worth, and batches made of them.

A phase: `prompts` questions, `group` answers to each, all drawn by the policy as it is; then `updates`
updates on parts of them. The batch of update i is a pure function of i and the policy's weights, but for an
update in the middle of a phase, whose answers an older policy wrote: those are kept in a file.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from common import checkpoint
from common.files import write_json
from common.generate import Sampling, generate
from phase02_finetuning.project04_sft.sft import marks

from .dpo import token_logprobs
from .grpo import GRPOLoss, group_advantages, kl_estimate
from .ppo import PPOLoss, Rollout, gae, shaped, whiten
from .reward_model import RewardModel

LOG = "log.json"


class Asked(NamedTuple):
    """A question: the row that a judge reads, and its prompt as ids."""

    row: dict
    prompt: list[int]


class Answers(NamedTuple):
    """What a policy wrote to some questions: text, ids, and whether it ended by itself."""

    texts: list[str]
    ids: list[list[int]]


def draw(model, tokenizer, prompts, *, max_tokens=48, temperature=1.0, seed=0) -> Answers:
    """An answer to each prompt; those of equal length share a batch. Answer i has the seed `seed` + i."""
    texts, ids = [""] * len(prompts), [[]] * len(prompts)
    end, lengths = marks(tokenizer)[1], {}
    for i, prompt in enumerate(prompts):
        lengths.setdefault(len(prompt), []).append(i)
    for numbers in lengths.values():
        how = [Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed + i) for i in numbers]
        rows = [prompts[i] for i in numbers]
        answers = generate(model, rows, how, tokenizer=tokenizer, eos_ids=(end,))
        for i, answer in zip(numbers, answers, strict=True):
            texts[i], ids[i] = answer.text.removesuffix("<|im_end|>"), list(answer.ids)
    return Answers(texts, ids)


def laid_out(prompts: Sequence[list[int]], answers: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """tokens (B, T), prompt and answer padded on the right; mask (B, T - 1): token t + 1 is of the answer."""
    rows = [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
    T = max(map(len, rows))
    tokens = torch.tensor([row + [pad] * (T - len(row)) for row in rows])
    place = torch.arange(1, T)
    first, last = (torch.tensor(x)[:, None] for x in ([len(p) for p in prompts], [len(row) for row in rows]))
    return tokens, (place >= first) & (place < last)


@torch.no_grad()
def logprobs_of(model, tokens: Tensor, mask: Tensor) -> Tensor:
    """(B, T), (B, T - 1) -> (B, T - 1): ln of the probability of each token of the answers, elsewhere 0."""
    found = token_logprobs(model.head, model.hidden(tokens[:, :-1])[mask], tokens[:, 1:][mask])
    return found.new_zeros(mask.shape).masked_scatter(mask, found)


@torch.no_grad()
def drift(model, reference, tokenizer, prompts, *, seed=0, max_tokens=48) -> float:
    """KL from the reference in nats an answer, estimated on answers that the model draws to the prompts."""
    device = next(model.parameters()).device
    answers = draw(model, tokenizer, prompts, seed=seed, max_tokens=max_tokens)
    tokens, mask = (x.to(device) for x in laid_out(prompts, answers.ids, tokenizer.pad_id or 0))
    ours, theirs = (logprobs_of(m, tokens, mask) for m in (model, reference))
    return float((kl_estimate(ours, theirs) * mask).sum(1).mean())


@torch.no_grad()
def scored_by(reward: RewardModel, tokens: Tensor, mask: Tensor) -> list[float]:
    """The reward model's scores (B,) of answers, each read at its last token."""
    T = tokens.size(1)
    last = mask.int().cumsum(1).argmax(1) + 1  # (B,): where the answer's last token stands in its row
    return reward(tokens, torch.arange(len(tokens), device=tokens.device) * T + last).tolist()


class Phases:
    """`batch_at` of a run that learns from its own answers; `.log` has a line for each phase.

    score(rows, texts, tokens, mask) -> a number for each answer, which is heard; true(row, text): deserved.
    """

    def __init__(self, objective: PPOLoss | GRPOLoss, reference, tokenizer, asked: Sequence[Asked], config,
                 folder: Path, score: Callable, true: Callable | None):  # fmt: skip
        self.objective, self.reference, self.tokenizer = objective, reference, tokenizer
        self.asked, self.config, self.folder = list(asked), config, folder / "rollouts"
        self.score, self.true, self.phase, self.held, self.log = score, true, -1, None, []
        self.folder.mkdir(parents=True, exist_ok=True)
        if (self.folder / LOG).exists():  # of a run that is gone on with
            self.log = json.loads((self.folder / LOG).read_text("utf-8"))

    @property
    def model(self):
        ppo = isinstance(self.objective, PPOLoss)
        return self.objective.actor.model if ppo else self.objective.model

    def __call__(self, i: int) -> Rollout:
        phase, part = divmod(i, self.config.updates)
        if part == 0:
            self.held = self.collect(phase)
            checkpoint.write(self.file(phase), self.held._asdict())
        elif self.phase != phase:  # a resumed run, in the middle of a phase
            device = next(self.model.parameters()).device
            kept = checkpoint.read(self.file(phase))
            self.held = Rollout(**{name: value.to(device) for name, value in kept.items()})
        self.phase = phase
        size = len(self.held.tokens) // self.config.updates
        chosen = torch.randperm(len(self.held.tokens), generator=torch.Generator().manual_seed(phase))
        return self.held.rows(chosen[part * size : (part + 1) * size])

    def file(self, phase: int) -> Path:
        return self.folder / f"{phase}.safetensors"

    def questions(self, phase: int) -> list[Asked]:
        """Questions of this phase: about two lengths, so that their answers are drawn in two batches."""
        draws = torch.Generator().manual_seed(self.config.seed * 7919 + phase)
        found: list[Asked] = []
        while len(found) < self.config.prompts:
            first = self.asked[int(torch.randint(len(self.asked), (1,), generator=draws))]
            alike = [a for a in self.asked if len(a.prompt) == len(first.prompt)]
            some = min(len(alike), self.config.prompts - len(found), -(-self.config.prompts // 2))
            found += [alike[j] for j in torch.randperm(len(alike), generator=draws)[:some].tolist()]
        return found

    @torch.no_grad()
    def collect(self, phase: int) -> Rollout:
        """Draw, score, and give every token its advantage."""
        config, device = self.config, next(self.model.parameters()).device
        asked = [a for a in self.questions(phase) for _ in range(config.group)]
        answers = draw(self.model, self.tokenizer, [a.prompt for a in asked], max_tokens=config.max_tokens,
                       temperature=1.0, seed=(config.seed << 32) + phase * len(asked))  # fmt: skip
        made = laid_out([a.prompt for a in asked], answers.ids, self.tokenizer.pad_id or 0)
        tokens, mask = (x.to(device) for x in made)
        rows = [a.row for a in asked]
        scores = torch.tensor(self.score(rows, answers.texts, tokens, mask), device=device)  # (B,)
        reference = logprobs_of(self.reference, tokens, mask)
        ppo = isinstance(self.objective, PPOLoss)
        make = self.for_ppo if ppo else self.for_grpo
        rollout = make(tokens, mask, scores.float(), reference)
        kl = float((kl_estimate(rollout.logprobs, reference) * mask).sum(1).mean())
        if ppo:
            self.objective.control.update(kl, len(asked))
        line = {"phase": phase, "score": float(scores.float().mean()), "kl": kl,
                "length": float(mask.sum(1).float().mean())}  # fmt: skip
        if self.true:
            true = [self.true(row, text) for row, text in zip(rows, answers.texts, strict=True)]
            line["reward"] = sum(true) / len(true)
        self.log = [row for row in self.log if row["phase"] < phase] + [line]
        write_json(self.folder / LOG, self.log)
        return rollout

    def for_ppo(self, tokens, mask, scores, reference) -> Rollout:
        """The price of KL is part of the reward; what is left is told apart token by token."""
        logprobs, values = self.objective.actor(tokens, mask)
        rewards = shaped(scores, logprobs, reference, mask, float(self.objective.control.beta))
        advantages = gae(rewards, values, mask)
        returns = advantages + values
        return Rollout(tokens, mask, logprobs, reference, whiten(advantages, mask), values, returns)

    def for_grpo(self, tokens, mask, scores, reference) -> Rollout:
        """One advantage for the whole answer; the price of KL is in the loss."""
        advantages = group_advantages(scores.view(-1, self.config.group)).reshape(-1, 1)  # (B, 1)
        none = torch.zeros(mask.shape, device=mask.device)
        return Rollout(tokens, mask, self.objective.logprobs(tokens, mask), reference, advantages, none, none)
