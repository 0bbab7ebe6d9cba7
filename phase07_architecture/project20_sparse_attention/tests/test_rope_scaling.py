"""Scaled angles: against transformers' tables, the core's YaRN, and what each way promises of its ends."""

import math

import pytest
import torch

from common import hub, variants
from common.errors import UserError
from common.model import GPT, Rope
from common.testing import tiny
from common.trial import model_folder, unplugged
from phase07_architecture.project20_sparse_attention import rope_scaling
from phase07_architecture.project20_sparse_attention.rope_scaling import ScaledRope, extend, plain, restore

SIZES = [(10_000.0, 32, 4.0, 512), (500_000.0, 128, 8.0, 8192), (10_000.0, 64, 2.5, 2048),
         (100.0, 16, 3.0, 64)]  # fmt: skip


def table(way, theta, D, factor, context):
    """(inv_freq, attention factor) of transformers. Its dynamic NTK with a factor of 1 at `factor` times the
    length is what the post calls NTK: theta grows with the length over the context."""
    rope = pytest.importorskip("transformers.modeling_rope_utils")
    from transformers import LlamaConfig
    said = {"rope_type": way if way != "ntk" else "dynamic", "rope_theta": theta,
            "factor": 1.0 if way == "ntk" else factor,
            "original_max_position_embeddings": context}  # fmt: skip
    config = LlamaConfig(hidden_size=4 * D, num_attention_heads=4, max_position_embeddings=context,
                         rope_parameters=said)  # fmt: skip
    return rope.ROPE_INIT_FUNCTIONS[said["rope_type"]](config, torch.device("cpu"),
                                                       seq_len=int(context * factor))  # fmt: skip


@pytest.mark.parametrize(("theta", "D", "factor", "context"), SIZES, ids=str)
@pytest.mark.parametrize("way", rope_scaling.WAYS)
def test_matches_tables_of_transformers(way, theta, D, factor, context):
    """Angles per position, and by how much cos and sin are scaled."""
    want, scale = table(way, theta, D, factor, context)
    got = rope_scaling.WAYS[way](theta, D, factor, context)
    assert got.dtype == torch.float32 and got.shape == (D // 2,)
    torch.testing.assert_close(got, want, rtol=1e-5, atol=0.0)
    assert ScaledRope(Rope(D, theta), way, factor, context).scale == pytest.approx(scale)


@pytest.mark.exercise("linear")
def test_linear_squeezes_positions():
    """Position 4p of a context four times as long is turned as position p was."""
    torch.testing.assert_close(rope_scaling.linear(100.0, 16, 4.0, 64) * 4, plain(100.0, 16))


@pytest.mark.exercise("ntk")
def test_ntk_slows_the_last_pair_alone_by_the_factor():
    slowed = plain(10_000.0, 32) / rope_scaling.ntk(10_000.0, 32, 8.0, 512)
    assert slowed[0].item() == pytest.approx(1.0) and slowed[-1].item() == pytest.approx(8.0, rel=1e-4)
    assert (slowed.diff() > 0).all()


@pytest.mark.exercise("yarn")
def test_yarn_goes_by_turns():
    """Pairs with many turns within the old context stay, those with less than one are slowed in full."""
    theta, D, factor, context = 10_000.0, 128, 8.0, 4096
    angles = plain(theta, D)
    turns, slowed = context * angles / (2 * math.pi), angles / rope_scaling.yarn(theta, D, factor, context)
    torch.testing.assert_close(slowed[turns > 34], torch.ones(int((turns > 34).sum())))
    torch.testing.assert_close(slowed[turns < 0.9], torch.full((int((turns < 0.9).sum()),), 8.0))
    assert slowed[(turns > 1.2) & (turns < 28)].min() > 1 and slowed[(turns > 1.2) & (turns < 28)].max() < 8


@pytest.mark.exercise("yarn")
def test_matches_yarn_of_the_core():
    """What `common.variants` reads out of other people's folders, cos and sin and all."""
    for theta, D, factor, context in SIZES:
        positions, old = torch.tensor([0, 1, 77, 3000]), Rope(D, theta)
        want = variants.YarnRope(old, factor, context)(positions)
        for mine, true in zip(ScaledRope(old, "yarn", factor, context)(positions), want, strict=True):
            torch.testing.assert_close(mine, true)


@pytest.mark.exercise("linear", "ntk", "yarn")
@pytest.mark.parametrize("way", rope_scaling.WAYS)
def test_a_factor_of_one_changes_nothing(way):
    torch.testing.assert_close(rope_scaling.WAYS[way](10_000.0, 32, 1.0, 512), plain(10_000.0, 32))


def test_is_on():
    """The model turns by the scaled angles: where they raise, so does it; and its logits are others."""
    torch.manual_seed(0)
    model, tokens = GPT(tiny()).eval(), torch.arange(40)[None]
    before = model(tokens)
    extend(model, "ntk", 4.0)
    assert model.config.max_seq_len == 256 and (model(tokens) - before).abs().max() > 1e-4
    with unplugged(rope_scaling.ntk):
        model(tokens)


@pytest.mark.parametrize("way", rope_scaling.WAYS)
def test_a_folder_remembers(way, tmp_path):
    """An extended model, saved and loaded: the same logits, the longer context; and not without `restore`."""
    model, tokens = hub.load(model_folder(tmp_path / "m")), torch.arange(20)[None]
    extend(model, way, 2.0)
    hub.save(model, tmp_path / "long")
    again = hub.load(tmp_path / "long", restore={"project20_sparse_attention": restore})
    assert torch.equal(again(tokens), model(tokens)) and again.config.max_seq_len == 128
    with pytest.raises(UserError, match="project20_sparse_attention"):
        hub.load(tmp_path / "long")


def test_mistakes_of_a_user():
    rope = Rope(16, 100.0)
    with pytest.raises(UserError, match="linear, ntk, yarn, not by"):
        ScaledRope(rope, "dynamic", 2.0, 64)
    with pytest.raises(UserError, match="is below 1"):
        ScaledRope(rope, "linear", 0.5, 64)
    model = variants.alibi(GPT(tiny()))
    with pytest.raises(UserError, match="found no Rope"):
        extend(model, "yarn", 2.0)
