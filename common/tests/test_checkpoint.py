"""Checkpoints: what goes in comes out bit by bit; what is broken or dangerous is refused in one line."""
import os
import pickle
import random

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from common import checkpoint
from common.device import rng_state, set_rng_state
from common.errors import UserError

CPU = torch.device("cpu")


class Tied(nn.Module):
    """An embedding and a head that are one parameter, as in common/model.py."""

    def __init__(self, width=6):
        super().__init__()
        self.embed, self.norm = nn.Embedding(10, width), nn.LayerNorm(width)
        self.head = nn.Linear(width, 10, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return nn.functional.cross_entropy(self.head(self.norm(self.embed(ids))), ids)


def trained(make=torch.optim.AdamW, steps=3, model=None):
    model = model or Tied()
    optimizer = make(model.parameters(), lr=0.01)
    for _ in range(steps):
        model(torch.arange(10)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


def one_line(error):
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    return str(error.value)


def test_every_kind_of_value_comes_back(tmp_path):
    base = torch.randn(4, 6)
    state = {"a": {"b": base, "view": base[1:3].t(), "scalar": torch.tensor(3.5), "empty": torch.zeros(0, 2)},
             "types": [torch.ones(3, dtype=dtype) for dtype in
                       (torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.uint8, torch.bool)],
             "plain": (1, 2.5e-17, float("inf"), "text\n", None, True, [], {}, ())}
    checkpoint.write(tmp_path / "x", state)
    back = checkpoint.read(tmp_path / "x")
    assert back["plain"] == state["plain"]
    for name, value in state["a"].items():
        assert torch.equal(back["a"][name], value) and back["a"][name].dtype == value.dtype
    assert [t.dtype for t in back["types"]] == [t.dtype for t in state["types"]]
    assert os.listdir(tmp_path) == ["x"]


def test_a_tied_parameter_is_saved_once_and_stays_tied(tmp_path):
    model = Tied()
    checkpoint.write(tmp_path / "x", {"weights": checkpoint.weights(model)})
    with safe_open(tmp_path / "x", framework="pt") as file:
        assert sorted(file.keys()) == ["weights/embed.weight", "weights/norm.bias", "weights/norm.weight"]
    other = Tied()
    checkpoint.load_weights(other, checkpoint.read(tmp_path / "x")["weights"])
    assert torch.equal(other.head.weight, model.embed.weight) and other.head.weight is other.embed.weight


@pytest.mark.parametrize("make", [torch.optim.AdamW, torch.optim.SGD, torch.optim.Adagrad, torch.optim.NAdam])
def test_an_optimizer_goes_on_as_if_nothing_had_been(tmp_path, make):
    model, optimizer = trained(make)
    checkpoint.write(tmp_path / "x", {"weights": checkpoint.weights(model),
                                      "optimizers": [checkpoint.optimizer_state(optimizer, model)]})
    state, other = checkpoint.read(tmp_path / "x"), Tied()
    checkpoint.load_weights(other, state["weights"])
    fresh = make(other.parameters(), lr=123.0)                       # the rate comes from the checkpoint
    checkpoint.load_optimizers([fresh], other, state["optimizers"])
    for m, o in ((model, optimizer), (other, fresh)):
        m(torch.arange(10)).backward()
        o.step()
    assert torch.equal(model.embed.weight, other.embed.weight)
    assert torch.equal(model.norm.weight, other.norm.weight)


def test_a_parameter_that_lies_transposed_in_memory_goes_on_too(tmp_path):
    """A fused optimizer goes through memory in order, so the moments have to lie as their parameter does."""
    def step(w, optimizer):
        w.grad = torch.arange(12.0).reshape(3, 4).t().contiguous().t()
        optimizer.step()
    def make():
        model = nn.Module()
        model.w = nn.Parameter(torch.zeros(4, 3).t())
        return model, torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    (model, optimizer), (other, fresh) = make(), make()
    step(model.w, optimizer)
    checkpoint.write(tmp_path / "x", {"w": checkpoint.weights(model),
                                      "o": [checkpoint.optimizer_state(optimizer, model)]})
    state = checkpoint.read(tmp_path / "x")
    checkpoint.load_weights(other, state["w"])
    checkpoint.load_optimizers([fresh], other, state["o"])
    assert fresh.state[other.w]["exp_avg"].stride() == other.w.stride() == (1, 3)
    step(model.w, optimizer)
    step(other.w, fresh)
    assert torch.equal(model.w, other.w)


def test_moments_wider_than_the_parameters_keep_their_dtype(tmp_path):
    """torch's load_state_dict casts them to the parameters' dtype: 16 bits lost at each resume."""
    model = Tied().bfloat16()
    optimizer = torch.optim.AdamW(model.parameters())
    third = torch.full((10, 6), 1 / 3)
    optimizer.state[model.embed.weight] = {"step": torch.tensor(1.0), "exp_avg": third, "exp_avg_sq": third}
    checkpoint.write(tmp_path / "x", {"o": [checkpoint.optimizer_state(optimizer, model)]})
    fresh = torch.optim.AdamW(model.parameters())
    checkpoint.load_optimizers([fresh], model, checkpoint.read(tmp_path / "x")["o"])
    moment = fresh.state[model.embed.weight]["exp_avg"]
    assert moment.dtype == torch.float32 and torch.equal(moment, third)


def test_names_are_those_of_the_module_inside_compile():
    model = Tied()
    compiled = torch.compile(model, backend="eager")
    assert checkpoint.weights(compiled).keys() == model.state_dict().keys() != compiled.state_dict().keys()


def test_every_random_generator_goes_on_where_it_was(tmp_path):
    def draw():
        numpys = np.random.rand(), np.random.randn()
        return [random.random(), random.gauss(0, 1), *numpys, torch.rand(3).tolist()]
    random.gauss(0, 1), np.random.randn()                     # leaves a half-used pair behind in both
    checkpoint.write(tmp_path / "x", {"rng": rng_state(CPU)})
    first = draw()
    assert draw() != first
    set_rng_state(checkpoint.read(tmp_path / "x")["rng"], CPU)
    assert draw() == first


def test_strict_loading_names_what_does_not_match():
    model, saved = Tied(), checkpoint.weights(Tied())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    wrong = {name: value for name, value in saved.items() if name != "norm.bias"}
    wrong |= {"extra": torch.zeros(1), "norm.weight": torch.zeros(7)}
    with pytest.raises(UserError) as error:
        checkpoint.load_weights(model, wrong)
    message = one_line(error)
    assert all(part in message for part in ("missing: norm.bias", "unexpected: extra", "norm.weight"))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with pytest.raises(UserError, match=r"embed\.weight"):
        checkpoint.load_weights(model, {name: value.double() for name, value in saved.items()})


def test_another_optimizer_is_refused():
    model, optimizer = trained()
    saved = [checkpoint.optimizer_state(optimizer, model)]
    with pytest.raises(UserError, match="AdamW"):
        checkpoint.load_optimizers([torch.optim.SGD(model.parameters())], model, saved)
    with pytest.raises(UserError, match="parameter groups"):
        checkpoint.load_optimizers([torch.optim.AdamW(model.norm.parameters())], model, saved)
    with pytest.raises(UserError, match="AdamW"):
        checkpoint.load_optimizers([], model, saved)


def test_a_file_cut_short_anywhere_is_refused(tmp_path):
    path = tmp_path / "x"
    checkpoint.write(path, {"weights": checkpoint.weights(Tied())})
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match="truncated or corrupt") as error:
            checkpoint.read(path)
        one_line(error)


def test_one_flipped_bit_anywhere_is_refused(tmp_path):
    path = tmp_path / "x"
    checkpoint.write(path, {"weights": {"w": torch.randn(50)}, "step": 250})
    whole = path.read_bytes()
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1:])
        with pytest.raises(UserError) as error:
            checkpoint.read(path)
        one_line(error)


