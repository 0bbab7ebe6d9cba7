"""NF4 against bitsandbytes, against numbers that it gave once, and the layer that keeps its weights so."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from common import hub
from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from phase02_finetuning.project05_lora import lora, nf4
from phase02_finetuning.project05_lora.nf4 import NF4Linear, Packed

# Dettmers et al. 2023, appendix E
LEVELS = [-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
          -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
          0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
          0.7229568362236023, 1.0]  # fmt: skip
# what bitsandbytes 0.50.2 gives for weights() and scales() below
CODES = ("7f1c4600f12f22f0073a1e9e193911e46e65e21b251ece141c35dabacbb85d221cfb301fbe5ff1ef2eec72d171e5c5ed"
         "18625528b1edc415adc242a22d33c227270fef020e49bee4ff4edc62d161e8d3da2327116242ad4c6d283a25cac7cc7c")
SCALES = [255, 58, 12]
STEP, MEAN = 0.3634093999862671, 0.5706127285957336
MANY = ("9ff312d5333e0205f91b24ff251dfa06015e2bcc0cf9c6fa09c522c3020fff313cf84238fe1808d80f3601fdeafc0228"
        "06ec1a37f0d5e0d1e5e0e3c035fd04071ed6fdcf2b0211fbd2ed39fffd14fbfd21fdf3db6a1ce510a90bf237dd3afcea"
        "02b83d1732360ec3da07fef5e7260231d2ffe909220ad8040af91210f50401b620a503ffe7fc031f02f830c7d3f3fb2e"
        "fffe33f8ebe2491be70d4005fab6ef20edcc12231459090a5016270fd2f228e843f50bc017d80e2ef1d9eab7f6f7aeec"
        "ddee3413e0105105fbc1f319e4bd1e1408cd0202d2050c2d39cf08fee1fd041901fd74e050fffc0bf0ee07f5fc28f6de"
        "f717012ecffeda190b02f9263df1cacee9c351fe1504c622c90df564f01ae3a3250c03df0304ec0201c7122d05eeffd5"
        "31022ae2f9fc03ca3f1e201a")  # fmt: skip


def weights():
    """192 weights that shrink from block to block."""
    i = torch.arange(192, dtype=torch.float64)
    return (torch.sin(i * i) * torch.exp(-i / 100)).float()


def scales():
    """300 scales between 0.03 and 0.07."""
    i = torch.arange(300, dtype=torch.float64)
    return (0.05 + 0.02 * torch.sin(i * i)).float()


def as_bytes(text):
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def packed():
    """weights(), quantised by bitsandbytes."""
    return Packed(as_bytes(CODES), torch.tensor(SCALES, dtype=torch.uint8), torch.tensor([STEP]),
                  torch.tensor(MEAN))  # fmt: skip


# ---- the levels ----


@pytest.mark.exercise("normal_levels")
def test_matches_the_levels_of_the_paper():
    """The 16 numbers of QLoRA's appendix E, to the last bit."""
    levels = nf4.normal_levels()
    assert levels.dtype == torch.float32 and levels.tolist() == LEVELS


@pytest.mark.exercise("normal_levels")
def test_levels_are_uneven_on_purpose():
    """Exactly zero is among them, eight lie above it and seven below."""
    levels = nf4.normal_levels()
    assert levels[7] == 0 and (levels > 0).sum() == 8 and (levels < 0).sum() == 7
    assert (levels.diff() > 0).all()


# ---- codes ----


@pytest.mark.exercise("quantize")
def test_matches_codes_that_bitsandbytes_gave():
    """Codes of 192 weights, two a byte: the bytes of bitsandbytes, and its scales."""
    found = nf4.quantize(weights())
    assert torch.equal(found.codes, as_bytes(CODES))
    assert found.scales.tolist() == SCALES
    assert found.steps.tolist() == [STEP] and found.mean.item() == MEAN


@pytest.mark.exercise("quantize")
def test_levels_keep_their_own_numbers():
    """Weights that are levels already get the codes 0 to 15, the first of a pair in the upper half."""
    found = nf4.quantize(torch.tensor(LEVELS).repeat(4))
    assert found.codes.tolist() == [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB, 0xCD, 0xEF] * 4


