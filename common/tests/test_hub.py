"""Model folders against transformers, on tiny random weights, read and written; and what must be refused."""

import json
import shutil

import pytest
import torch
import torch.nn as nn
from safetensors.torch import load_file, save_file

from common import hub
from common.errors import UserError
from common.generate import Sampling, generate
from common.model import GPT, Block, Embedding, Rope, SwiGLU, set_attend, swap, untie
from common.testing import close, tiny, trained
from common.tokenizer import CharTokenizer
from common.variants import Llama3Rope, QKNormAttention, SinusoidalPositions, YarnRope, alibi_attend, gpt2

SIZES = {
    "vocab_size": 99, "hidden_size": 64, "intermediate_size": 100, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 32}
FAMILIES = {
    "gpt2": ("GPT2", {"vocab_size": 99, "n_positions": 128, "n_embd": 48, "n_layer": 3, "n_head": 4}),
    "gpt2 untied": ("GPT2", {"vocab_size": 99, "n_positions": 128, "n_embd": 48, "n_layer": 2, "n_head": 4,
                             "n_inner": 100, "tie_word_embeddings": False}),
    "llama": ("Llama", SIZES),
    "llama tied": ("Llama", {**SIZES, "tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "llama 3": ("Llama", {**SIZES, "rope_parameters": LLAMA3}),
    "llama yarn": ("Llama", {**SIZES, "rope_parameters": YARN}),
    "smollm2": ("Llama", {**SIZES, "tie_word_embeddings": True, "hidden_size": 72, "num_attention_heads": 9,
                          "num_key_value_heads": 3,
                          "rope_parameters": {"rope_type": "default", "rope_theta": 1e5}}),
    "qwen3": ("Qwen3", {**SIZES, "head_dim": 32, "tie_word_embeddings": True, "rms_norm_eps": 1e-6}),
}  # fmt: skip


@pytest.fixture(scope="module", params=FAMILIES)
def theirs(request, tmp_path_factory):
    """A transformers model with random weights, norms and biases too; the folder it saved; some tokens."""
    import transformers

    name, settings = FAMILIES[request.param]
    config = getattr(transformers, f"{name}Config")(**settings, bos_token_id=None, eos_token_id=None)
    torch.manual_seed(0)
    architecture = {"GPT2": "GPT2LMHeadModel"}.get(name, f"{name}ForCausalLM")
    model = getattr(transformers, architecture)(config).eval()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.15)
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder)
    return model, folder, torch.randint(99, (2, 100))


def test_logits_equal_transformers_both_ways(theirs, tmp_path):
    """Read from their folder; written in their shape, and read by them."""
    from transformers import AutoModelForCausalLM

    model, folder, tokens = theirs
    ours = hub.load(folder)
    with torch.no_grad():
        want = model(tokens).logits
        close(ours(tokens), want, "read", rtol=1e-4, atol=1e-4)
        hub.save(ours, tmp_path)
        again, info = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
        close(again.eval()(tokens).logits, want, "written", rtol=1e-4, atol=1e-4)
    assert type(again) is type(model)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    mine, other = load_file(tmp_path / "model.safetensors"), load_file(folder / "model.safetensors")
    assert mine.keys() == other.keys() and all(torch.equal(mine[name], other[name]) for name in mine)


def test_generation_equals_transformers(theirs):
    model, folder, tokens = theirs
    prompt = tokens[:, :20]
    want = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=12, do_sample=False)
    got = generate(hub.load(folder), prompt, Sampling(temperature=0, max_tokens=12))
    assert [list(answer.ids) for answer in got] == want[:, 20:].tolist()


def test_a_model_without_its_frequencies_is_another(tmp_path):
    """Scaled RoPE is on: the plain one gives other logits."""
    torch.manual_seed(0)
    tokens = torch.randint(97, (1, 60))
    for make in (lambda old: Llama3Rope(old, original_max_seq_len=16), lambda old: YarnRope(old, 4.0, 16)):
        model = GPT(tiny()).eval()
        before = model(tokens)
        swap(model, Rope, make)
        assert not torch.allclose(model(tokens), before, atol=1e-5)
        hub.save(model, tmp_path)
        assert torch.equal(hub.load(tmp_path)(tokens), model(tokens))


# our own folders


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(tiny()).eval()


@pytest.fixture
def folder(model, tmp_path):
    hub.save(model, tmp_path / "model", card={"command": "thirty run 3", "steps": 10})
    return tmp_path / "model"


