"""GGUF read back by the gguf package, byte for byte, and by transformers; ONNX run by ONNX Runtime."""

import copy
import sys

import numpy as np
import pytest
import torch
from torch import nn

from common import hub
from common.errors import UserError
from common.model import GPT, swap
from common.testing import close, tiny
from common.trial import model_folder
from common.variants import gpt2
from phase05_quantization.project14_ptq import _gguf, _onnx, rtn
from phase05_quantization.project14_ptq.rtn import QuantLinear, in_blocks


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("m"), d_model=64, d_ff=96, loud=6)


@pytest.fixture
def model(home):
    return hub.load(home)


def in_groups(model, bits):
    return rtn.apply_to_tables(rtn.apply(model, bits, 32), bits, 32)


# ---- GGUF ----


@pytest.mark.parametrize("kind", _gguf.KINDS)
def test_matches_gguf_blocks(kind):
    """Floats of all sizes, zeros, ties: the bytes of the gguf package."""
    gguf = pytest.importorskip("gguf")
    linear = nn.Linear(64, 50, bias=False)
    linear.weight.data = drawn(50, 64) * torch.logspace(-4, 3, 50)[:, None]
    linear.weight.data[7], linear.weight.data[8] = 0, 0.5
    linear.weight.data[9] = torch.linspace(-127, 127, 64).round() / 2
    want = gguf.quants.quantize(linear.weight.detach().numpy(), gguf.GGMLQuantizationType[kind.upper()])
    assert np.array_equal(_gguf.blocks_of(linear, None, _gguf.KINDS[kind]), want)


@pytest.mark.parametrize("kind", _gguf.KINDS)
def test_matches_gguf_file(model, home, tmp_path, kind):
    """A quantised model: every tensor read back has the weights that our codes stand for, exactly."""
    gguf = pytest.importorskip("gguf")
    made = in_groups(model, _gguf.BITS[_gguf.KINDS[kind]])
    reader = gguf.GGUFReader(_gguf.write(made, tmp_path / "m.gguf", kind, folder=home))
    held = {tensor.name: tensor for tensor in reader.tensors}
    assert len(held) == 2 + 9 * 2 + 1
    for ours, theirs in (("blocks.1.ffn.w_down", "blk.1.ffn_down"), ("blocks.0.attn.wo", "blk.0.attn_output"),
                         ("head", "output"), ("embed.table", "token_embd")):  # fmt: skip
        tensor, layer = held[f"{theirs}.weight"], made.get_submodule(ours)
        back = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        assert tensor.tensor_type.name == kind.upper() and np.array_equal(back, layer.whole().numpy())
    gain = held["blk.0.attn_norm.weight"]
    assert np.array_equal(gain.data, made.blocks[0].norm_attn.weight.detach().numpy())
    facts = {name: field.contents() for name, field in reader.fields.items()}
    assert facts["general.architecture"] == "llama" and facts["llama.attention.head_count_kv"] == 2
    assert facts["llama.rope.freq_base"] == 10_000 and facts["tokenizer.ggml.tokens"][256] == "<|endoftext|>"


def test_matches_transformers_reading_the_file(model, home, tmp_path):
    """transformers undoes the order of heads that llama.cpp wants, and computes our logits."""
    pytest.importorskip("gguf")
    transformers = pytest.importorskip("transformers")
    made, tokens = in_groups(model, 8), torch.randint(256, (2, 9))
    _gguf.write(made, tmp_path / "m.gguf", "q8_0", folder=home)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file="m.gguf").eval()
    with torch.no_grad():
        close(made(tokens), theirs(tokens).logits, "logits", rtol=1e-4, atol=1e-4)


def test_what_gguf_cannot_hold(model, tmp_path):
    for attempt, why in ((lambda: _gguf.write(model, tmp_path / "x", "q5_k"), "as q8_0 or q4_0"),
                         (lambda: _gguf.write(in_groups(copy.deepcopy(model), 8), tmp_path / "x", "q4_0"),
                          "4 bits in groups of 32"),
                         (lambda: _gguf.write(rtn.apply(copy.deepcopy(model), 8), tmp_path / "x", "q8_0"),
                          "8 bits in groups of 32"),
                         (lambda: _gguf.blocks_of(nn.Linear(33, 2), None, _gguf.Q8_0), "rows of 33"),
                         (lambda: _gguf.write(gpt2(without_groups()), tmp_path / "x"), "Llama shape"),
                         ):  # fmt: skip
        with pytest.raises(UserError, match=why):
            attempt()
    assert not (tmp_path / "x").exists()


def without_groups():
    return GPT(tiny(n_kv_head=4))


# ---- ONNX ----


class Rounded(nn.Module):
    """ONNX's DynamicQuantizeLinear and MatMulInteger, in torch: one scale and zero point for all inputs."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.bias = layer, None

    def forward(self, x):
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        scale = (high - low) / 255
        zero = (-low / scale).round().clamp(0, 255)
        codes = ((x / scale).round() + zero).clamp(0, 255) - zero
        product = codes.double() @ self.layer.codes.double().T  # exact
        return (product * scale.double() * self.layer.grid.scale.double()[:, 0]).float()


@pytest.mark.parametrize("coded", [False, True])
def test_matches_onnx_runtime(model, tmp_path, coded):
    """From floats or from codes: the file's logits are those of the same integers in torch."""
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    made = rtn.apply_to_tables(rtn.apply(copy.deepcopy(model), 8), 8)
    path = _onnx.write(copy.deepcopy(made if coded else model), tmp_path / "m.onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    swap(made, QuantLinear, Rounded, lambda name: in_blocks(name) or name == "head")
    floats = model(tokens := torch.randint(256, (1, 11)))
    got = torch.tensor(session.run(None, {"tokens": tokens.numpy()})[0])
    with torch.no_grad():
        want = made(tokens)
    scale = want.abs().max()
    assert (got - want).abs().max() < 0.02 * scale  # a last digit may turn over a code here and there
    assert (got - want).norm() < 0.3 * (got - floats).norm()
    small = torch.tensor(session.run(None, {"tokens": tokens[:, :3].numpy()})[0])
    assert small.shape == (1, 3, 260)


def test_what_onnx_cannot_hold(model, monkeypatch, tmp_path):
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match="ONNX takes 8 bits"):
        _onnx.write(rtn.apply(copy.deepcopy(model), 4), tmp_path / "x.onnx")
    with pytest.raises(UserError, match="Llama shape"):
        _onnx.write(gpt2(without_groups()), tmp_path / "x.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="the extra export"):
        _onnx.write(model, tmp_path / "x.onnx")
