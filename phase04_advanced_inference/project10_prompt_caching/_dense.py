"""A corpus of TinyTown with questions, and vectors for both: of our own model, or of any other's folder.

The passages tell one thing each: of a resident, or of a visitor. Three kinds of question ask for them.
*plain*: in wordings the training knows, of pairs it never asked. *rephrased*: in wordings it never saw.
*visitor*: of people it never met.
"""

from dataclasses import dataclass
from random import Random

import numpy as np
import torch

from common.errors import UserError
from common.recipe import TrainConfig, learning_rate, parameter_groups
from data.town_document import NEEDLES, distinct_names, needle
from data.town_facts import QUESTIONS, RELATIONS, REPHRASED, STATEMENTS, relations_of, slots_of

from .retrieval import embed, info_nce

KINDS = ("plain", "rephrased", "visitor")
TELLING = {r: [s for s in STATEMENTS if relations_of(s) == {r} and "a" in slots_of(s)] for r in RELATIONS}


@dataclass(frozen=True)
class Corpus:
    """texts: the passages. questions, kinds, right: of each question its text, kind and passage's number."""

    texts: list
    questions: list
    kinds: np.ndarray
    right: np.ndarray

    def of(self, kind):
        """Which questions are of a kind: (Q,) of True and False."""
        return self.kinds == kind


def tell(rng, person, relation):
    """A sentence that tells it, in one of the town's wordings."""
    return rng.choice(TELLING[relation]).format_map({"a": person})


def ask(rng, person, relation, wordings=QUESTIONS):
    """A question for it."""
    return rng.choice(wordings[relation]).format_map({"a": person})


def corpus(town, each, seed=0):
    """The passages of a town and `each` visitors, and about `each` questions of every kind."""
    rng = Random(f"corpus {seed}")
    number = {(p.name, r): i for i, (p, r) in enumerate((p, r) for p in town.people for r in RELATIONS)}
    texts = [tell(rng, person, relation) for person in town.people for relation in RELATIONS]
    held, known = (list(town.pairs[split]) for split in ("held-out", "train"))
    asked = [("plain", ask(rng, *pair), number[pair[0].name, pair[1]])
             for pair in rng.sample(held, min(each, len(held)))]  # fmt: skip
    asked += [("rephrased", ask(rng, *pair, REPHRASED), number[pair[0].name, pair[1]])
              for pair in rng.sample(known, min(each, len(known)))]  # fmt: skip
    for i, name in enumerate(distinct_names(town, rng, each)):
        sentence, question, _ = needle(town, rng, name, NEEDLES[i % len(NEEDLES)])
        asked.append(("visitor", question, len(texts)))
        texts.append(sentence)
    rng.shuffle(asked)
    kinds, questions, right = zip(*asked, strict=True)
    return Corpus(texts, list(questions), np.array(kinds), np.array(right))


# ---- our own vectors ----


def encode(model, words, texts):
    """Rows of ids, cut to what the model can read."""
    return [words.encode(text)[: model.config.max_seq_len] for text in texts]


@torch.no_grad()
def vectors(model, words, texts, rows=64):
    """A unit vector for each text, (N, C) float32; texts of about one length are computed together."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found = np.empty((len(texts), model.config.d_model), np.float32)
    for i in range(0, len(order), rows):
        part = order[i : i + rows]
        found[part] = embed(model, encode(model, words, [texts[j] for j in part])).float().cpu().numpy()
    return found


def batch(town, rng, people):
    """(questions, passages), pair by pair: some people, and of each all that training may ask.

    So every passage has among its rivals others of the same person, and others of the same relation.
    """
    pairs = [(person, relation) for person in rng.sample(town.people, people)
             for relation in town.askable(person, "train")]  # fmt: skip
    return [ask(rng, *pair) for pair in pairs], [tell(rng, *pair) for pair in pairs]


def train(model, words, town, steps, people=8, rate=1e-3, seed=0, say=print):
    """Make questions near their passages, by the contrastive loss; returns the model, and the loss's course.

    The vectors' cosines are divided by 0.05 in the loss: what counts is which is nearest, not how near.
    """
    if steps < 1 or not 2 <= people <= len(town.people):
        raise UserError(f"{steps} steps of {people} people: at least 1 step, and 2 to {len(town.people)}")
    rng, losses = Random(f"batches {seed}"), []
    config = TrainConfig(steps=steps, learning_rate=rate, min_learning_rate=rate / 10, warmup=steps // 10)
    optimizer = torch.optim.AdamW(parameter_groups(model.train(), 0.1), lr=rate, betas=(0.9, 0.98))
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        questions, passages = (encode(model, words, side) for side in batch(town, rng, people))
        loss = info_nce(embed(model, questions), embed(model, passages))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % max(1, steps // 5) == 0:
            say(f"  step {step + 1:4} of {steps}: contrastive loss {np.mean(losses[-10:]):.3f}")
    return model.eval(), losses


# ---- any other folder's: sentence-transformers and their kin, mean-pooled ----


@torch.no_grad()
def foreign(folder, texts, rows=64):
    """Unit vectors (N, C) of texts by an encoder's folder, means over tokens. UserError: there is none."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise UserError("vectors of another model take transformers: pip install -e '.[hub]'") from None
    try:
        words = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = AutoModel.from_pretrained(folder, local_files_only=True).eval()
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no encoder that transformers can read: {error}") from None
    found = []
    for i in range(0, len(texts), rows):
        given = words(texts[i : i + rows], padding=True, truncation=True, return_tensors="pt")
        there = given["attention_mask"][..., None]  # (N, T, 1)
        mean = (model(**given).last_hidden_state * there).sum(1) / there.sum(1)
        found.append(torch.nn.functional.normalize(mean, dim=1).numpy())
    return np.concatenate(found)
