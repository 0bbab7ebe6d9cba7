"""The model as a file that others run: ONNX, AOTInductor, GGUF, OpenVINO, TensorRT.

Came before: a graph that we run ourselves (plan.py). New here: a graph that leaves. What goes over a border
has no Python and no memory of its own, so the cache goes in and comes out (`PastStep`), and sizes that shall
stay open are named (`Dim`); each format has its own operators, and what it lacks is named before it fails.

Each exporter imports its package where it is used; without it: a UserError that names the extra.

Seam: the contract (a cache that is an input), then files. ONNX 1.23, opset 20; GGUF 3 (ggml/docs/gguf.md).
"""

import json
import logging
import warnings
from collections import Counter
from importlib import import_module, metadata
from pathlib import Path

import torch
from torch import nn
from torch.export import Dim

from common.cli.extras import command
from common.errors import UserError, demand
from common.exercise import exercise
from common.files import whole_file
from common.model import GPT, Rope, SwiGLU

from .capture import DecodeStep, example, reason

OPSET = 20
CHATTER = "torch.onnx._internal.exporter._registration"  # says what it would know of torchvision
GGUF_NAMES = {
    "attn.wq": "attn_q", "attn.wk": "attn_k", "attn.wv": "attn_v", "attn.wo": "attn_output",
    "norm_attn": "attn_norm", "norm_ffn": "ffn_norm", "ffn.w_gate": "ffn_gate", "ffn.w_up": "ffn_up",
    "ffn.w_down": "ffn_down"}  # fmt: skip


def needed(package, extra="export"):
    """The package; UserError in one line where it is not installed."""
    try:
        return import_module(package)
    except ImportError:
        raise UserError(f"this needs the package {package}: {command(extra)}") from None


# ---- a cache that goes in and comes out ----


class Past:
    """A cache of one block for one call: what was given, and after `update` what to give back."""

    def __init__(self, k, v):
        self.k, self.v = k, v

    def update(self, k, v, positions):
        """Both (B, K, P, D) with (B, K, T, D) behind them; kept for the caller."""
        self.k, self.v = torch.cat((self.k, k), 2), torch.cat((self.v, v), 2)
        return self.k, self.v


class PastStep(nn.Module):
    """The model without memory: (tokens (B, T), k0, v0, k1, … (B, K, P, D)) -> (logits (B, T, V), k0, v0, …).

    The caches that come back hold P + T tokens. P is 0 for a prompt. B, T and P may be open in a graph.
    """

    def __init__(self, model):
        super().__init__()
        self.model = model

    @exercise
    def forward(self, tokens, *past):
        """See above. The mask is written out, as an open T cannot be asked whether it is 1.

        The new tokens stand at positions P … P + T − 1, all rows at one place; the mask (T, P + T) lets each
        look at itself and what comes before it.
        """
        T, P = tokens.size(1), past[0].size(2)
        positions = P + torch.arange(T, device=tokens.device)  # (T,)
        mask = positions[:, None] >= torch.arange(P + T, device=tokens.device)  # (T, P + T)
        caches = [Past(k, v) for k, v in zip(past[::2], past[1::2], strict=True)]
        logits = self.model(tokens, positions=positions, caches=caches, mask=mask)
        return logits, *(x for cache in caches for x in (cache.k, cache.v))


def no_past(model, B=1, P=0):
    """Caches that hold P tokens of zeros: (B, K, P, D), two for each block."""
    c = model.config
    weight = model.embed.weight
    return tuple(weight.new_zeros(B, c.n_kv_head, P, c.head_dim) for _ in range(2 * c.n_layer))


def names_of_past(model):
    """k0, v0, k1, …"""
    return [f"{kind}{i}" for i in range(model.config.n_layer) for kind in "kv"]


def open_sizes(model):
    """What may vary, as `torch.export` takes it: rows, new tokens, tokens in the cache."""
    most = model.config.max_seq_len
    B, T, P = Dim("B", max=4096), Dim("T", max=most), Dim("P", max=most)
    past = tuple({0: B, 2: P} for _ in names_of_past(model))
    return {"tokens": {0: B, 1: T}, "past": past}


# ---- onnx ----


def to_onnx(model, path):
    """Write a step with caches in and out, of open sizes. Returns the path; weights may lie beside it.

    Inputs: tokens, k0, v0, …; outputs: logits, new_k0, new_v0, … UserError that names what ONNX has no
    operator for.
    """
    for package in ("onnx", "onnxscript"):
        needed(package)
    names = names_of_past(model)
    tokens = torch.zeros(2, 3, dtype=torch.long)
    # sizes of the example that no size of the model equals, and none of them 0 or 1: those would be taken
    # for constants
    past = no_past(model, 2, 5)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    logging.getLogger(CHATTER).setLevel(logging.ERROR)
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names of equal sizes, and its own use of old interfaces
            program = torch.onnx.export(
                PastStep(model).eval(), (tokens, *past), dynamo=True, opset_version=OPSET, verbose=False,
                input_names=["tokens", *names], dynamic_shapes=open_sizes(model),
                output_names=["logits", *(f"new_{name}" for name in names)])  # fmt: skip
    except torch.onnx.errors.OnnxExporterError as error:
        raise UserError(f"ONNX cannot hold this model: {missing_operator(error)}") from error
    program.save(path)
    return path


