"""Bitmasks: numpy's packing, every bit back, folders that others serve, masks of another model."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common import hub
from common.cli import restores
from common.errors import UserError
from common.model import GPT
from common.testing import tiny
from phase06_compression.project17_pruning import _lab, magnitude, storage, structured
from phase06_compression.project17_pruning.storage import (
    BitmaskLinear,
    compress,
    expand,
    fingerprint,
    pack,
    predicted,
    store,
    stored,
    unpack,
    unpack_masks,
    whole,
)


def model_of(sparsity=0.5, **sizes):
    torch.manual_seed(0)
    return magnitude.apply(GPT(tiny(**sizes)).eval(), sparsity)


shapes_of_masks = st.tuples(st.integers(1, 9), st.integers(1, 9))


@pytest.mark.exercise("pack")
@settings(max_examples=25, deadline=None)
@given(shapes_of_masks, st.integers(0, 1000))
def test_matches_numpy(shape, seed):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = pack(mask)
    assert packed.dtype == torch.uint8
    assert np.array_equal(packed.numpy(), np.packbits(mask.numpy().flatten(), bitorder="little"))


@pytest.mark.exercise("unpack")
@settings(max_examples=25, deadline=None)
@given(shapes_of_masks, st.integers(0, 1000))
def test_bits_come_back(shape, seed):
    bits = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    packed = torch.from_numpy(np.packbits(bits.numpy().flatten(), bitorder="little"))
    got = unpack(packed, shape)
    assert got.dtype == torch.bool and torch.equal(got, bits)


@pytest.mark.exercise("compress", "pack")
def test_worked_example():
    """The matrix of the docstring: the byte 41, and three values in their dtype."""
    w = torch.tensor([[0.7, 0, 0, -1.2], [0, 0.1, 0, 0]], dtype=torch.float16)
    packed, values = compress(w)
    assert packed.tolist() == [41] and values.dtype == torch.float16
    assert torch.equal(values, torch.tensor([0.7, -1.2, 0.1], dtype=torch.float16))


@pytest.mark.exercise("expand", "unpack")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.99])
def test_matrices_come_back_to_the_last_bit(dtype, sparsity):
    w = torch.randn(13, 11).to(dtype)
    w[torch.rand(13, 11) < sparsity] = 0
    back = expand(torch.from_numpy(np.packbits((w != 0).numpy().flatten(), bitorder="little")), w[w != 0],
                  w.shape)  # fmt: skip
    assert back.dtype == dtype and torch.equal(back, w)
    assert torch.equal(expand(*compress(torch.zeros(3, 3)), (3, 3)), torch.zeros(3, 3))  # and of zeros alone


@pytest.mark.exercise("compress", "expand")
def test_is_on():
    """Every matrix of the blocks is kept by bitmask, the model computes what it did, in fewer bytes."""
    model, tokens = model_of(), torch.arange(12)[None]
    want, before = model(tokens), copy.deepcopy(model)
    store(model)
    assert len(stored(model)) == 14 and torch.equal(model(tokens), want)
    kept = sum(t.nbytes for name, t in model.state_dict().items() if "blocks" in name and "norm" not in name)
    n = sum(matrix.weight.numel() for matrix in magnitude.matrices(before).values())
    assert kept == predicted(n, 0.5, 32) and kept / (4 * n) == pytest.approx(0.53125)
    whole(model)
    for (name, mine), old in zip(model.state_dict().items(), before.state_dict().values(), strict=True):
        assert torch.equal(mine, old), name


def test_size_by_the_formula():
    """Half of 16 bits: 0.5625; where everything stays a bitmask costs one bit in sixteen."""
    assert predicted(8000, 0.5, 16) == 16_000 * 0.5625
    assert predicted(8000, 0.0, 16) == 16_000 * (1 + 1 / 16)


# ---- folders ----


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_folder_with_zeros_comes_back(tmp_path, dtype):
    """Refused without restore; with it, by the table of all projects too, the same model to the last bit."""
    model, tokens = model_of(tie_embeddings=True).to(getattr(torch, dtype)), torch.arange(12)[None]
    _lab.save(model, tmp_path / "m")
    with pytest.raises(UserError, match="was changed by project17_pruning"):
        hub.load(tmp_path / "m")
    for again in (_lab.load(tmp_path / "m"), hub.load(tmp_path / "m", restore=restores.table())):
        assert torch.equal(again(tokens), model(tokens))
    assert sum(isinstance(m, BitmaskLinear) for m in again.modules()) == 14
    hub.save(model, tmp_path / "plain")
    small, large = (_lab.file_bytes(tmp_path / name) for name in ("m", "plain"))
    assert small < large  # the embedding is most of so small a model, and stays whole


def test_a_folder_of_smaller_shapes_comes_back(tmp_path):
    """Heads, neurons and a layer fewer; zeros in what is left; both at once."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny(n_layer=3)).eval(), torch.arange(12)[None]
    structured.apply(model, [torch.randint(97, (1, 20))], groups=1, neurons=16, layers=2)
    _lab.save(model, tmp_path / "m")
    assert torch.equal(_lab.load(tmp_path / "m")(tokens), model(tokens))
    assert _lab.load(tmp_path / "m").config.n_layer == 2
    magnitude.apply(model, 0.5)
    made = storage.store(copy.deepcopy(model))
    hub.mark(made, _lab.NAME, blocks=structured.shapes(model), stored=stored(made))
    hub.save(made, tmp_path / "both")
    assert torch.equal(_lab.load(tmp_path / "both")(tokens), model(tokens))


def test_folders_that_do_not_fit():
    with pytest.raises(UserError, match="no such matrix"):
        storage.restore(GPT(tiny()), stored={"blocks.7.attn.wq": 5})
    with pytest.raises(UserError, match="shapes are not those"):
        storage.restore(GPT(tiny()), blocks=[{"groups": 5, "neurons": 8}] * 2)
    with pytest.raises(UserError, match="with a bias"):
        BitmaskLinear.of(torch.nn.Linear(3, 3))


# ---- masks by themselves ----


def test_masks_are_for_the_model_that_they_were_found_for(tmp_path):
    model = GPT(tiny())
    weights = {name: m.weight.detach() for name, m in magnitude.matrices(model).items()}
    masks, path = magnitude.globally(weights, 0.6), tmp_path / "masks.safetensors"
    _lab.write_masks(masks, path, fingerprint(model))
    found = _lab.read_masks(path, model)
    assert all(torch.equal(found[name], mask) for name, mask in masks.items()) and len(found) == 14
    other = copy.deepcopy(model)
    with torch.no_grad():
        other.blocks[0].attn.wq.weight[0, 0] += 1  # of the same shape
    for wrong in (other, GPT(tiny(d_ff=64))):
        with pytest.raises(UserError, match="found for another model"):
            _lab.read_masks(path, wrong)
    packed = {name: pack(mask) for name, mask in masks.items()}
    packed.popitem()
    with pytest.raises(UserError, match="file of masks is damaged"):
        unpack_masks(packed, fingerprint(model), model)


def test_files_that_hold_no_masks(tmp_path):
    model = GPT(tiny())
    (tmp_path / "text").write_text("no tensors here, only words")
    hub.save(model, tmp_path / "m")
    for path in (tmp_path / "none", tmp_path / "text", tmp_path / "m" / "model.safetensors"):
        with pytest.raises(UserError, match="no file of masks"):
            _lab.read_masks(path, model)
