"""A model as a GGUF file, which llama.cpp and its kin read: the file format, and its blocks Q8_0 and Q4_0.

A block is 32 neighbours of a row and one float16 step d. Q8_0: d, then 32 codes of a byte. Q4_0: d, then 16
bytes, the low halves the first 16 codes and the high ones the others, each plus 8. A QuantLinear with groups
of 32 and no zero is that already, and goes over code by code; other matrices are rounded as llama.cpp does
it: half away from zero in Q8_0, and in Q4_0 with the largest weight, of either sign, falling onto -8.
Nothing is needed to write it. Specification: ggml/docs/gguf.md, version 3.
"""

import json
import struct
from pathlib import Path

import numpy as np
import torch

from common.errors import demand
from common.files import whole_file
from common.model import GPT, Rope, SwiGLU

from .rtn import QuantEmbedding, QuantLinear

F32, Q4_0, Q8_0 = 0, 2, 8  # ggml's numbers of types
KINDS = {"q8_0": Q8_0, "q4_0": Q4_0}
BITS = {Q8_0: 8, Q4_0: 4}
FILE_TYPE = {Q8_0: 7, Q4_0: 2}
BLOCK, ALIGNMENT = 32, 32
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9
NORMAL, CONTROL = 1, 3  # kinds of tokens
NAMES = {
    "attn.wq": "attn_q", "attn.wk": "attn_k", "attn.wv": "attn_v", "attn.wo": "attn_output",
    "norm_attn": "attn_norm", "norm_ffn": "ffn_norm", "ffn.w_gate": "ffn_gate", "ffn.w_up": "ffn_up",
    "ffn.w_down": "ffn_down"}  # fmt: skip


# ---- blocks ----


def halves(d: np.ndarray) -> np.ndarray:
    """Steps (n, 1) float32 -> their float16 as bytes (n, 2)."""
    return d.astype(np.float16).view(np.uint8)


def q8_0(blocks: np.ndarray) -> np.ndarray:
    """(n, 32) float32 -> (n, 34) bytes."""
    d = np.abs(blocks).max(1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore"):
        x = blocks * np.where(d == 0, np.float32(0), 1 / d)
    below = np.floor(np.abs(x))
    codes = np.copysign(below + (np.abs(x) - below >= 0.5), x)  # half away from zero
    return np.concatenate([halves(d), codes.astype(np.int8).view(np.uint8)], 1)


def q4_0(blocks: np.ndarray) -> np.ndarray:
    """(n, 32) float32 -> (n, 18) bytes."""
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(1)[:, None], 1)
    d = largest / np.float32(-8)
    with np.errstate(divide="ignore"):
        x = blocks * np.where(d == 0, np.float32(0), 1 / d)
    codes = np.trunc(x + np.float32(8.5)).clip(0, 15).astype(np.uint8)
    return np.concatenate([halves(d), nibbles(codes)], 1)


def nibbles(codes: np.ndarray) -> np.ndarray:
    """(n, 32) from 0 to 15 -> (n, 16) bytes."""
    return codes[:, :16] | codes[:, 16:] << 4


def blocks_of(layer, rows, kind: int) -> np.ndarray:
    """The bytes of a matrix (out, in), row by row: (out, in / 32 · 34 or 18). rows: their order, or None."""
    if not isinstance(layer, QuantLinear):
        w = layer.weight.detach().float().cpu()
        w = w if rows is None else w[rows]
        demand(w.size(1) % BLOCK == 0, f"GGUF's blocks are of {BLOCK}: rows of {w.size(1)} do not divide")
        blocks = w.numpy().reshape(-1, BLOCK)
        return (q8_0 if kind == Q8_0 else q4_0)(blocks).reshape(len(w), -1)
    alike = layer.bits == BITS[kind] and layer.zero is None and layer.dtype == torch.float16
    what = f"{BITS[kind]} bits in groups of {BLOCK} without a zero"
    demand(alike and layer.in_features == BLOCK * layer.steps.size(1),
           f"this GGUF has {what}, and the model is quantised otherwise: quantise so, or export the floats")
    codes, scale = (x if rows is None else x[rows] for x in (layer.codes.cpu(), layer.grid.scale.cpu()))
    codes, d = codes.numpy().reshape(-1, BLOCK), scale.numpy().reshape(-1, 1).view(np.uint8)
    body = codes.view(np.uint8) if kind == Q8_0 else nibbles((codes + 8).astype(np.uint8))
    return np.concatenate([d, body], 1).reshape(len(layer.codes), -1)


# ---- the model ----