@pytest.mark.exercise("quantize")
def test_each_block_has_a_scale_of_its_own():
    """A block a thousand times larger does not change the codes of its neighbour; zeros are no trouble."""
    small, large = weights()[:64], 1000 * weights()[64:128]
    together = nf4.quantize(torch.cat((small, large, torch.zeros(64)))).codes
    assert torch.equal(together[:32], nf4.quantize(small).codes)
    assert torch.equal(together[32:64], nf4.quantize(large).codes)
    assert set(together[64:].tolist()) == {0x77}


@pytest.mark.exercise("dequantize")
def test_matches_the_weights_that_the_codes_stand_for():
    """Level times scale, worked out one by one from the bytes of bitsandbytes."""
    halves = [half for byte in bytes.fromhex(CODES) for half in (byte >> 4, byte & 15)]
    scale = nf4.dynamic_levels()[torch.tensor(SCALES)] * STEP + MEAN
    want = torch.tensor([LEVELS[half] for half in halves]) * scale.repeat_interleave(64)
    found = nf4.dequantize(packed(), (12, 16))
    assert found.shape == (12, 16) and found.dtype == torch.float32
    close(found.flatten(), want, "weights")
    assert nf4.dequantize(packed(), (192,), torch.bfloat16).dtype == torch.bfloat16


@pytest.mark.exercise("dequantize")
def test_a_matrix_that_fills_no_block_comes_back_whole():
    """Odd sizes are filled up and cut again."""
    weight = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    back = nf4.dequantize(nf4.quantize(weight), (7, 11))
    assert back.shape == (7, 11) and 0 < (back - weight).abs().max() < 0.2 * weight.abs().max()


# ---- the scales of the scales ----


@pytest.mark.exercise("quantize_scales")
def test_matches_scales_that_bitsandbytes_gave():
    """300 scales: codes, two steps and the mean are those of bitsandbytes, bit for bit."""
    codes, steps, mean = nf4.quantize_scales(scales())
    assert codes.dtype == torch.uint8 and torch.equal(codes, as_bytes(MANY))
    assert steps.tolist() == [0.02025609463453293, 0.02019675076007843]
    assert mean.item() == 0.04974379390478134


@pytest.mark.exercise("quantize_scales")
def test_equal_scales_need_no_codes():
    """All scales alike: nothing is left once the mean is gone, and codes are 0, as in bitsandbytes."""
    codes, steps, mean = nf4.quantize_scales(torch.full((10,), 0.5))
    assert codes.tolist() == [0] * 10 and steps.tolist() == [0.0] and mean == 0.5


@pytest.mark.exercise("quantize_scales")
def test_places_are_rounded_to_the_grid_first():
    """A number just above the middle of two levels lies below it on bitsandbytes' grid."""
    levels = nf4.dynamic_levels()
    middle = (levels[65] + levels[66]) / 2
    table = torch.tensor([1.0, middle + 1.1e-5, -1.0 - middle - 1.1e-5])
    assert nf4.quantize_scales(table)[0][1] == 65


