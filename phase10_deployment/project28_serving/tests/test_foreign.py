"""Folders that transformers wrote, served as they are, under every switch; its own text is the oracle."""

import asyncio
import json

import httpx
import pytest
import torch

from common.tokenizer import load
from common.trial import model_folder
from phase10_deployment.project28_serving import _server
from phase10_deployment.project28_serving.assemble import Switches

SIZES = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
         "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
FAMILIES = {
    "GPT2": {"vocab_size": 260, "n_positions": 128, "n_embd": 32, "n_layer": 2, "n_head": 4},
    "Llama": SIZES,
    "Llama tied": {**SIZES, "tie_word_embeddings": True},  # as SmolLM2
    "Qwen3": {**SIZES, "head_dim": 16, "tie_word_embeddings": True},
}
PROMPT = "Once upon a time there was a"


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("Llama", "Llama tied")]


@pytest.fixture(scope="module", params=["GPT2", "Qwen3", *SLOW])
def theirs(request, tmp_path_factory):
    """A folder as transformers saves it, with a tokenizer of bytes and no chat template; and its greedy
    text."""
    transformers = pytest.importorskip("transformers")
    name = request.param.split()[0]
    config = getattr(transformers, f"{name}Config")(
        **FAMILIES[request.param], bos_token_id=None, eos_token_id=None
    )
    torch.manual_seed(0)
    model = getattr(transformers, "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM")(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    folder = tmp_path_factory.mktemp("theirs")
    model.save_pretrained(folder / "single")
    model.double().save_pretrained(folder)
    plain = json.loads((model_folder(folder / "ours") / "tokenizer.json").read_text())
    for place in (folder, folder / "single"):
        (place / "tokenizer.json").write_text(json.dumps({**plain, "added_tokens": []}))
    words = load(folder)
    ids = torch.tensor([words.encode(PROMPT)])
    with torch.no_grad():
        told = model.eval().generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, pad_token_id=0
        )
    return folder, words.decode(told[0, ids.size(1) :].tolist())


SETTINGS = [{}, {"paged": False, "prefix_cache": False}, {"kv": "int8", "weights": "int8"},
            {"speculative": "ngram", "max_step_tokens": 8}]  # fmt: skip


def test_matches_transformers(theirs):
    """In float64, the same text as theirs, whatever is switched on; codes of 8 bits may change it, not end
    it. A chat is refused, and why."""
    folder, want = theirs

    async def send(app, path, body):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            return await client.post(path, json={"model": "theirs", "max_tokens": 16, **body})

    for settings in SETTINGS:
        switches = Switches(**{"tokens": 512, "max_batch": 4, "max_step_tokens": 32, **settings})
        codes = "int8" in settings.values()
        service = _server.served(folder / "single" if codes else folder, switches, name="theirs")
        app = _server.created(service)
        service.loop.start()
        try:
            body = {"prompt": PROMPT, "temperature": 0, "ignore_eos": True}
            found = asyncio.run(send(app, "/v1/completions", body)).json()
            chat = asyncio.run(
                send(app, "/v1/chat/completions", {"messages": [{"role": "user", "content": "a"}]})
            )
        finally:
            service.loop.stop()
        assert found.get("usage", {}).get("completion_tokens") == 16, (settings, found)
        assert found["choices"][0]["text"] == want or codes, settings
        assert chat.status_code == 400 and "template" in chat.json()["error"]["message"]
