"""Text to ids and back: characters, byte-level BPE, and whatever else a folder holds.

    tokenizer = load("data/models/tokenizer")
    ids = tokenizer.encode("Once upon a time")
    tokenizer.decode(ids)

In the chain's tokenizer (project 2) byte b is id b, merge i is id 256 + i, and the last four ids are SPECIAL.
Text that spells a special token is encoded as ordinary text unless allowed_special ("all", or a collection of
them) says otherwise. An id that does not exist decodes to U+FFFD; with errors="strict" it is a UserError.
"""

import hashlib
import json
import re
import unicodedata
from pathlib import Path
from typing import Protocol

import tiktoken

from common import chat, tokenizer_json
from common.errors import UserError, demand
from common.files import whole_file, write_json
from common.tokenizer_json import SPECIAL

__all__ = ["SPECIAL", "BPETokenizer", "CharTokenizer", "ForeignTokenizer", "Tokenizer", "load"]
REPLACEMENT = "\ufffd".encode()


class Tokenizer(Protocol):
    """What every tokenizer can do. vocab_size: the highest id plus one; sha256: of its tokenizer.json."""

    vocab_size: int
    sha256: str
    special: dict[str, int]
    eos_ids: tuple[int, ...]  # what ends an answer: end of text, end of turn
    bos_id: int | None
    pad_id: int | None

    def encode(self, text: str, allowed_special=()) -> list[int]: ...

    def decode(self, ids, errors: str = "replace") -> str: ...

    def token_bytes(self, token: int) -> bytes: ...

    def chat_text(self, messages, *, add_generation_prompt: bool = False) -> str: ...

    def chat_ids(self, messages, *, add_generation_prompt: bool = False) -> list[int]: ...

    def save(self, folder) -> None: ...