def same(a, b):
    return all(
        torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("dress", [
    lambda model: model,
    gpt2,
    untie,
    lambda model: swap(model, type(model.blocks[0].attn), lambda old: QKNormAttention(old, 1e-5)),
])  # fmt: skip
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_saved_and_loaded_are_bit_equal(dress, dtype, tmp_path):
    torch.manual_seed(0)
    model = dress(GPT(tiny(n_kv_head=4, tie_embeddings=True, dropout=0.1))).to(dtype)
    hub.save(model, tmp_path)
    again = hub.load(tmp_path)
    assert same(model, again) and again.config == model.config
    assert again.embed.weight.dtype == dtype and not again.training
    assert (again.head.weight is again.embed.weight) is model.config.tie_embeddings
    assert len(load_file(tmp_path / "model.safetensors")) <= len(list(model.parameters())), (
        "a tie is saved once"
    )
    assert hub.load(tmp_path, dtype=torch.float64).embed.weight.dtype == torch.float64


def test_loading_draws_no_random_numbers_and_owns_its_memory(folder, model):
    state = torch.get_rng_state()
    again = hub.load(str(folder))
    assert torch.equal(torch.get_rng_state(), state)
    again.embed.weight.data.zero_()
    assert same(hub.load(folder), model)
    hub.save(again, folder)  # over the file it was read from
    assert hub.load(folder).embed.weight.abs().sum() == 0


def test_card(folder, model):
    card = json.loads((folder / "card.json").read_text("utf-8"))
    assert card["command"] == "thirty run 3" and card["steps"] == 10 and card["tokenizer"] is None
    assert set(card["sha256"]) == {"model.safetensors", "config.json"}
    tokenizer = CharTokenizer("abc")
    hub.save(model, folder, tokenizer=tokenizer)
    card = json.loads((folder / "card.json").read_text("utf-8"))
    assert card["tokenizer"] == tokenizer.sha256 == card["sha256"]["tokenizer.json"]
    with pytest.raises(UserError, match="more ids than the model"):
        hub.save(model, folder, tokenizer=CharTokenizer([chr(0x100 + i) for i in range(98)]))


def test_what_ends_a_text_is_written(model, tmp_path):
    class Ended(CharTokenizer):
        eos_ids, pad_id, bos_id = (7,), 3, None

        def __init__(self, ends):
            super().__init__("abc")
            self.eos_ids, self.pad_id = ends, 3

    for ends, said in (((7,), 7), ((7, 8), [7, 8]), ((), None)):
        hub.save(model, tmp_path, tokenizer=Ended(ends))
        config = json.loads((tmp_path / "config.json").read_text("utf-8"))
        assert (config["eos_token_id"], config["pad_token_id"], config["bos_token_id"]) == (said, 3, None)


def test_shards(folder, model):
    from transformers import AutoModelForCausalLM

    tokens = torch.randint(97, (1, 9))
    hub.save(model, folder, shard_bytes=20_000)
    names = sorted(path.name for path in folder.glob("*.safetensors*"))
    assert names[0].startswith("model-00001-of-0000") and names[-1] == "model.safetensors.index.json"
    assert "model.safetensors" not in names, "the unsharded file before it is gone"
    assert all(path.stat().st_size < 25_000 for path in folder.glob("*.safetensors"))
    assert same(hub.load(folder), model)
    close(AutoModelForCausalLM.from_pretrained(folder)(tokens).logits, model(tokens), "their sharded load")
    index = json.loads((folder / "model.safetensors.index.json").read_text("utf-8"))
    assert index["metadata"]["total_size"] == sum(4 * p.numel() for p in model.parameters())
    hub.save(model, folder)
    assert [path.name for path in folder.glob("*.safetensors*")] == ["model.safetensors"]
    assert same(hub.load(folder), model)


# surgery


class Halved(nn.Module):
    """A stand-in for a quantiser: integers and a scale where the weight was."""

    def __init__(self, old, bits):
        super().__init__()
        scale = old.weight.abs().max() / 2 ** (bits - 1)
        self.register_buffer("codes", (old.weight / scale).round().to(torch.int8))
        self.register_buffer("scale", scale)

    def forward(self, x):
        return x @ (self.codes.to(x.dtype) * self.scale).T


def restore(model, bits):
    return swap(model, nn.Linear, lambda old: Halved(old, bits), where=lambda name: ".ffn." in name)


def share(model, source):
    for block in model.blocks:
        block.attn = model.blocks[source].attn


@pytest.mark.parametrize("dress", [lambda model: model, gpt2])
def test_surgery_is_noted_and_repeated(dress, tmp_path):
    torch.manual_seed(0)
    model, tokens = dress(GPT(tiny(n_kv_head=4, tie_embeddings=True))).eval(), torch.randint(97, (1, 9))
    share(model, 1)
    hub.mark(model, "project19_weight_sharing", source=1)
    hub.mark(restore(model, 5), "project14_ptq", bits=5)
    hub.save(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text("utf-8"))
    assert config["surgery"] == [
        {"by": "project19_weight_sharing", "args": {"source": 1}},
        {"by": "project14_ptq", "args": {"bits": 5}},
    ]  # fmt: skip
    table = {"project14_ptq": restore, "project19_weight_sharing": share}
    again = hub.load(tmp_path, restore=table)
    assert torch.equal(again(tokens), model(tokens)) and again.head.weight is again.embed.weight
    assert again.blocks[0].attn is again.blocks[1].attn and again.blocks[0].ffn.w_up.codes.dtype == torch.int8
    hub.save(again, tmp_path / "again")
    assert torch.equal(hub.load(tmp_path / "again", restore=table)(tokens), model(tokens))
    with pytest.raises(UserError, match="changed by project19_weight_sharing: load it with"):
        hub.load(tmp_path)
    with pytest.raises(UserError, match="cannot be noted"):
        hub.mark(model, "project14_ptq", calibration=torch.zeros(2))


class Loud(Block):
    stands_for = Block


@pytest.mark.parametrize("change, way", [
    (lambda m: swap(m, SwiGLU, lambda old: nn.Sequential(old)), "blocks.0.ffn is a Sequential"),
    (lambda m: swap(m, nn.Linear, lambda old: Halved(old, 4), where=lambda n: n.endswith("1.attn.wq")),
     "blocks.1.attn.wq is a Halved"),
    (lambda m: swap(m, Embedding, SinusoidalPositions), "embed is a SinusoidalPositions"),
    (lambda m: swap(m, Rope, lambda old: type("NTKRope", (Rope,), {})(8, 1e6)), "rope is a NTKRope"),
    (lambda m: setattr(m.blocks[1], "ffn", m.blocks[0].ffn), "blocks.1.ffn.w_gate.weight is shared"),
    (lambda m: setattr(m.head, "weight", m.embed.weight), "head.weight is shared, resized, or gone"),
    (lambda m: m.blocks.pop(1), "blocks.1 is shared, resized, or gone"),
])  # fmt: skip
def test_a_model_without_a_name_is_refused(model, change, way, tmp_path):
    change(model)
    with pytest.raises(UserError, match=f"llama has no name for this model: {way}") as error:
        hub.save(model, tmp_path / "new")
    assert "\n" not in str(error.value) and not (tmp_path / "new").exists()


def test_what_does_not_change_the_answer_is_no_hindrance(model, tmp_path):
    for block in model.blocks:
        block.__class__ = Loud  # says that it stands for a Block
    set_attend(model, alibi_attend)  # an attend is no part of a folder
    hub.save(model, tmp_path)
    assert type(hub.load(tmp_path).blocks[0]) is Block


def test_a_compiled_model_is_saved_as_itself(model, tmp_path):
    hub.save(torch.compile(model), tmp_path)
    assert same(hub.load(tmp_path), model)


def test_gpt2_has_no_gqa(model, tmp_path):
    with pytest.raises(UserError, match="no GQA"):
        hub.save(gpt2(model), tmp_path)


# folders that are refused


def change_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **changes}), "utf-8")
    (folder / "card.json").unlink(missing_ok=True)


