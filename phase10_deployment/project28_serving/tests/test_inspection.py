"""A look inside: likely tokens, attention maps, blocks, lengths; and every switch behind the same API."""

import asyncio
import base64
import json
import threading

import httpx
import pytest
import torch

from common import hub
from common.generate import Sampling
from common.tokenizer import load
from common.trial import model_folder
from phase10_deployment.project28_serving import _server, _trial
from phase10_deployment.project28_serving._trial import PATIENCE, ask, get, post
from phase10_deployment.project28_serving.api import create_app
from phase10_deployment.project28_serving.assemble import Switches, assemble


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(
        tmp_path_factory.mktemp("model") / "m", loud=8, max_seq_len=512, n_layer=1, d_model=16
    )


@pytest.fixture(scope="module")
def service(folder):
    return _trial.service_of(folder)


@pytest.fixture(scope="module")
def url(service):
    with _server.in_thread(create_app(service, inspect=True)) as url:
        yield url


def asked(**fields):
    return {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": True, **fields}


def test_a_look_inside(service, url):
    """Likely tokens, attention maps, switches and blocks; and not a byte of it where that is off."""

    def seen(path, body):
        return post(url, path, body).json()

    steps = seen("/thirty/logits", {"prompt": "abc", "top": 3, "temperature": 0.5})["steps"]
    assert [step["token"] for step in steps] == ["a", "b", "c"]
    assert seen("/thirty/logits", {"prompt": "abc"})["logits"] is None
    packed = base64.b64decode(seen("/thirty/logits", {"prompt": "abc", "whole": True})["logits"])
    logits = torch.frombuffer(bytearray(packed), dtype=torch.float32)
    model = service.loop.engine.model
    with torch.no_grad():
        assert torch.allclose(logits, model(torch.tensor([list(b"abc")]))[0, -1], atol=1e-5)
    for step in steps:
        assert 0 <= step["entropy_drawn"] <= step["entropy"] <= 8.1, "colder is surer"
        assert [one["probability"] for one in step["top"]] == sorted((o["probability"] for o in step["top"]),
                                                                     reverse=True)  # fmt: skip
    maps = seen("/thirty/attention", {"prompt": "abcd", "layer": 0})
    assert len(maps["heads"]) == 4 and all(len(head) == len(head[0]) == 4 for head in maps["heads"])
    for row in (row for head in maps["heads"] for row in head):
        assert sum(row) == pytest.approx(1, abs=1e-3)
    assert maps["heads"][0][0][1:] == [0, 0, 0], "nobody looks ahead"
    assert "layers 0 to 0" in seen("/thirty/attention", {"prompt": "a", "layer": 7})["error"]["message"]
    assert seen("/thirty/logits", {"prompt": "x" * 400})["error"]["code"] == "too_large"
    engine = get(url, "/thirty/engine").json()
    assert engine["switches"]["paged"] is True and (engine["layers"], engine["heads"]) == (1, 4)
    with httpx.stream("GET", url + "/thirty/blocks", timeout=PATIENCE) as stream:
        first = next(line for line in stream.iter_lines() if line)
    assert len(json.loads(first[6:])["blocks"]) == len(service.loop.engine.store.refs)


def test_how_long_a_text_is(url, folder):
    """/tokenize counts what a prompt or a conversation would cost, one too long for the context, too."""
    words = load(folder)
    text = post(url, "/tokenize", {"prompt": "é!", "return_token_strs": True}).json()
    assert text == {"count": 3, "max_model_len": 512, "tokens": [195, 169, 33], "token_strs": ["�", "�", "!"]}
    said = [{"role": "user", "content": "x" * 900}]
    for more in (True, False):
        asked = {"messages": said, "add_generation_prompt": more}
        found = post(url, "/tokenize", asked).json()
        assert found["tokens"] == words.chat_ids(said, add_generation_prompt=more) and found["count"] > 900
    for wrong in ({}, {"prompt": "a", "messages": said}, {"prompt": "a", "model": "gpt-4"}):
        assert post(url, "/tokenize", wrong).status_code in (400, 404)


def test_each_answer_says_what_was_guessed(folder):
    """Guesses, right and wrong, of an answer stand in its usage; of all answers together, in the figures."""
    service = _trial.service_of(folder, speculative="ngram")
    with _server.in_thread(create_app(service)) as url:
        found = [ask(url, asked(prompt=text, max_tokens=40, temperature=0)) for text in ("ababab", "xyz")]
    told = [one.usage["completion_tokens_details"] for one in found]
    right = [one["accepted_prediction_tokens"] for one in told]
    wrong = [one["rejected_prediction_tokens"] for one in told]
    draft = service.loop.engine.draft
    assert sum(right) == draft.accepted > 0 and sum(right) + sum(wrong) == draft.proposed
    assert all(x >= 0 for x in wrong) and all(x < 40 for x in right) and not draft.tally


def test_what_a_learner_wrote_is_said(folder):
    app = create_app(_trial.service_of(folder), inspect=True, mine=["phase01/a.py"])
    with _server.in_thread(app) as url:
        assert get(url, "/thirty/engine").json()["mine"] == ["phase01/a.py"]


def test_inspection_is_off_unless_asked_for(folder):
    app = create_app(_trial.service_of(folder))
    assert not [route.path for route in app.routes if getattr(route, "path", "").startswith("/thirty")]


def test_switches_can_be_changed_while_it_runs(folder):
    """POST /thirty/engine puts another engine in; who is being served is served to the end by the old one."""
    words = _trial.engine_of(folder).tokenizer

    def make(switches):
        return assemble(hub.load(folder), words, switches)

    service = _trial.service_of(folder, make=make)
    with _server.in_thread(create_app(service, inspect=True)) as url:
        running = []
        thread = threading.Thread(target=lambda: running.append(ask(url, asked(max_tokens=100))))
        thread.start()
        changed = post(url, "/thirty/engine", {"switches": {"paged": False, "tokens": 512}})
        thread.join(PATIENCE)
        assert changed.json()["switches"]["paged"] is False and running[0].usage["completion_tokens"] == 100
        assert type(service.loop.engine.store).__name__ == "Slots" and ask(url, asked()).ok
        for wrong in ({"paged": 3, "kv": "int3"}, {"nothing": True}, {"kv": "int8", "paged": False}):
            answer = post(url, "/thirty/engine", {"switches": wrong})
            assert answer.status_code == 400, answer.text


SWITCHES = [{"kv": "int8"}, {"weights": "int8"}, {"speculative": "ngram"}, {"paged": False},
            {"paged": False, "prefix_cache": False},
            pytest.param({"compile": True}, marks=pytest.mark.slow)]  # fmt: skip


@pytest.mark.parametrize("switches", SWITCHES)
def test_every_switch_serves(folder, switches):
    """Each technique alone, behind the same API: greedy text of the asked length; and refusals stay."""
    service = _trial.service_of(folder, **switches)
    plain = _trial.engine_of(folder, prefix_cache=False, paged=False)
    ids = list(b"Once upon a time")
    want = plain.generate([ids], [Sampling(max_tokens=8, temperature=0.0, ignore_eos=True)])[0].text
    service.loop.start()

    async def send():
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(service)), base_url="http://t"
        ) as c:
            return (await c.post("/v1/completions", json=asked(temperature=0))).json()

    try:
        text = asyncio.run(asyncio.wait_for(send(), PATIENCE))["choices"][0]["text"]
    finally:
        service.loop.stop()
    assert text == want or ("int8" in switches.values() and len(text) > 0)
    assert service.loop.engine.switches == Switches(tokens=1024, max_batch=8, max_step_tokens=64, **switches)