class Bomb:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("kind", ["torch", "old torch", "plain"])
def test_a_pickle_is_refused_and_runs_nothing(tmp_path, kind):
    bomb = {"weights": Bomb(tmp_path / "ran")}
    if kind == "plain":
        (tmp_path / "x").write_bytes(pickle.dumps(bomb))
    else:
        torch.save(bomb, tmp_path / "x", _use_new_zipfile_serialization=kind == "torch")
    with pytest.raises(UserError, match="pickle") as error:
        checkpoint.read(tmp_path / "x")
    one_line(error)
    assert not (tmp_path / "ran").exists()
    if kind == "plain":
        pickle.loads((tmp_path / "x").read_bytes())
    else:
        torch.load(tmp_path / "x", weights_only=False)
    assert (tmp_path / "ran").exists()                               # so the bomb was a live one


def test_other_files_are_refused(tmp_path):
    save_file({"w": torch.zeros(3)}, tmp_path / "model.safetensors")
    (tmp_path / "text").write_text("step 12\n")
    reasons = {"model.safetensors": "another kind", "text": "corrupt", "absent": "no such", ".": "no such"}
    for name, why in reasons.items():
        with pytest.raises(UserError, match=why) as error:
            checkpoint.read(tmp_path / name)
        one_line(error)


@pytest.mark.parametrize("where", ["common.checkpoint.save_file", "common.checkpoint.os.replace",
                                   "common.checkpoint.os.fsync"])
def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch, where):
    checkpoint.write(tmp_path / "x", {"step": 1})
    def full(*_, **__):
        raise OSError(28, "No space left on device")
    monkeypatch.setattr(where, full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.write(tmp_path / "x", {"step": 2, "w": torch.zeros(3)})
    assert checkpoint.read(tmp_path / "x") == {"step": 1} and os.listdir(tmp_path) == ["x"]


def test_whoever_may_read_other_files_may_read_a_checkpoint(tmp_path):
    (tmp_path / "plain").write_text("")
    checkpoint.write(tmp_path / "x", {"step": 1})
    assert (tmp_path / "x").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_a_killed_writer_left_is_swept_up(tmp_path):
    (tmp_path / ".writing").mkdir()
    (tmp_path / ".writing" / "half").write_bytes(b"x" * 1000)
    checkpoint.write(tmp_path / "x", {"step": 1})
    assert os.listdir(tmp_path) == ["x"]
