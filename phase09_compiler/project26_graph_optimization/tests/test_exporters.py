"""What leaves the house: ONNX in onnxruntime and OpenVINO, GGUF read back, JAX and transformers beside us."""

import pytest
import torch

from common.errors import UserError
from common.model import GPT
from common.testing import tiny
from common.trial import model_folder
from common.variants import gpt2
from phase09_compiler.project26_graph_optimization import exporters, stacks
from phase09_compiler.project26_graph_optimization._lab import paced
from phase09_compiler.project26_graph_optimization.exporters import (
    PastStep,
    missing_operator,
    names_of_past,
    needed,
    no_past,
    nodes_of,
    to_gguf,
    to_int8,
    to_onnx,
)

SIZES = {"n_layer": 1, "max_seq_len": 32}


def lively():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT(tiny(**SIZES)).eval()
        for parameter in model.parameters():
            parameter.data = parameter.data * 4 if parameter.dim() > 1 else torch.rand_like(parameter) + 0.5
    return model


MODEL = lively()
IDS = [5, 17, 3, 96, 0, 41]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    pytest.importorskip("onnxscript")
    return to_onnx(MODEL, tmp_path_factory.mktemp("onnx") / "model.onnx")


@torch.no_grad()
@pytest.mark.exercise("PastStep.forward")
def test_a_cache_in_and_out_gives_the_models_logits():
    """A prompt in three pieces, in two rows: each piece reads what the one before gave back."""
    model = GPT(tiny(n_layer=2)).double().eval()
    for parameter in model.parameters():
        parameter.mul_(4 if parameter.dim() > 1 else 1)
    ids = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(0))
    step, past, got = PastStep(model), no_past(model, 2), []
    for chunk in ids.split((4, 1, 4), 1):
        logits, *past = step(chunk, *past)
        got.append(logits)
    torch.testing.assert_close(torch.cat(got, 1), model(ids), rtol=1e-10, atol=1e-10)
    assert [tuple(x.shape) for x in past] == [(2, 2, 9, 8)] * 4
    assert names_of_past(model) == ["k0", "v0", "k1", "v1"]