class Base:
    """What all have in common. raw: the bytes of tokenizer.json, which are saved as they came; config: what
    tokenizer_config.json says beside it; vocabulary: {id: bytes}; special: {text: id}."""

    def __init__(self, raw, config, vocabulary, special, eos_ids=()):
        self.raw, self.config, self.vocabulary, self.special = raw, config, vocabulary, special
        self.sha256 = hashlib.sha256(raw).hexdigest()
        self.vocab_size = max(vocabulary, default=-1) + 1
        self.bos_id, self.pad_id = self._named("bos_token"), self._named("pad_token")
        ends = self._named("eos_token"), special.get("<|im_end|>"), *eos_ids
        self.eos_ids = tuple(dict.fromkeys(i for i in ends if i is not None))

    def _named(self, name):
        token = self.config.get(name)
        return self.special.get(token["content"] if isinstance(token, dict) else token)

    def _allowed(self, allowed_special):
        allowed = set(self.special if allowed_special == "all" else allowed_special)
        unknown = sorted(allowed - set(self.special))
        demand(not unknown, f"{unknown} are no special tokens of this tokenizer: it has {list(self.special)}")
        return allowed

    def token_bytes(self, token):
        """The bytes of one token, which may be part of a character; for an id that is none, U+FFFD's."""
        return self.vocabulary.get(int(token), REPLACEMENT)

    def decode(self, ids, errors="replace"):
        """Ids -> text. What is no text becomes U+FFFD, or with errors="strict" a UserError."""
        ids = [int(i) for i in ids]
        missing = [i for i in ids if i not in self.vocabulary]
        demand(not missing or errors == "replace", f"no token has the id {missing[:1]}")
        try:
            return b"".join(map(self.token_bytes, ids)).decode("utf-8", errors)
        except UnicodeDecodeError as error:
            raise UserError(f"these ids spell no text: {error}") from None

    def _template(self):
        names = {name: self.config.get(name) for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
        tokens = {k: v["content"] if isinstance(v, dict) else v for k, v in names.items() if v}
        return {"template": self.config.get("chat_template"), **tokens}

    def chat_text(self, messages, *, add_generation_prompt=False):
        """Messages [{"role", "content"}] as the one text that the model was trained to continue."""
        return chat.render(messages=messages, add_generation_prompt=add_generation_prompt, **self._template())

    def chat_ids(self, messages, *, add_generation_prompt=False):
        """The ids of chat_text; special tokens that a message spells are ordinary text in it."""
        settings = {"add_generation_prompt": add_generation_prompt, **self._template()}
        parts = chat.segments(messages=messages, special=self.special, **settings)
        return [i for part, special in parts for i in self.encode(part, self.special if special else ())]

    def save(self, folder):
        """Write tokenizer.json and tokenizer_config.json into a folder."""
        with whole_file(Path(folder) / "tokenizer.json") as part:
            part.write_bytes(self.raw)
        write_json(Path(folder) / "tokenizer_config.json", self.config)


class CharTokenizer(Base):
    """Character i of a list is id i. A character that is not in the list is a UserError."""

    def __init__(self, characters, config=None):
        self.ids = {character: i for i, character in enumerate(characters)}
        demand(len(self.ids) == len(characters) > 0, "a CharTokenizer needs characters, each once")
        file = {"version": "1.0", "model": {"type": "Characters", "characters": "".join(characters)}}
        raw = json.dumps(file, ensure_ascii=False, indent=2).encode()
        vocabulary = {i: character.encode() for character, i in self.ids.items()}
        super().__init__(raw, config or {"tokenizer_class": "CharTokenizer"}, vocabulary, {})

    @classmethod
    def train(cls, text):
        """The tokenizer of all characters of a text, in the order of their code points."""
        return cls(sorted(set(text)))

    def encode(self, text, allowed_special=()):
        self._allowed(allowed_special)
        strange = sorted(set(text) - self.ids.keys())
        known = f"the {self.vocab_size} characters that this tokenizer knows"
        demand(
            not strange, f"{strange[:3]} not among {known}: leave them out, or train on a text that has them"
        )
        return [self.ids[character] for character in text]


class BPETokenizer(Base):
    """Byte-level BPE through tiktoken. ranks: {bytes: id}; added: {text: (id, whether special)}."""

    def __init__(self, raw, config, ranks, added, pattern, nfc=False, eos_ids=()):
        self.ranks, self.pattern, self.nfc = ranks, pattern, nfc
        special = {text: i for text, (i, is_special) in added.items() if is_special}
        self.always = {text for text, (_, is_special) in added.items() if not is_special}
        vocabulary = {i: token for token, i in ranks.items()} | {
            i: text.encode() for text, (i, _) in added.items()
        }
        super().__init__(raw, config, vocabulary, special, eos_ids)
        tokens = {text: i for text, (i, _) in added.items()}
        self.encoding = tiktoken.Encoding(
            self.sha256, pat_str=pattern, mergeable_ranks=ranks, special_tokens=tokens
        )

    def encode(self, text, allowed_special=()):
        text = unicodedata.normalize("NFC", text) if self.nfc else text
        allowed = self._allowed(allowed_special) | self.always
        return self.encoding.encode(text, allowed_special=allowed, disallowed_special=())


class ForeignTokenizer(Base):
    """Any other tokenizer.json, through the tokenizers library: SentencePiece's kind, WordPiece."""

    def __init__(self, raw, config, eos_ids=()):
        try:
            import tokenizers
        except ImportError:
            reason = "this tokenizer.json is no plain byte-level BPE: to read it takes the tokenizers library"
            raise UserError(f"{reason} (pip install tokenizers)") from None
        try:
            self.inner = tokenizers.Tokenizer.from_str(raw.decode())
        except Exception as error:  # the library raises nothing narrower
            raise UserError(f"tokenizer.json is damaged, or no tokenizer: {error}") from None
        added = self.inner.get_added_tokens_decoder()
        special = {token.content: i for i, token in added.items() if token.special}
        by_id = {i: token for token, i in self.inner.get_vocab().items()}
        vocabulary = {i: self._spelt(token, i in added) for i, token in by_id.items()}
        super().__init__(raw, config, vocabulary, special, eos_ids)

    def _spelt(self, token, added):
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
        if byte and not added:
            return bytes.fromhex(byte[1])
        return token.replace("\u2581", " ").encode()  # SentencePiece writes a space so

    def encode(self, text, allowed_special=()):
        allowed = self._allowed(allowed_special)
        self.inner.encode_special_tokens = True  # as text
        parts = re.split("(" + "|".join(map(re.escape, allowed)) + ")", text) if allowed else [text]
        ids = []
        for i, part in enumerate(parts):
            whole = [self.special[part]] if i % 2 else self.inner.encode(part, add_special_tokens=False).ids
            ids += whole
        return ids

    def decode(self, ids, errors="replace"):
        ids = [int(i) for i in ids]
        if any(i not in self.vocabulary for i in ids):
            return super().decode(ids, errors)
        return self.inner.decode(ids, skip_special_tokens=False)


def load(folder) -> Tokenizer:
    """The tokenizer of a model folder, ours or another's; UserError where there is none or it is damaged."""
    folder = Path(folder)
    path = folder / "tokenizer.json"
    demand(path.is_file(), f"{folder} holds no tokenizer.json; the chain's is made by: ./thirty run 2")
    raw = path.read_bytes()
    try:
        file = json.loads(raw)
        kind = file["model"].get("type", "BPE")
        found = tokenizer_json.read(file) if kind == "BPE" else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged, or no tokenizer: {type(error).__name__}: {error}") from None
    config, eos_ids = tokenizer_json.read_config(folder, file)
    if kind == "Characters":
        return CharTokenizer(file["model"]["characters"], config)
    return BPETokenizer(raw, config, *found, eos_ids) if found else ForeignTokenizer(raw, config, eos_ids)
