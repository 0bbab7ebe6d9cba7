"""What a tuned model can do: greedy replies to conversations, each judged right or wrong without a model.

Before: project 3's probe asked a base model to continue a page. New here: the question stands in the chat
template, and the whole reply counts, up to its <|im_end|>: TinyTown's rows bring a checker each.
"""

import json
from collections import defaultdict

import torch

from common.errors import demand
from common.generate import Answer, Sampling, generate
from data.tinytown import check
from data.town_checks import gold

from .sft import marks, prompt

KNOWLEDGE = ("where", "what", "who")  # a fact about a resident, in a full sentence
FOLLOWS = ("knowledge", "list", "json", "persona", "refusal")  # and the forms in which it may be wanted


def asked(row: dict) -> list[dict]:
    """The conversation of a row up to the reply that is wanted."""
    messages = row["messages"]
    return messages[:-1] if messages[-1]["role"] == "assistant" else messages


def replies(model, tokenizer, conversations, **how) -> list[str]:
    """The texts of `answers`: what a greedy model replies to each conversation. how: of `answers`."""
    return [answer.text for answer in answers(model, tokenizer, conversations, **how)]


@torch.no_grad()
def answers(model, tokenizer, conversations, *, max_tokens=48, batch=64, ask=prompt) -> list[Answer]:
    """The likeliest reply to each conversation, up to <|im_end|> or max_tokens, in the order given.

    Conversations of equal length share a batch. Of one that leaves no room for max_tokens the end is read.
    ask: how a conversation becomes ids; by default the chat template.
    """
    room = model.config.max_seq_len - max_tokens
    demand(room > 0, f"max_tokens {max_tokens} leaves no room in a context of {model.config.max_seq_len}")
    rows = [ask(messages, tokenizer)[-room:] for messages in conversations]
    alike = defaultdict(list)  # rows of one batch hold equally many tokens
    for number, row in enumerate(rows):
        alike[len(row)].append(number)
    sampling, found = Sampling(max_tokens=max_tokens, temperature=0.0), [None] * len(rows)
    ends = tuple({marks(tokenizer)[1], *tokenizer.eos_ids})
    for numbers in alike.values():
        for first in range(0, len(numbers), batch):
            part = numbers[first : first + batch]
            said = generate(model, [rows[i] for i in part], sampling, tokenizer=tokenizer, eos_ids=ends)
            for i, answer in zip(part, said, strict=True):
                found[i] = answer
    return found


def score(model, tokenizer, rows, **how) -> dict[str, float]:
    """The share of rows answered rightly, {family: 0 to 1}, by each row's own checker. how: of `replies`."""
    rows, right = list(rows), defaultdict(list)
    said = replies(model, tokenizer, [asked(row) for row in rows], **how)
    for row, reply in zip(rows, said, strict=True):
        right[row["family"]].append(check(row, reply))
    return {family: sum(found) / len(found) for family, found in right.items()}


def macro(scores: dict[str, float], families) -> float:
    """The mean over families, each counting alike; UserError where one was not scored."""
    missing = sorted(set(families) - scores.keys())
    demand(families and not missing, f"no score for {missing or 'any family'}: there are {sorted(scores)}")
    return sum(scores[family] for family in families) / len(families)


def headline(scores: dict[str, float]) -> dict[str, float]:
    """{"knowledge", "follows"} of the scores of families: the mean of KNOWLEDGE, and of FOLLOWS."""
    known = {**scores, "knowledge": macro(scores, KNOWLEDGE)}
    return {"knowledge": known["knowledge"], "follows": macro(known, FOLLOWS)}


def in_form(row: dict, answer: Answer) -> bool:
    """Whether an answer ends by itself, right or wrong, in the form asked for: JSON with the keys, a list, or
    one short line."""
    reply = answer.text
    if answer.finish != "stop":
        return False
    if row["checker"] == "json":
        try:
            found = json.loads(reply)
        except ValueError:
            return False
        return isinstance(found, dict) and found.keys() == json.loads(row["answer"]).keys()
    lines = reply.strip().splitlines()
    if gold(row).startswith("- "):
        return bool(lines) and all(line.startswith("- ") for line in lines)
    return len(lines) == 1 and len(reply.split()) <= 2 * len(gold(row).split()) + 5