def missing_operator(error):
    """What an exporter had no words for: the first line of the chain of errors that names an operator;
    where none does, what the innermost error says."""
    said, lines = error, []
    while said is not None:
        lines += [line.strip() for line in str(said).splitlines()]
        error, said = said, said.__cause__
    named = [line for line in lines if "::" in line or "OpOverload" in line or "aten." in line]
    return (named or [reason(error)])[0]


def nodes_of(path):
    """Counter of the operators of an ONNX file."""
    return Counter(node.op_type for node in needed("onnx").load(path, load_external_data=False).graph.node)


def to_int8(path, to):
    """An ONNX file with the weights of its products as 8-bit codes, and inputs rounded as they come."""
    quantization = needed("onnxruntime.quantization")
    quantization.quantize_dynamic(path, to, weight_type=quantization.QuantType.QInt8,
                                  op_types_to_quantize=["MatMul", "Gemm"])  # fmt: skip
    return Path(to)


# ---- what stays near: aotinductor, openvino, tensorrt ----


def to_aotinductor(model, caches, path):
    """Compile project 8's step ahead of time into a package (.pt2) with weights and caches of its own.

    It needs a C++ compiler and about half a minute. Load it with `torch._inductor.aoti_load_package(path)`.
    """
    with torch.no_grad():
        program = torch.export.export(DecodeStep(model.eval(), caches), example(model), strict=False)
        return Path(torch._inductor.aoti_compile_and_package(program, package_path=str(path)))


def to_openvino(path):
    """An ONNX file as a model that OpenVINO has compiled for the CPU: compiled(inputs) -> outputs."""
    core = needed("openvino").Core()
    return core.compile_model(core.read_model(str(path)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})


def to_tensorrt(path):  # pragma: no cover - gpu
    """An ONNX file as a serialised TensorRT engine for one row, one new token, up to 4,096 in the cache."""
    trt = needed("tensorrt")
    log = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(log)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, log)
    demand(parser.parse_from_file(str(path)), f"TensorRT: {parser.get_error(0) if parser.num_errors else ''}")
    profile = builder.create_optimization_profile()
    for i in range(network.num_inputs):
        entry = network.get_input(i)
        shapes = [[{0: 1}.get(axis, P if len(entry.shape) == 4 else 1) if size < 0 else size
                   for axis, size in enumerate(entry.shape)] for P in (1, 512, 4096)]  # fmt: skip
        profile.set_shape(entry.name, *shapes)
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


# ---- gguf ----


def interleaved(heads, head_dim):
    """The order of the rows of wq or wk for a RoPE that turns neighbours, where ours turns halves."""
    return torch.arange(heads * head_dim).view(heads, 2, head_dim // 2).transpose(1, 2).flatten()


def gguf_tensors(model):
    """(llama.cpp's name, array) of each tensor, float32; q and k in the order that its RoPE turns."""
    heads = {"attn.wq": model.config.n_head, "attn.wk": model.config.n_kv_head}
    yield "token_embd.weight", model.embed.weight
    for i, block in enumerate(model.blocks):
        for ours, theirs in GGUF_NAMES.items():
            weight = block.get_submodule(ours).weight
            rows = interleaved(heads[ours], model.config.head_dim) if ours in heads else slice(None)
            yield f"blk.{i}.{theirs}.weight", weight[rows]
    yield "output_norm.weight", model.norm.weight
    if not model.config.tie_embeddings:
        yield "output.weight", model.head.weight


def to_gguf(model, path, folder=None):
    """Write a model, in floats, and the tokenizer of a model folder if given, through the package gguf."""
    gguf, c = needed("gguf"), model.config
    plain = type(model.rope) is Rope and all(type(block.ffn) is SwiGLU for block in model.blocks)
    demand(plain and isinstance(model, GPT), "only the course's own Llama shape is written to GGUF")
    with whole_file(path) as part:
        out = gguf.GGUFWriter(str(part), "llama")
        out.add_name("thirty")
        out.add_context_length(c.max_seq_len)
        out.add_embedding_length(c.d_model)
        out.add_block_count(c.n_layer)
        out.add_feed_forward_length(c.d_ff)
        out.add_head_count(c.n_head)
        out.add_head_count_kv(c.n_kv_head)
        out.add_key_length(c.head_dim)
        out.add_value_length(c.head_dim)
        out.add_rope_dimension_count(c.head_dim)
        out.add_rope_freq_base(c.rope_theta)
        out.add_layer_norm_rms_eps(c.norm_eps)
        out.add_vocab_size(c.vocab_size)
        out.add_file_type(gguf.LlamaFileType.ALL_F32)
        if folder is not None:
            add_words(gguf, out, Path(folder), c.vocab_size)
        for name, tensor in gguf_tensors(model):
            out.add_tensor(name, tensor.detach().float().cpu().contiguous().numpy())
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
        out.close()
    return Path(path)


def add_words(gguf, out, folder, vocab_size):
    """The byte-level BPE of a folder's tokenizer.json."""
    file = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    demand(file["model"]["type"] == "BPE", "only a byte-level BPE is written to GGUF")
    special = {token["id"]: token["content"] for token in file["added_tokens"]}
    by_id = {id: word for word, id in file["model"]["vocab"].items()} | special
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in file["model"]["merges"]]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list([by_id.get(i, f"[unused {i}]") for i in range(vocab_size)])
    out.add_token_types([gguf.TokenType.CONTROL if i in special else gguf.TokenType.NORMAL
                         for i in range(vocab_size)])  # fmt: skip
    out.add_token_merges(merges)


def version(package):
    """The version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