def test_matches_onnxruntime(onnx_file):
    """Open rows, tokens and cache: logits to 1e-4, the cache back; int8 is near, and is other numbers."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    assert names == ["tokens", "k0", "v0"]
    for B, chunks in ((1, (3, 1, 1)), (2, (1, 4))):
        ids = torch.randint(97, (B, sum(chunks)), generator=torch.Generator().manual_seed(B))
        past, got = no_past(MODEL, B), []
        for chunk in ids.split(chunks, 1):
            feed = dict(zip(names, (chunk, *past), strict=True))
            logits, *past = session.run(None, {name: x.numpy() for name, x in feed.items()})
            past = [torch.from_numpy(x) for x in past]
            got.append(torch.from_numpy(logits))
        with torch.no_grad():
            torch.testing.assert_close(torch.cat(got, 1), MODEL(ids), rtol=1e-4, atol=1e-4)
        assert past[0].shape == (B, 2, sum(chunks), 8)
    assert nodes_of(onnx_file)["MatMul"] >= 8
    small = to_int8(onnx_file, onnx_file.with_name("small.onnx"))
    assert nodes_of(small)["MatMulInteger"] + nodes_of(small)["DynamicQuantizeMatMul"] >= 8


@pytest.mark.parametrize("name", ["our passes", "ONNX Runtime", "OpenVINO", "JAX", "transformers"])
def test_stacks_agree(name, onnx_file):
    """Fed token by token, each stack says what the model says in float64, to 1e-4, and again after begin."""
    try:
        stack = stacks.make(name, MODEL, onnx_file.parent, 32)
    except UserError as absent:
        pytest.skip(str(absent))
    logits, seconds = paced(stack, IDS)
    far, other = stacks.drift(logits, MODEL, IDS)
    assert far < 1e-4 and other == 0 and len(seconds) == 3
    again, _ = paced(stack, IDS[:3])
    torch.testing.assert_close(again, logits[:3])


def test_drift_sees_a_difference():
    """Other weights drift, and not by rounding."""
    with torch.no_grad():
        logits = MODEL(torch.tensor([IDS]))[0].double()
    assert stacks.drift(logits, MODEL, IDS)[0] < 1e-4
    off = logits.clone()
    off[2, 7] += 50
    far, other = stacks.drift(off, MODEL, IDS)
    assert far == pytest.approx(50, abs=1e-3) and other == pytest.approx(1 / 6)


def test_absent_stacks_are_named(monkeypatch, tmp_path):
    """What is not installed is absent with the reason and what to do; what can never be here too."""

    def gone(package, extra="export"):
        raise UserError(f"this needs the package {package}")

    monkeypatch.setattr(stacks, "needed", gone)
    made, absent = stacks.present(MODEL, tmp_path, 32, ("eager", "JAX", "ONNX Runtime"))
    assert list(made) == ["eager"] and set(absent) == {"JAX", "ONNX Runtime", "TensorRT", "vLLM"}
    assert "package jax" in absent["JAX"] and "GPU" in absent["TensorRT"]
    with pytest.raises(UserError, match="no stack is called"):
        stacks.make("TVM", MODEL, tmp_path, 32)
    with pytest.raises(UserError, match="needs the package no_such_thing"):
        needed("no_such_thing")


def test_gguf_read_back(tmp_path):
    """Each tensor under llama.cpp's name; q and k in the order in which it turns neighbours; the words."""
    gguf = pytest.importorskip("gguf")
    model = GPT(tiny(vocab_size=260, n_layer=1)).eval()
    folder = model_folder(tmp_path / "m", n_layer=1)
    reader = gguf.GGUFReader(to_gguf(model, tmp_path / "model.gguf", folder))
    held = {tensor.name: torch.from_numpy(tensor.data.copy()) for tensor in reader.tensors}
    assert len(held) == 3 + 9
    torch.testing.assert_close(held["blk.0.ffn_down.weight"], model.blocks[0].ffn.w_down.weight.detach())
    wq, theirs = model.blocks[0].attn.wq.weight.detach(), held["blk.0.attn_q.weight"]
    pairs = theirs.view(4, 4, 2, 32)  # heads, pairs, the two of a pair
    torch.testing.assert_close(pairs[:, :, 0], wq.view(4, 2, 4, 32)[:, 0])
    torch.testing.assert_close(pairs[:, :, 1], wq.view(4, 2, 4, 32)[:, 1])
    assert reader.fields["llama.attention.head_count_kv"].contents() == 2
    assert len(reader.fields["tokenizer.ggml.tokens"].contents()) == 260
    with pytest.raises(UserError, match="Llama shape"):
        to_gguf(gpt2(GPT(tiny(n_kv_head=4))), tmp_path / "other.gguf")


def test_what_onnx_lacks_is_named():
    """Of a chain of errors, the line that says which operator."""
    inner = ValueError("No ONNX function found for <OpOverload(op='aten.igamma', overload='default')>")
    outer = RuntimeError("Failed to export\nsomewhere")
    outer.__cause__ = inner
    assert "aten.igamma" in missing_operator(outer)
    assert missing_operator(RuntimeError("only this")) == "RuntimeError: only this"


@pytest.mark.slow
def test_aotinductor(tmp_path):
    """Compiled ahead of time, loaded again: the same logits."""
    stack = stacks.make("AOTInductor", MODEL, tmp_path, 32)
    assert stacks.drift(paced(stack, IDS)[0], MODEL, IDS)[0] < 1e-4


@pytest.mark.slow
def test_onnx_refuses_by_name(tmp_path):
    """An operator that ONNX lacks ends in one line with its name."""
    pytest.importorskip("onnxscript")

    class Odd(torch.nn.Module):
        def forward(self, x):
            return torch.ops.aten.igamma(x.abs() + 1, x.abs())

    model = GPT(tiny(**SIZES)).eval()
    model.blocks[0].ffn = Odd()
    with pytest.raises(UserError, match="igamma"):
        to_onnx(model, tmp_path / "odd.onnx")


@pytest.mark.slow
def test_llama_cpp(tmp_path):
    """The GGUF file in llama.cpp itself."""
    pytest.importorskip("llama_cpp")
    model_folder(tmp_path / "words")
    model = GPT(tiny(vocab_size=260, d_model=64, max_seq_len=32)).eval()
    stack = stacks.make("llama.cpp", model, tmp_path, 32)
    assert stacks.drift(paced(stack, IDS)[0], model, IDS)[0] < 1e-2


assert exporters.OPSET >= 20
