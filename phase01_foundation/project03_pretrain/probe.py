"""What a base model knows: how surprised it is by unseen text, and what it answers about TinyTown.

Before: project 1 judged by the loss per character. New here: units that survive a change of tokenizer, and
questions with one right answer.

    perplexity       e^loss: among how many tokens the model hesitates. Of one tokenizer only.
    bits per byte    the loss in bits of all tokens, over the bytes that they spell. Of any tokenizer.
    knowledge        facts of the town whose pair (person, relation) was told in training and never asked
    strangers        facts about people who stand in the prompt alone: is anything read at all?

A completion counts only if it is the right one to the letter. Beside it stands what guessing would reach.
"""

import math
from collections import defaultdict
from itertools import islice

import torch
import torch.nn.functional as F

from common.generate import Sampling, generate


def end_id(tokenizer):
    """The token between two documents."""
    return tokenizer.special.get("<|endoftext|>", tokenizer.eos_ids[0])


def byte_lengths(tokenizer):
    """How many bytes each id spells, (V,); the special tokens, which stand for no text, spell none."""
    lengths = [len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    for i in tokenizer.special.values():
        lengths[i] = 0
    return torch.tensor(lengths)


@torch.no_grad()
def surprise(model, batches, lengths=None):
    """The mean loss over batches of (inputs, targets), each (B, T), and what follows from it.

    lengths (V,): bytes of each id. {"loss" (nats a token), "perplexity", "tokens", and with lengths
    "bits_per_byte", "bytes"}. The model is left in the mode that it was in.
    """
    device, training = next(model.parameters()).device, model.training
    nats, tokens, n_bytes = 0.0, 0, 0
    model.eval()
    for inputs, targets in batches:
        logits = model(inputs.to(device)).flatten(0, 1).float()
        nats += F.cross_entropy(logits, targets.to(device).flatten(), reduction="sum").item()
        tokens += targets.numel()
        n_bytes += 0 if lengths is None else int(lengths[targets].sum())
    model.train(training)
    found = {"loss": nats / tokens, "perplexity": math.exp(min(nats / tokens, 700)), "tokens": tokens}
    return (
        found
        if lengths is None
        else {**found, "bits_per_byte": nats / math.log(2) / max(1, n_bytes), "bytes": n_bytes}
    )


def complete(model, tokenizer, prompts, max_tokens=16, batch=64):
    """The likeliest continuation of each prompt, cut at the end of the line; the prompts may differ in
    length.

    Each prompt begins a new document.
    """
    rows = [[end_id(tokenizer), *tokenizer.encode(prompt)] for prompt in prompts]
    alike = defaultdict(list)  # rows of one batch hold equally many tokens
    for number, row in enumerate(rows):
        alike[len(row)].append(number)
    sampling, texts = Sampling(max_tokens=max_tokens, temperature=0.0, stop=("\n",)), [""] * len(rows)
    for numbers in alike.values():
        for start in range(0, len(numbers), batch):
            part = numbers[start : start + batch]
            answers = generate(model, [rows[i] for i in part], sampling, tokenizer=tokenizer)
            for i, answer in zip(part, answers, strict=True):
                texts[i] = answer.text
    return texts


def exact(rows, texts):
    """The share of rows whose completion is what the model wrote, to the letter, and no part of a word."""
    return sum(begins(text, row["completion"]) for row, text in zip(rows, texts, strict=True)) / len(rows)


def begins(text, words):
    """Whether a text begins with these words: "a pig by" does with "a pig", "a pigeon" does not."""
    return text.startswith(words) and not text[len(words) : len(words) + 1].isalnum()


def knows(model, tokenizer, town, form="cloze", most=100):
    """The share of held-out questions about a town, of the first so many, that a model answers rightly."""
    rows = list(islice(town.questions("held-out", "knowledge", form), most))
    return exact(rows, complete(model, tokenizer, [row["prompt"] for row in rows]))


def quiz(model, tokenizer, town, most=400):
    """{"knowledge_plain", "knowledge_cloze", "knowledge_guess", "strangers", "strangers_guess"}, each 0 to 1.

    most: how many questions of each sort. Guessing about the town means saying the commonest value of each
    relation; about strangers, one of the values in the prompt. Where the context is too short for a page
    about strangers, there are no scores for them.
    """
    scores = {"knowledge_guess": town.guessing()}
    for form in ("plain", "cloze"):
        scores[f"knowledge_{form}"] = knows(model, tokenizer, town, form, most)
    room = model.config.max_seq_len - 20  # for the answer
    rows = islice(town.questions("held-out", "reading", "plain"), min(most, 100))
    rows = [row for row in rows if len(tokenizer.encode(row["prompt"])) <= room]
    if rows:
        scores["strangers"] = exact(rows, complete(model, tokenizer, [r["prompt"] for r in rows]))
        scores["strangers_guess"] = sum(1 / (1 + len(r["rivals"])) for r in rows) / len(rows)
    return scores


def write(model, tokenizer, prompt="", *, max_tokens=160, temperature=0.7, seed=0):
    """A text that the model continues from `prompt`; an empty one begins a new document."""
    row = [end_id(tokenizer), *tokenizer.encode(prompt)]
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, seed=seed)
    return prompt + generate(model, [row], sampling, tokenizer=tokenizer)[0].text
