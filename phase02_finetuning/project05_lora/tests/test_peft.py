"""The same as `peft`, layer by layer and as a folder, in both directions."""

import copy
import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from common import hub
from common.errors import UserError
from common.model import GPT
from common.testing import close, tiny
from common.trial import model_folder
from common.variants import gpt2
from phase02_finetuning.project05_lora import adapter, lora
from phase02_finetuning.project05_lora.lora import LoRAConfig

TOKENS = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(1))
CASES = [{}, {"rslora": True}, {"dora": True}, {"rslora": True, "dora": True}]


def shaken(model):
    """B, and the magnitudes of DoRA, away from where they start."""
    torch.manual_seed(5)
    for made in lora.adapters(model).values():
        nn.init.normal_(made.B, std=0.1)
        if made.magnitude is not None:
            made.magnitude.data.mul_(torch.rand_like(made.magnitude) + 0.5)
    return model


@pytest.mark.parametrize("case", CASES, ids=str)
def test_matches_peft(case):
    """The same weights on the same model: logits, every gradient, the matrix added, the merged model."""
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    base = GPT(tiny())
    ours = shaken(lora.apply(copy.deepcopy(base), LoRAConfig(r=4, alpha=6.0, **case)))
    theirs = peft.get_peft_model(copy.deepcopy(base), peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=list(lora.MATRICES), use_rslora=case.get("rslora", False),
        use_dora=case.get("dora", False)))  # fmt: skip
    layers = lora.adapters(ours)
    pairs = {}
    for name, made in layers.items():
        other = theirs.base_model.model.get_submodule(name)
        pairs[f"{name}.A"] = made.A, other.lora_A["default"].weight
        pairs[f"{name}.B"] = made.B, other.lora_B["default"].weight
        if made.magnitude is not None:
            pairs[f"{name}.magnitude"] = made.magnitude, other.lora_magnitude_vector["default"].weight
    for mine, other in pairs.values():
        other.data.copy_(mine.data)
    close(ours(TOKENS), theirs(TOKENS), "logits")
    for model in (ours, theirs):
        model(TOKENS).square().mean().backward()
    for name, (mine, other) in pairs.items():
        assert mine.grad.abs().max() > 0
        close(mine.grad, other.grad, name, rtol=1e-4, atol=1e-7)
    if "dora" not in case:
        name, made = next(iter(layers.items()))
        delta = theirs.base_model.model.get_submodule(name).get_delta_weight("default")
        close(made.delta(), delta, "delta")
    close(lora.merge(ours)(TOKENS), theirs.merge_and_unload()(TOKENS), "merged")


@pytest.mark.parametrize("case", [*CASES, {"head": True}], ids=str)
def test_a_folder_travels_both_ways(case, tmp_path):
    """Ours loads in peft over transformers, what peft writes loads in ours: the same logits each time."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    settings = {**case}
    if settings.pop("head", False):
        settings["targets"] = (*lora.MATRICES, "head")
    base, tokens = model_folder(tmp_path / "m", n_layer=1), TOKENS
    ours = shaken(lora.apply(hub.load(base), LoRAConfig(r=4, alpha=6.0, **settings)))
    adapter.save(ours, tmp_path / "ours", str(base))
    theirs = peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base), tmp_path / "ours"
    )
    close(ours(tokens), theirs(tokens).logits, "ours in peft")
    theirs.save_pretrained(tmp_path / "theirs")
    back = adapter.load(hub.load(base), tmp_path / "theirs")
    assert torch.equal(back(tokens), ours(tokens))
    names = [set(load_file(tmp_path / name / adapter.WEIGHTS)) for name in ("ours", "theirs")]
    assert names[0] == {name for name in names[1] if "base_layer" not in name}


def test_an_adapter_on_some_layers_of_a_tied_model(tmp_path):
    """Only where it has weights is an adapter put on; a tied table stays the model's own."""
    base = model_folder(tmp_path / "m", tie_embeddings=True)
    ours = lora.apply(hub.load(base), LoRAConfig(r=2), where=["blocks.1.attn.wq", "head"].__contains__)
    adapter.save(shaken(ours), tmp_path / "a")
    back = adapter.load(hub.load(base), tmp_path / "a")
    assert list(lora.adapters(back)) == ["blocks.1.attn.wq", "head"]
    assert torch.equal(back(TOKENS), ours(TOKENS))


# ---- what is refused ----


@pytest.fixture
def folder(tmp_path):
    """An adapter of a tiny model."""
    model = lora.apply(GPT(tiny(n_layer=1)), LoRAConfig(r=2))
    adapter.save(model, tmp_path / "a")
    return tmp_path / "a"


def load_changed(folder, sizes=None, **changes):
    """What happens if adapter_config.json says something else, or the model is another."""
    path = folder / adapter.SETTINGS
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return adapter.load(GPT(tiny(n_layer=1, **(sizes or {}))), folder)


@pytest.mark.parametrize("changes, words", [
    ({"peft_type": "LOHA"}, "peft_type 'LOHA'"),
    ({"bias": "all"}, "bias 'all'"),
    ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
    ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    ({"r": 4}, "does not fit"),
    ({"use_dora": True}, "does not fit"),
    ({"sizes": {"d_model": 64}}, "does not fit"),
])  # fmt: skip
def test_what_ours_does_not_compute_is_refused(folder, changes, words):
    """Another method, another rank for some layers, another model: one line that says so."""
    with pytest.raises(UserError, match=words):
        load_changed(folder, **changes)


def test_weights_that_belong_elsewhere_are_refused(folder):
    """A layer that the model has not, a part that LoRA has not, no weights at all."""
    path = folder / adapter.WEIGHTS
    weights = load_file(path)
    name = next(iter(weights))
    for changed, words in (
        ({name.replace("layers.0", "layers.7"): weights[name]}, "blocks.7"),
        ({name.replace("lora_A", "lora_C"): weights[name]}, "no part of LoRA"),
        ({f"{adapter.PREFIX}lm_head.base_layer.weight": torch.zeros(97, 32)}, "another model"),
        ({}, "no weights"),
    ):
        save_file(changed, path)
        with pytest.raises(UserError, match=words):
            load_changed(folder)


def test_folders_that_are_none_are_refused(folder, tmp_path):
    """No settings, no weights, settings that do not say the rank, a damaged file."""
    with pytest.raises(UserError, match="is no adapter"):
        adapter.load(GPT(tiny()), tmp_path)
    path = folder / adapter.WEIGHTS
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(UserError, match="damaged"):
        load_changed(folder)
    path.unlink()
    with pytest.raises(UserError, match="pickled"):
        load_changed(folder)
    lora_model = lora.apply(GPT(tiny(n_layer=1)), LoRAConfig(r=2))
    adapter.save(lora_model, folder)
    (folder / adapter.SETTINGS).write_text("{}")
    with pytest.raises(UserError, match="does not say"):
        load_changed(folder)


def test_gpt2_has_no_names_for_it():
    """transformers keeps q, k and v of GPT-2 in one matrix."""
    dressed = gpt2(GPT(tiny(n_kv_head=4, tie_embeddings=True)))
    with pytest.raises(UserError, match="one matrix"):
        adapter.to_peft(lora.apply(dressed, LoRAConfig(r=2, targets=("wq",))))
