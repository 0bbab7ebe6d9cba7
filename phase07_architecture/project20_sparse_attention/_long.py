"""Long rows of TinyTown: a chronicle with facts in it, and at its end the same sentences to be finished."""

import random
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import nn

from common.errors import demand
from data.tinytown import TinyTown
from phase01_foundation.project03_pretrain import probe

LEARN, HELD = 100_000, 0  # numbers of documents: what is trained on, and what is judged by
ASKED = 24  # tokens kept free for each question
LEAST = 256  # tokens of a row


@dataclass(frozen=True)
class Row:
    """ids (T + 1,); answers (T + 1,): the number of the needle whose answer a token is part of, or -1."""

    ids: torch.Tensor
    answers: torch.Tensor
    depths: tuple[float, ...]


class Chronicles:
    """Rows of so many tokens, each a pure function of its number."""

    def __init__(self, tokenizer, length, needles=7):
        demand(length >= LEAST, f"rows of {length} tokens: a chronicle with a question takes {LEAST}")
        self.tokenizer, self.length, self.town = tokenizer, length, TinyTown()
        self.needles = max(1, min(needles, length // LEAST))
        self.row = lru_cache(maxsize=4096)(self.made)

    def count(self, text):
        return len(self.tokenizer.encode(text))

    def made(self, number):
        """A document, then each fact, in another order: its sentence again, up to the answer, and that. What
        room is left a story fills."""
        depths = [(i + 0.5) / self.needles for i in range(self.needles)]
        room = self.length - ASKED * self.needles
        document = self.town.document(room, number, depths=depths, length=self.count)
        ids, answers = [probe.end_id(self.tokenizer), *self.tokenizer.encode(document.text)], []
        answers += [-1] * len(ids)
        order = list(enumerate(document.needles))
        random.Random(number).shuffle(order)
        for i, needle in order:
            asked = document.text[needle.start : needle.answer_start].rstrip()
            for text, which in (("\n\n" + asked, -1), (" " + needle.answer, i), (".", -1)):
                more = self.tokenizer.encode(text)
                ids, answers = ids + more, answers + [which] * len(more)
        over = max(0, self.length + 1 - len(ids))
        story = self.tokenizer.encode(self.town.text(16 * over, seed=number))
        ids, answers = ids + [probe.end_id(self.tokenizer), *story][:over], answers + [-1] * over
        return Row(*(torch.tensor(x[: self.length + 1]) for x in (ids, answers)), tuple(depths))

    def batches(self, rows, device):
        """batch_at(i) -> (inputs, targets, answers), each (rows, T)."""

        def batch_at(i):
            found = [self.row(LEARN + i * rows + j) for j in range(rows)]
            ids, answers = (torch.stack([getattr(row, name) for row in found]).to(device)
                            for name in ("ids", "answers"))  # fmt: skip
            return ids[:, :-1], ids[:, 1:], answers[:, 1:]

        return batch_at


class Reading(nn.Module):
    """The mean loss, and beside it that of the answers alone, which are few."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        tokens, targets, answers = batch
        logits = self.model(tokens).flatten(0, 1).float()
        losses, asked = F.cross_entropy(logits, targets.flatten(), reduction="none"), answers.flatten() >= 0
        return losses.mean() + (losses * asked).sum() / asked.sum().clamp_min(1)


@torch.no_grad()
def judge(model, chronicles, numbers):
    """(nats a token at each position (T,), mean over the documents; the share of needles found; by depth).

    A needle is found if every token of its answer is the likeliest one.
    """
    device, losses, found = next(model.parameters()).device, [], []
    for number in numbers:
        row = chronicles.row(HELD + number)
        ids = row.ids.to(device)
        logits = model(ids[None, :-1])[0].float()
        losses.append(F.cross_entropy(logits, ids[1:], reduction="none").cpu())
        right = (logits.argmax(-1) == ids[1:]).cpu()
        for i, depth in enumerate(row.depths):
            part = row.answers[1:] == i
            if part.any():
                found.append((depth, float(right[part].all())))
    depths = sorted({depth for depth, _ in found})
    by_depth = {d: sum(ok for at, ok in found if at == d) / sum(at == d for at, _ in found) for d in depths}
    return torch.stack(losses).mean(0), sum(ok for _, ok in found) / len(found), by_depth


def binned(losses, size):
    """Means of so many neighbours: what is left over at the end is not shown."""
    return losses[: len(losses) // size * size].view(-1, size).mean(1)


def collapse(losses, context, size, more=0.5):
    """Where stretches of `size` tokens begin to cost `more` nats above those within the context, the first
    stretch apart; None where they never do. One hard sentence is no collapse: medians of three neighbours."""
    means = binned(losses, size)
    within = means[1 : max(2, context // size)].mean()
    middle = torch.stack((means[:-2], means[1:-1], means[2:])).median(0).values  # of stretches 1 … n - 2
    beyond = (middle > within + more).nonzero().flatten()
    return (int(beyond[0]) + 1) * size if len(beyond) else None