@pytest.mark.exercise("dequantize_scales")
def test_scales_come_back():
    """Level times step of the block, plus the mean; wrong by a hundredth of the step at most."""
    codes, steps = as_bytes(MANY), torch.tensor([0.02025609463453293, 0.02019675076007843])
    mean = torch.tensor(0.04974379390478134)
    found = nf4.dequantize_scales(Packed(None, codes, steps, mean))
    assert found.shape == (300,) and (found - scales()).abs().max() < 0.0101 * 0.02026
    first, last = (nf4.dynamic_levels()[codes[i].long()] * steps[i // 256] + mean for i in (0, 299))
    close(found[[0, 299]], torch.stack((first, last)), "one of each block")


# ---- bitsandbytes itself ----


@pytest.mark.parametrize("shape", [(768, 256), (64, 640), (5, 64), (1, 64), (3, 100)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_matches_bitsandbytes(shape, dtype):
    """Codes, scales of the scales and the weights made whole: all equal to the last bit."""
    theirs = pytest.importorskip("bitsandbytes").functional
    assert torch.equal(nf4.normal_levels(), theirs.get_4bit_type("nf4", device="cpu"))
    assert torch.equal(nf4.dynamic_levels(), theirs.create_dynamic_map())
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(3)).mul(0.02).to(dtype)
    codes, state = theirs.quantize_4bit(weight, blocksize=64, compress_statistics=True, quant_type="nf4")
    found = nf4.quantize(weight)
    assert torch.equal(found.codes, codes.flatten()) and torch.equal(found.scales, state.absmax)
    assert torch.equal(found.steps, state.state2.absmax) and torch.equal(found.mean, state.offset)
    assert torch.equal(nf4.dequantize(found, shape, dtype), theirs.dequantize_4bit(codes, state))


# ---- the layer ----

TOKENS = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(1))


def coded(seed=0, **settings):
    """A tiny GPT in 4 bits with adapters that are not zero."""
    torch.manual_seed(seed)
    model = nf4.apply(GPT(tiny()))
    lora.apply(model, lora.LoRAConfig(r=2, **settings), kind=NF4Linear)
    for made in lora.adapters(model).values():
        nn.init.normal_(made.B, std=0.1)
    return model.eval()


def test_the_layer_is_its_dequantised_matrix():
    """Product and gradient of x are those of a linear layer with the weights that the codes stand for."""
    torch.manual_seed(0)
    old = nn.Linear(32, 48)
    made, x = NF4Linear(old), torch.randn(2, 3, 32, requires_grad=True)
    plain = F.linear(x, made.weight, old.bias)
    close(made(x), plain, "product")
    want, got = (torch.autograd.grad(y.square().sum(), x)[0] for y in (plain, made(x)))
    close(got, want, "gradient", rtol=1e-5, atol=1e-5)
    assert 0 < (made.weight - old.weight).abs().max() < 0.2 * old.weight.abs().max()
    with torch.autocast("cpu", torch.bfloat16):
        assert made(x).dtype == torch.bfloat16


def test_nothing_large_is_kept_for_the_way_back():
    """Autograd keeps no (out, in) matrix: what is saved between forward and backward is small."""
    made, kept = NF4Linear(nn.Linear(256, 256, bias=False)), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        made(torch.randn(1, 256, requires_grad=True))
    assert sum(kept) < 256 * 256 / 8


def test_four_bits_is_what_it_takes():
    """4.127 bits a weight, scales included; and a cast to bfloat16 leaves codes and scales alone."""
    made = NF4Linear(nn.Linear(256, 1024, bias=False))
    bits = 8 * sum(buffer.nbytes for buffer in made.buffers()) / (256 * 1024)
    assert bits == pytest.approx(4 + 8 / 64 + 32 / 64 / 256, abs=1e-3)
    before = made.weight
    assert torch.equal(made.bfloat16().weight, before)


@pytest.mark.parametrize("dora", [False, True])
def test_qlora_merged_is_unmerged(dora):
    """Made plain, a 4-bit model with adapters gives the same logits; in place it refuses, and says why."""
    model = coded(dora=dora)
    want = model(TOKENS)
    with pytest.raises(UserError, match="rounded away"):
        next(iter(lora.adapters(model).values())).merge()
    close(lora.merge(copy.deepcopy(model))(TOKENS), want, "merged", rtol=0, atol=1e-5)


def test_merged_into_codes_the_adapter_is_lost():
    """The break: W + B A quantised again is far from what was trained, nearer to what was there before."""
    model = coded()
    for made in lora.adapters(model).values():
        made.B.data.mul_(0.02)  # as small beside W as a trained one
    made = next(iter(lora.adapters(model).values()))
    again = NF4Linear(made.merged()).weight
    lost = ((again - made.base.weight) - made.delta()).norm() / made.delta().norm()
    assert lost > 0.5


def test_a_quantised_folder_says_so(tmp_path):
    """Noted and saved, loaded with restore: the same codes; without it refused, with the project's name."""
    torch.manual_seed(0)
    model = hub.mark(nf4.apply(GPT(tiny())), "project05_lora", targets=list(nf4.MATRICES))
    hub.save(model, tmp_path / "m")
    with pytest.raises(UserError, match="project05_lora"):
        hub.load(tmp_path / "m")
    back = hub.load(tmp_path / "m", restore={"project05_lora": nf4.restore})
    assert torch.equal(back(TOKENS), model.eval()(TOKENS))


def test_a_tied_head_is_refused():
    with pytest.raises(UserError, match="untie"):
        nf4.apply(GPT(tiny(tie_embeddings=True)), ("head",))