@pytest.mark.parametrize("changes, message", [
    ({"model_type": "mamba"}, "holds a 'mamba': of the families, the core is gpt2, qwen3, llama"),
    ({"model_type": None}, "holds a None"),
    ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
    ({"attention_bias": True}, "attention_bias True"),
    ({"rope_parameters": {"rope_type": "longrope"}}, "RoPE of type 'longrope'"),
    ({"rope_parameters": {"rope_type": "llama3"}}, "config.json is incomplete: KeyError"),
    ({"rope_parameters": {**YARN, "truncate": False}}, "truncate False"),
    ({"quantization_config": {}}, "another library quantised"),
    ({"vocab_size": "many"}, "config.json is incomplete: TypeError"),
    ({"num_attention_heads": 5}, "multiple of n_kv_head"),
    ({"num_hidden_layers": 3}, r"do not belong together: 9 weights are missing \['blocks.2.attn.wk.weight'"),
    ({"num_hidden_layers": 1}, "9 are unknown"),
    ({"intermediate_size": 64}, "blocks.0.ffn.w_gate.weight is .48, 32. torch.float32, not .64, 32."),
    ({"tie_word_embeddings": True}, "ties head and embedding, but their weights differ"),
    ({"max_position_embeddings": 0}, "max_seq_len must be at least 1"),
])  # fmt: skip
def test_configs_that_are_refused(folder, changes, message):
    change_config(folder, **changes)
    with pytest.raises(UserError, match=message) as error:
        hub.load(folder)
    assert "\n" not in str(error.value)


