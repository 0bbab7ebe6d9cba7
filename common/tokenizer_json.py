"""What a folder's JSON files say of its tokenizer, where it is a byte-level BPE.

tokenizer.json is the file of the `tokenizers` library. A byte stands there as a printable character: itself
where it is one, else one from U+0100 on (GPT-2's table).
"""

import json

from common import chat
from common.errors import UserError

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|pad|>",
)  # the chain's, and the last ids in this order
# the three ways to split a text that byte-level folders use
GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# SmolLM's: each digit alone, then GPT-2's for what lies between; spaces before a digit are spaces at an end
DIGITS = r"\p{N}|'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?=\p{N})|\s+(?!\S)|\s+"


def letters():
    """{byte: the character that stands for it}"""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + k) for k, byte in enumerate(rest)}


def split_pattern(node):
    """The regular expression of a pre_tokenizer entry; None where it does what one cannot say."""
    parts = node["pretokenizers"] if node and node["type"] == "Sequence" else [node]
    *before, level = [part or {} for part in parts]
    if level.get("type") != "ByteLevel" or level.get("add_prefix_space"):
        return None
    if level.get("use_regex", True):
        digits = [{"type": "Digits", "individual_digits": True}]
        return {0: GPT2, 1: DIGITS if before == digits else None}.get(len(before))
    if len(before) != 1 or before[0].get("type") != "Split" or before[0].get("invert"):
        return None
    return before[0]["pattern"].get("Regex") if before[0].get("behavior") == "Isolated" else None


def byte_ranks(model, added):
    """{token's bytes: id} of a BPE whose ids rise with its merges; None where it is anything else."""
    byte_of = {letter: byte for byte, letter in letters().items()}
    vocab = {token: i for token, i in model["vocab"].items() if token not in added}
    if not all(set(token) <= byte_of.keys() for token in vocab):
        return None
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    merged = list(dict.fromkeys(a + b for a, b in pairs))
    order = [vocab.get(token, -1) for token in merged]
    known = len(set(byte_of) & vocab.keys()) == 256 and len(merged) + 256 == len(vocab)
    if not known or order != sorted(order) or min(order, default=0) < 0:
        return None
    return {bytes(map(byte_of.__getitem__, token)): i for token, i in vocab.items()}


def read(file):
    """(ranks, added tokens {text: (id, special)}, pattern, whether text is put in NFC first), or None."""
    added = {entry["content"]: (entry["id"], entry["special"]) for entry in file.get("added_tokens") or []}
    odd = ("lstrip", "rstrip", "single_word")
    plain = not any(entry.get(name) for entry in file.get("added_tokens") or [] for name in odd)
    model, normalizer = file["model"], file.get("normalizer")
    plain = plain and normalizer in (None, {"type": "NFC"}) and model.get("type", "BPE") == "BPE"
    plain = plain and not model.get("byte_fallback") and not model.get("dropout")
    pattern = split_pattern(file.get("pre_tokenizer")) if plain else None
    ranks = byte_ranks(model, added) if pattern else None
    return (ranks, added, pattern, normalizer is not None) if ranks else None


def read_config(folder, file):
    """What tokenizer_config.json says, or would say; and the ids that end an answer, of generation_config."""
    beside = {}
    for name in ("tokenizer_config.json", "generation_config.json"):
        path = folder / name
        try:
            beside[name] = json.loads(path.read_text("utf-8")) if path.is_file() else {}
        except ValueError as error:
            raise UserError(f"{path} is damaged: {error}") from None
    special = {entry["content"] for entry in file.get("added_tokens") or []}
    config = beside["tokenizer_config.json"] or default_config(special)
    template = config.get("chat_template")
    if isinstance(template, list):
        config["chat_template"] = {entry["name"]: entry["template"] for entry in template}.get("default")
    if (folder / "chat_template.jinja").is_file():
        config["chat_template"] = (folder / "chat_template.jinja").read_text("utf-8")
    ends = beside["generation_config.json"].get("eos_token_id", [])
    return config, ends if isinstance(ends, list) else [ends]


def default_config(special):
    """The chain's tokenizer_config.json, as far as these special tokens go."""
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    config |= {"eos_token": SPECIAL[0]} if SPECIAL[0] in special else {}
    config |= {"pad_token": SPECIAL[3]} if SPECIAL[3] in special else {}
    return config | ({"chat_template": chat.CHATML} if set(SPECIAL) <= special else {})
