"""JSON and nothing else: only tokens may be drawn with which the text can still become JSON.

Came before: to ask for JSON in the prompt, parse what comes, and try again (`is_json`). New here: a
*pushdown automaton* reads the text as it is written. Its stack says what is still owed: a value, a colon,
the rest of an object. A token is allowed if its bytes, one after the other, lead from this stack to another.
All others get the probability 0, and the rest is drawn from as usual; so it is exact, and works with any
model, even one that has never seen JSON. It cannot make a model say the right thing, and an answer that
`max_tokens` cuts off is cut off.

    {"a": [1      stack: more pairs, more items, 1       may follow: digits . e , ] and one blank
    {"a": [1]}    stack: empty                           may follow: the end of the text alone

Which tokens those are is worked out once for each stack that occurs, by walking down a tree of all tokens.
Willard & Louf 2023, 2307.09702 (guided generation); RFC 8259 (JSON); Dong et al. 2024, 2411.15100 (XGrammar).
"""

import json
from functools import lru_cache

import torch

from common.errors import demand
from common.exercise import exercise

BLANKS, DEPTH = " \n", 32  # one blank at a time, so many values inside one another: else it need never end
HEX = "0123456789abcdefABCDEF"
# After what part of a number which characters lead to which part; those in WHOLE may also end it.
NUMBER = {"-": {"0": "0", "123456789": "1"}, "0": {".": ".", "eE": "e"},
          "1": {"0123456789": "1", ".": ".", "eE": "e"}, ".": {"0123456789": "f"},
          "f": {"0123456789": "f", "eE": "e"}, "e": {"+-": "s", "0123456789": "x"},
          "s": {"0123456789": "x"}, "x": {"0123456789": "x"}}  # fmt: skip
WHOLE = ("0", "1", "f", "x")
BETWEEN = ("object", "value", "first key", "key", "colon", "more pairs", "first item", "more items")


def is_json(text):
    """The naive way: is it an object? Known only when it is too late. The text and the oracle."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def begin(rest, c):
    """The stack behind the first character of a value, on top of what is owed afterwards; or None."""
    first = {"{": "first key", "[": "first item", '"': "string", "-": "-", "0": "0",
             "t": "=rue", "f": "=alse", "n": "=ull"}  # fmt: skip
    name = first.get(c) or ("1" if c in "123456789" else None)
    deep = c in "{[" and len(rest) > DEPTH
    return None if name is None or deep else (*rest, name)


@exercise
def structure(rest, top, c):
    """What stands between values: (what is owed below, what is owed now, one of BETWEEN, and a character) ->
    the new stack, or None.

    object: a {. first key: a key or }. key: a key. A key is a " and owes: string, colon, value, more pairs,
    in this order, the last of a stack being the next that is due. colon: a :. more pairs: , and then a key,
    or }. value: see `begin`. first item: a value, behind which more items are owed, or ]. more items: , and
    then a value and more items, or ].
    """
    pair = (*rest, "more pairs", "value", "colon", "string")
    if top in ("value", "object"):
        return begin(rest, c) if top == "value" or c == "{" else None
    if top == "first item" and c != "]":
        return begin((*rest, "more items"), c)
    found = {("first key", '"'): pair, ("key", '"'): pair, ("first key", "}"): rest, ("colon", ":"): rest,
             ("more pairs", ","): (*rest, "key"), ("more pairs", "}"): rest, ("first item", "]"): rest,
             ("more items", ","): (*rest, "more items", "value"), ("more items", "]"): rest}  # fmt: skip
    return found.get((top, c))


def step(stack, c):
    """The stack after one more character (a byte as chr gives it), or None where no JSON goes on so."""
    if not stack:
        return None
    rest, top = stack[:-1], stack[-1]
    if top == "blank":
        return None if c in BLANKS else step(rest, c)
    if c in BLANKS and top in BETWEEN:
        return (*stack, "blank")
    if top in NUMBER:
        part = next((name for some, name in NUMBER[top].items() if c in some), None)
        return (*rest, part) if part else step(stack[:-1], c) if top in WHOLE else None
    if top == "string":
        return rest if c == '"' else (*stack, "escape") if c == "\\" else stack if c >= " " else None
    if top == "escape":
        return (*rest, *["hex"] * 4) if c == "u" else rest if c in '"\\/bfnrt' else None
    if top == "hex":
        return rest if c in HEX else None
    if top.startswith("="):  # what is left of true, false, null
        return None if c != top[1] else (*rest, "=" + top[2:]) if top[2:] else rest
    return structure(rest, top, c)


def read(text, stack=("object",)):
    """The stack after a whole text; None where it is no beginning of JSON."""
    for byte in text.encode() if isinstance(text, str) else text:
        stack = step(stack, chr(byte))
        if stack is None:
            return None
    return stack


class Vocabulary:
    """All tokens of a tokenizer, for asking which may follow. Special tokens never do, but for the end."""

    def __init__(self, tokenizer, size):
        demand(tokenizer.eos_ids, "JSON mode needs a token that ends the text, and this tokenizer has none")
        special = {*tokenizer.special.values(), *tokenizer.eos_ids}
        self.size, self.end = size, torch.zeros(size, dtype=torch.bool)
        self.end[list(tokenizer.eos_ids)] = True
        self.bytes = {i: tokenizer.token_bytes(i) for i in range(min(size, tokenizer.vocab_size))
                      if i not in special}  # fmt: skip
        plain = {i for i, token in self.bytes.items() if token and not set(token) & {34, 92, *range(32)}}
        self.inside = self.mask(plain)  # what goes on in the middle of a string, whatever the stack
        self.tree = self.grown(self.bytes)
        self.others = self.grown(self.bytes.keys() - plain)
        self.allowed = lru_cache(256)(self.allowed)

    def mask(self, ids):
        found = torch.zeros(self.size, dtype=torch.bool)
        found[list(ids)] = True
        return found

    def grown(self, ids):
        """A tree by bytes; under "" the ids of the tokens that end there."""
        root = {}
        for id in ids:
            node = root
            for byte in self.bytes[id]:
                node = node.setdefault(chr(byte), {})
            if self.bytes[id]:
                node.setdefault("", []).append(id)
        return root

    def allowed(self, stack):
        """Which ids may follow: a bool mask (V,). The end alone where nothing is owed."""
        if not stack:
            return self.end
        found, within = [], stack[-1] == "string"
        nodes = [(self.others if within else self.tree, stack)]
        while nodes:
            node, here = nodes.pop()
            for c, below in node.items():
                if c == "":
                    found += below
                elif (new := step(here, c)) is not None:
                    nodes.append((below, new))
        mask = self.mask(found)
        mask = mask | self.inside if within else mask
        return mask if mask.any() else self.end  # a vocabulary that lacks what is owed


class JsonGuide:
    """One request's automaton: `allowed()` before each draw, `push(id)` after it."""

    def __init__(self, vocabulary):
        self.vocabulary, self.stack = vocabulary, ("object",)

    def allowed(self):
        return self.vocabulary.allowed(self.stack)

    def push(self, id):
        for byte in self.vocabulary.bytes.get(id, b""):
            self.stack = step(self.stack, chr(byte))