def interleaved(heads: int, head_dim: int) -> torch.Tensor:
    """The order of the rows of wq or wk for a RoPE that turns neighbours, where ours turns halves."""
    return torch.arange(heads * head_dim).view(heads, 2, head_dim // 2).transpose(1, 2).flatten()


def tensors(model: GPT, kind: int):
    """(name, shape, type, bytes) of each tensor, by llama.cpp's names."""
    c, tables = model.config, {"token_embd": model.embed, "output": model.head}
    for name, table in tables.items():
        if name == "token_embd" or not c.tie_embeddings:
            layer = table.table if isinstance(table, QuantEmbedding) else table
            shape = c.vocab_size, c.d_model
            yield f"{name}.weight", shape, kind, blocks_of(layer, None, kind)
    for i, block in enumerate(model.blocks):
        for ours, theirs in NAMES.items():
            layer, name = block.get_submodule(ours), f"blk.{i}.{theirs}.weight"
            if theirs.endswith("norm"):
                yield name, *as_floats(layer.weight)
                continue
            heads = {"attn.wq": c.n_head, "attn.wk": c.n_kv_head}.get(ours)
            rows = interleaved(heads, c.head_dim) if heads else None
            yield name, (layer.out_features, layer.in_features), kind, blocks_of(layer, rows, kind)
    yield "output_norm.weight", *as_floats(model.norm.weight)


def as_floats(weight):
    return tuple(weight.shape), F32, weight.detach().float().cpu().numpy().view(np.uint8)


def facts(model: GPT, kind: int) -> dict:
    """{key: (type, value)} of what llama.cpp must know of the model."""
    c = model.config
    numbers = {
        "context_length": c.max_seq_len, "embedding_length": c.d_model, "block_count": c.n_layer,
        "feed_forward_length": c.d_ff, "attention.head_count": c.n_head, "vocab_size": c.vocab_size,
        "attention.head_count_kv": c.n_kv_head, "attention.key_length": c.head_dim,
        "attention.value_length": c.head_dim, "rope.dimension_count": c.head_dim}  # fmt: skip
    found = {"general.architecture": (STRING, "llama"), "general.name": (STRING, "thirty"),
             "general.file_type": (UINT32, FILE_TYPE[kind])}  # fmt: skip
    found |= {f"llama.{key}": (UINT32, value) for key, value in numbers.items()}
    found |= {"llama.rope.freq_base": (FLOAT32, c.rope_theta),
              "llama.attention.layer_norm_rms_epsilon": (FLOAT32, c.norm_eps)}  # fmt: skip
    return found


def words(folder, vocab_size: int) -> dict:
    """The same of the tokenizer, from the tokenizer.json of a model folder. UserError unless it is a BPE."""
    file = json.loads((Path(folder) / "tokenizer.json").read_text("utf-8"))
    bpe = file["model"]
    demand(bpe["type"] == "BPE", f"the tokenizer is a {bpe['type']}, and only a byte-level BPE is written")
    special = {token["id"]: token["content"] for token in file["added_tokens"]}
    by_id = {id: word for word, id in bpe["vocab"].items()} | special
    names = [by_id.get(i, f"[unused {i}]") for i in range(vocab_size)]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in bpe["merges"]]
    kinds = [CONTROL if i in special else NORMAL for i in range(vocab_size)]
    found = {"tokenizer.ggml.model": (STRING, "gpt2"), "tokenizer.ggml.pre": (STRING, "gpt-2"),
             "tokenizer.ggml.tokens": (ARRAY, (STRING, names)),
             "tokenizer.ggml.token_type": (ARRAY, (INT32, kinds)),
             "tokenizer.ggml.merges": (ARRAY, (STRING, merges))}  # fmt: skip
    ends = [id for id, word in special.items() if word == "<|endoftext|>"]
    return found | ({"tokenizer.ggml.eos_token_id": (UINT32, ends[0])} if ends else {})


# ---- the file ----


def encoded(kind: int, value) -> bytes:
    """A value as the file holds it, without its type."""
    if kind == STRING:
        text = value.encode("utf-8")
        return struct.pack("<Q", len(text)) + text
    if kind == ARRAY:
        inner, items = value
        return struct.pack("<IQ", inner, len(items)) + b"".join(encoded(inner, item) for item in items)
    return struct.pack({UINT32: "<I", INT32: "<i", FLOAT32: "<f"}[kind], value)


def padding(n: int) -> bytes:
    return b"\0" * (-n % ALIGNMENT)


def write(model: GPT, path, kind: str = "q8_0", *, folder=None) -> Path:
    """Write a model, and the tokenizer of `folder` if given. UserError: another kind or another model."""
    demand(kind in KINDS, f"GGUF is written as {' or '.join(KINDS)}, not {kind!r}")
    plain = type(model.rope) is Rope and all(type(block.ffn) is SwiGLU for block in model.blocks)
    demand(plain, "only the course's own Llama shape is written to GGUF: plain RoPE and SwiGLU")
    known = facts(model, KINDS[kind]) | (words(folder, model.config.vocab_size) if folder else {})
    held = list(tensors(model, KINDS[kind]))
    head = [b"GGUF", struct.pack("<IQQ", 3, len(held), len(known))]
    head += [encoded(STRING, key) + struct.pack("<I", kind) + encoded(kind, value)
             for key, (kind, value) in known.items()]  # fmt: skip
    at = 0
    for name, shape, type_, data in held:
        head.append(encoded(STRING, name) + struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape)))
        head.append(struct.pack("<IQ", type_, at))
        at += data.nbytes + len(padding(data.nbytes))
    start = b"".join(head)
    with whole_file(path) as part, open(part, "wb") as file:
        file.write(start + padding(len(start)))
        for *_, data in held:
            file.write(data.tobytes() + padding(data.nbytes))
    return Path(path)