def test_a_tie_that_was_saved_twice(folder, model):
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
    weights["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)  # as old files have it
    save_file(weights, folder / "model.safetensors")
    change_config(folder, tie_word_embeddings=True)
    again = hub.load(folder)
    assert again.head.weight is again.embed.weight and torch.equal(again.embed.weight, model.embed.weight)


def test_the_published_gpt2_layout(tmp_path):
    """Without the prefix, and with the causal masks among the weights."""
    torch.manual_seed(0)
    model = gpt2(GPT(tiny(n_kv_head=4, tie_embeddings=True)))
    hub.save(model, tmp_path)
    named = load_file(tmp_path / "model.safetensors").items()
    weights = {name.removeprefix("transformer."): tensor for name, tensor in named}
    weights["h.0.attn.bias"] = torch.ones(1, 1, 64, 64).tril()
    save_file(weights, tmp_path / "model.safetensors")
    (tmp_path / "card.json").unlink()
    assert same(hub.load(tmp_path), model)
    del weights["wpe.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"1 weights are missing \['embed.positions'\]"):
        hub.load(tmp_path)


def test_files_that_are_missing_or_damaged(folder, model, tmp_path):
    def refused(message, change):
        broken = tmp_path / "broken"
        shutil.rmtree(broken, ignore_errors=True)
        shutil.copytree(folder, broken)
        change(broken)
        with pytest.raises(UserError, match=message) as error:
            hub.load(broken)
        assert "\n" not in str(error.value)

    def cut(path):
        path.write_bytes(path.read_bytes()[:-10])

    def pickled(at):
        (at / "model.safetensors").unlink()
        (at / "card.json").unlink()
        torch.save({}, at / "pytorch_model.bin")

    refused(r"holds no config\.json \(an unfinished run", lambda at: (at / "config.json").unlink())
    refused(r"config\.json is damaged", lambda at: (at / "config.json").write_text("{"))
    refused(
        r"config\.json is damaged: it holds no JSON object", lambda at: (at / "config.json").write_text("[]")
    )
    refused("is not the file that card.json describes", lambda at: cut(at / "model.safetensors"))
    refused("is not the file that card.json describes", lambda at: (at / "model.safetensors").unlink())
    (folder / "card.json").unlink()
    refused(r"model\.safetensors is missing or damaged", lambda at: cut(at / "model.safetensors"))
    refused(r"holds no model\.safetensors", lambda at: (at / "model.safetensors").unlink())
    hub.save(model, folder, shard_bytes=20_000)
    (folder / "card.json").unlink()
    refused("00002-of-0000. is missing or damaged|00002.*missing or damaged",
            lambda at: next(at.glob("*00002-of*")).unlink())  # fmt: skip
    outside = {"weight_map": {"model.norm.weight": "../model.safetensors"}}
    refused("names files outside its folder",
            lambda at: (at / "model.safetensors.index.json").write_text(json.dumps(outside)))  # fmt: skip
    hub.save(model, folder)
    refused(r"weights as pickle \(\['pytorch_model.bin'\]\), which can run any code", pickled)


def test_a_name_instead_of_a_folder(folder, model, monkeypatch):
    import huggingface_hub

    def offline(name, **_):
        raise OSError("cannot reach the hub\nmore about it")

    with pytest.raises(UserError, match=r"there is no folder \./nowhere"):
        hub.load("./nowhere")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: folder)
    assert same(hub.load("someone/some-model"), model)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(
        UserError, match="no folder gpt9, and the hub gave no model of that name: cannot reach"
    ) as error:
        hub.load("gpt9")
    assert "\n" not in str(error.value)
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        hub.load("someone/some-model")


def test_a_cut_short_save_is_noticed(folder, model, monkeypatch):
    """The card is written last: until then, the old one does not match the new weights."""
    model.embed.weight.data += 1
    monkeypatch.setattr(hub, "sha256", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hub.save(model, folder)
    with pytest.raises(UserError, match="save the model again"):
        hub.load(folder)


def test_a_trained_model_answers_as_before(tmp_path):
    model, prompt = trained(steps=40), [[1, 3, 5]]
    hub.save(model, tmp_path)
    greedy = Sampling(temperature=0, max_tokens=10)
    assert generate(hub.load(tmp_path), prompt, greedy) == generate(model, prompt, greedy)
