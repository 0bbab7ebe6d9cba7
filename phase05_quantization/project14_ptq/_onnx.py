"""A model as an ONNX file with 8-bit weights and integer products, for ONNX Runtime and others.

Each matrix: DynamicQuantizeLinear rounds its input to unsigned bytes by one scale and one zero point,
MatMulInteger multiplies with the codes, exactly, in 32 bits, and the product is scaled back. The graph is
written node by node, as the model reads; it takes tokens (B, T) and has no cache (project 26 exports that).
Needs the package onnx: the extra export.
"""

from pathlib import Path

import numpy as np

from common.cli.extras import command
from common.errors import UserError, demand
from common.files import whole_file
from common.model import GPT, Rope, SwiGLU

from .integer import rows_of_bytes
from .rtn import QuantEmbedding, QuantLinear

OPSET, IR = 18, 9
LAYOUT = "ONNX takes 8 bits, one step to a row and no zero: quantise so, or export the floats"
LIMIT = 2**31  # bytes of one file of this kind


class Graph:
    """Nodes and weights in the order in which they are asked for; every method returns a name."""

    def __init__(self, onnx):
        self.onnx, self.nodes, self.weights, self.rounded = onnx, [], {}, {}

    def node(self, op: str, *inputs: str, outputs=1, **attributes):
        """Add a node; the name of its output, or a list of them."""
        names = [f"{op}_{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(self.onnx.helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def weight(self, values, dtype=np.float32, name="") -> str:
        """A constant; equal small ones are not looked for, but a name is kept once."""
        name = name or f"c{len(self.weights)}"
        if name not in self.weights:
            array = np.ascontiguousarray(np.asarray(values, dtype))
            self.weights[name] = self.onnx.numpy_helper.from_array(array, name)
        return name

    def floats(self, tensor) -> str:
        return self.weight(tensor.detach().float().numpy())

    def shape(self, *sizes: int) -> str:
        return self.weight(sizes, np.int64)

    def linear(self, x: str, layer, name: str, turned: str = "") -> str:
        """x · wᵀ in integers. turned: the name of codes (out, in) that are there already."""
        layer = layer if isinstance(layer, QuantLinear) else QuantLinear.from_linear(layer, 8)
        demand(rows_of_bytes(layer), LAYOUT)
        if x not in self.rounded:  # what several matrices read is rounded once
            self.rounded[x] = self.node("DynamicQuantizeLinear", x, outputs=3)
        x8, step, zero = self.rounded[x]
        codes = (self.node("Transpose", turned, perm=[1, 0]) if turned
                 else self.weight(layer.codes.numpy().T, np.int8, name))  # fmt: skip
        y = self.node("Cast", self.node("MatMulInteger", x8, codes, zero), to=self.onnx.TensorProto.FLOAT)
        steps = self.weight(layer.grid.scale.float().numpy()[:, 0], name=f"{name}.scale")
        y = self.node("Mul", y, self.node("Mul", step, steps))
        return y if layer.bias is None else self.node("Add", y, self.floats(layer.bias))

    def norm(self, x: str, module) -> str:
        square = self.node("ReduceMean", self.node("Mul", x, x), self.shape(-1), keepdims=1)
        size = self.node("Sqrt", self.node("Add", square, self.weight(module.eps)))
        return self.node("Mul", self.node("Div", x, size), self.floats(module.weight))

    def heads(self, x: str, n: int, head_dim: int) -> str:
        """(B, T, n · D) -> (B, n, T, D)"""
        parted = self.node("Reshape", x, self.shape(0, 0, n, head_dim))
        return self.node("Transpose", parted, perm=[0, 2, 1, 3])

    def repeated(self, x: str, n: int, heads: int, head_dim: int) -> str:
        """(B, K, T, D) -> (B, heads = K · n, T, D): each head n times, side by side."""
        tiled = self.node("Tile", self.node("Unsqueeze", x, self.shape(2)), self.shape(1, 1, n, 1, 1))
        return self.node("Reshape", tiled, self.shape(0, heads, -1, head_dim))

    def rotated(self, x: str, cos: str, sin: str) -> str:
        a, b = self.node("Split", x, outputs=2, axis=-1, num_outputs=2)
        first = self.node("Sub", self.node("Mul", a, cos), self.node("Mul", b, sin))
        second = self.node("Add", self.node("Mul", b, cos), self.node("Mul", a, sin))
        return self.node("Concat", first, second, axis=-1)


def places(g: Graph, model: GPT) -> tuple[str, str, str]:
    """(cos (T, D/2), sin (T, D/2), mask (T, T)) for as many tokens as there are."""
    T = g.node("Squeeze", g.node("Shape", "tokens", start=1, end=2))
    at = g.node("Range", g.weight(0, np.int64), T, g.weight(1, np.int64))
    rows, columns = (g.node("Unsqueeze", at, g.shape(axis)) for axis in (1, 0))
    freq = g.weight(model.rope.inv_freq("cpu").numpy()[None])
    angles = g.node("Mul", g.node("Cast", rows, to=g.onnx.TensorProto.FLOAT), freq)
    look = g.node("GreaterOrEqual", rows, columns)
    mask = g.node("Where", look, g.weight(0.0), g.weight(-1e9))
    return g.node("Cos", angles), g.node("Sin", angles), mask


def attention(g: Graph, x: str, attn, config, place, name: str) -> str:
    (cos, sin, mask), H, K, D = place, config.n_head, config.n_kv_head, config.head_dim
    q, k, v = (g.heads(g.linear(x, getattr(attn, part), f"{name}.{part}"), n, D)
               for part, n in (("wq", H), ("wk", K), ("wv", K)))  # fmt: skip
    q, k = g.rotated(q, cos, sin), g.rotated(k, cos, sin)
    if K < H:
        k, v = (g.repeated(y, H // K, H, D) for y in (k, v))
    scores = g.node("MatMul", q, g.node("Transpose", k, perm=[0, 1, 3, 2]))
    scores = g.node("Add", g.node("Mul", scores, g.weight(D**-0.5)), mask)
    y = g.node("Transpose", g.node("MatMul", g.node("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
    return g.linear(g.node("Reshape", y, g.shape(0, 0, H * D)), attn.wo, f"{name}.wo")


def feed_forward(g: Graph, x: str, ffn, name: str) -> str:
    gate, up = (g.linear(x, getattr(ffn, part), f"{name}.{part}") for part in ("w_gate", "w_up"))
    gate = g.node("Mul", gate, g.node("Sigmoid", gate))
    return g.linear(g.node("Mul", gate, up), ffn.w_down, f"{name}.w_down")


def graph_of(g: Graph, model: GPT) -> str:
    """All nodes of the model; the name of its logits."""
    coded = isinstance(model.embed, QuantEmbedding)
    table = model.embed.table if coded else QuantLinear.from_linear(model.embed, 8)
    demand(rows_of_bytes(table), LAYOUT)
    codes = g.weight(table.codes.numpy(), np.int8, "embed")
    scale = g.weight(table.grid.scale.float().numpy(), name="embed.scale")
    rows = g.node("Cast", g.node("Gather", codes, "tokens"), to=g.onnx.TensorProto.FLOAT)
    x, place = g.node("Mul", rows, g.node("Gather", scale, "tokens")), places(g, model)
    for i, block in enumerate(model.blocks):
        y = attention(g, g.norm(x, block.norm_attn), block.attn, model.config, place, f"blocks.{i}.attn")
        x = g.node("Add", x, y)
        x = g.node("Add", x, feed_forward(g, g.norm(x, block.norm_ffn), block.ffn, f"blocks.{i}.ffn"))
    tied = model.config.tie_embeddings
    return g.linear(g.norm(x, model.norm), table if tied else model.head, "head", "embed" if tied else "")


def write(model: GPT, path) -> Path:
    """Write model.onnx: tokens (B, T) int64 -> logits (B, T, V) float32. Matrices in floats are rounded to 8
    bits first. UserError without the package, for another model, or for one too large for a single file."""
    try:
        import onnx
        from onnx import helper
    except ImportError:
        why = f"ONNX files need the package onnx, of the extra export: {command('export')}"
        raise UserError(why) from None
    plain = type(model.rope) is Rope and all(type(block.ffn) is SwiGLU for block in model.blocks)
    demand(plain, "only the course's own Llama shape is written to ONNX: plain RoPE and SwiGLU")
    g = Graph(onnx)
    logits = graph_of(g, model.float().cpu())
    kinds = onnx.TensorProto
    inputs = [helper.make_tensor_value_info("tokens", kinds.INT64, ["B", "T"])]
    V = model.config.vocab_size
    outputs = [helper.make_tensor_value_info(logits, kinds.FLOAT, ["B", "T", V])]
    graph = helper.make_graph(g.nodes, "thirty", inputs, outputs, list(g.weights.values()))
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    demand(made.ByteSize() < LIMIT, "the model is too large for an ONNX file without external data: 2 GB")
    onnx.checker.check_model(made)
    with whole_file(path) as part:
        onnx.save(made, part)
    return Path(path)
