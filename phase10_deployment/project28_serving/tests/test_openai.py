"""The official client, unchanged, over a real socket: what it gets is what the engine gives."""

import asyncio
import json

import pytest

from common.generate import Sampling
from common.tokenizer import load
from common.trial import model_folder
from phase10_deployment.project28_serving import _client, _server, _trial
from phase10_deployment.project28_serving.api import create_app
from phase10_deployment.project28_serving.json_mode import is_json
from phase10_deployment.project28_serving.limits import Key

openai = pytest.importorskip("openai")
KEYS = {"one": Key("anna"), "two": Key("ben", requests=1)}
SAID = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where does Mara work?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(
        tmp_path_factory.mktemp("model") / "m", loud=8, max_seq_len=128, n_layer=1, d_model=16
    )


@pytest.fixture(scope="module")
def url(folder):
    with _server.in_thread(create_app(_trial.service_of(folder, keys=KEYS, double=True))) as url:
        yield url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=url + "/v1", api_key="one", max_retries=0, timeout=200) as client:
        yield client


def alone(folder, ids, **sampling):
    return _trial.engine_of(folder, double=True).generate([ids], [Sampling(**sampling)])[0]


def chat_ids(folder):
    return load(folder).chat_ids(SAID, add_generation_prompt=True)


def test_matches_the_engine(client, folder):
    """Chat and text, greedy and drawn by seed: the engine's text, token counts, and reason to stop."""
    ids = chat_ids(folder)
    for settings in ({"temperature": 0.0}, {"temperature": 0.9, "top_p": 0.8, "seed": 11}):
        want = alone(folder, ids, max_tokens=12, **settings)
        answer = client.chat.completions.create(model="tiny", messages=SAID, max_tokens=12, **settings)
        choice = answer.choices[0]
        assert (choice.message.role, choice.message.content) == ("assistant", want.text)
        assert choice.finish_reason == want.finish
        assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(ids), len(want.ids))
        text = client.completions.create(model="tiny", prompt=ids, max_tokens=12, **settings)
        assert text.choices[0].text == want.text and text.usage.total_tokens == len(ids) + len(want.ids)


def test_matches_alone_under_load(url, folder):
    """Sixteen at once, of different lengths, greedy and drawn: each gets the text that it gets alone."""
    words, bodies, want = load(folder), [], []
    engine = _trial.engine_of(folder, double=True)
    for i in range(16):
        settings = {"max_tokens": 3 + 2 * i, "temperature": 0.8 * (i % 2), "seed": i}
        bodies.append({"model": "tiny", "prompt": "Once " * (1 + i % 5), "stream": i % 3 > 0, **settings})
        want.append(engine.generate([words.encode(bodies[-1]["prompt"])], [Sampling(**settings)])[0].text)
    replies = asyncio.run(_client.in_turn(url, "/v1/completions", bodies, 8, key="one"))
    assert [reply.text for reply in replies] == want and all(reply.ok for reply in replies)


def test_streams_say_the_same(client, folder):
    """The deltas joined are the whole answer; the role comes first, the reason and the usage last."""
    settings = {"model": "tiny", "messages": SAID, "max_tokens": 15, "seed": 3, "temperature": 1.0}
    whole = client.chat.completions.create(**settings)
    chunks = list(
        client.chat.completions.create(stream=True, stream_options={"include_usage": True}, **settings)
    )
    deltas = [chunk.choices[0] for chunk in chunks if chunk.choices]
    assert deltas[0].delta.role == "assistant" and len({chunk.id for chunk in chunks}) == 1
    assert "".join(one.delta.content or "" for one in deltas) == whole.choices[0].message.content
    assert [one.finish_reason for one in deltas if one.finish_reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens and not chunks[-1].choices
    assert all(chunk.usage is None for chunk in chunks[:-1])
    text = {"model": "tiny", "prompt": "Once", "max_tokens": 9, "temperature": 0}
    pieces = client.completions.create(stream=True, **text)
    joined = "".join(piece.choices[0].text for piece in pieces)
    assert joined == client.completions.create(**text).choices[0].text


def test_stop_texts_end_and_are_not_shown(client, folder):
    text = alone(folder, load(folder).encode("Once"), max_tokens=30, temperature=0.0).text
    middle = text[len(text) // 2]
    for stop in (middle, [middle, "nowhere"]):
        settings = {"model": "tiny", "prompt": "Once", "max_tokens": 30, "temperature": 0, "stop": stop}
        choice = client.completions.create(**settings).choices[0]
        assert (choice.text, choice.finish_reason) == (text[: text.index(middle)], "stop")
        pieces = [piece.choices[0] for piece in client.completions.create(stream=True, **settings)]
        assert "".join(piece.text for piece in pieces) == choice.text
        assert pieces[-1].finish_reason == "stop"


def test_several_choices_differ_by_seed(client, folder):
    """n answers are those of seed, seed + 1, …, whole or streamed; a prompt counts once."""
    ids = chat_ids(folder)
    want = [alone(folder, ids, max_tokens=8, seed=5 + i).text for i in range(3)]
    settings = {"model": "tiny", "messages": SAID, "max_tokens": 8, "seed": 5, "n": 3}
    answer = client.chat.completions.create(**settings)
    assert [choice.message.content for choice in answer.choices] == want
    assert [choice.index for choice in answer.choices] == [0, 1, 2] and len(set(want)) == 3
    assert answer.usage.prompt_tokens == len(ids)
    joined = {0: "", 1: "", 2: ""}
    for chunk in client.chat.completions.create(stream=True, **settings):
        joined[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert list(joined.values()) == want
    both = client.completions.create(model="tiny", prompt=["a", "bcd"], n=2, seed=1, max_tokens=3)
    assert len(both.choices) == 4 and both.usage.prompt_tokens == 4


def test_logprobs_are_the_models(client, folder):
    """Each token with its own log-probability and the likeliest; streamed, the same ones."""
    ids = chat_ids(folder)
    want = alone(folder, ids, max_tokens=6, seed=2, logprobs=3).logprobs
    settings = {"model": "tiny", "messages": SAID, "max_tokens": 6, "seed": 2, "logprobs": True}
    found = client.chat.completions.create(top_logprobs=3, **settings).choices[0].logprobs.content
    assert [one.logprob for one in found] == pytest.approx([one.logprob for one in want], abs=1e-6)
    for one, mine in zip(found, want, strict=True):
        assert [top.logprob for top in one.top_logprobs] == pytest.approx(
            [ln for _, ln in mine.top], abs=1e-6
        )
        assert bytes(one.bytes) == load(folder).token_bytes(mine.id)
    bare = client.chat.completions.create(**settings).choices[0].logprobs.content
    assert [one.logprob for one in bare] == [one.logprob for one in found] and not bare[0].top_logprobs
    streamed = [one for chunk in client.chat.completions.create(stream=True, top_logprobs=3, **settings)
                if chunk.choices[0].logprobs for one in chunk.choices[0].logprobs.content]  # fmt: skip
    assert streamed == found
    text = client.completions.create(model="tiny", prompt=ids, max_tokens=6, seed=2, logprobs=3)
    assert text.choices[0].logprobs.token_logprobs == [one.logprob for one in found]
    assert [len(top) <= 4 for top in text.choices[0].logprobs.top_logprobs]


def test_json_mode(client):
    """An object, or the beginning of one that max_tokens cut off; never anything else."""
    ended = 0
    for seed in range(4):
        settings = {"model": "tiny", "messages": SAID, "max_tokens": 60, "seed": seed, "temperature": 1.5}
        answer = client.chat.completions.create(
            response_format={"type": "json_object"}, logprobs=True, **settings
        )
        if answer.choices[0].finish_reason == "stop":
            ended += 1
            assert is_json(answer.choices[0].message.content)
    assert ended
    plain = client.chat.completions.create(**settings, response_format={"type": "text"})
    assert not is_json(plain.choices[0].message.content)


def test_embeddings(client):
    """Of length 1, the same whole or as base64, by text or by ids, alone or beside others."""
    both = client.embeddings.create(model="tiny", input=["Mara", "works"]).data
    alone = client.embeddings.create(model="tiny", input="works", encoding_format="float")
    assert both[1].embedding == pytest.approx(alone.data[0].embedding, abs=1e-6)
    assert sum(x * x for x in alone.data[0].embedding) == pytest.approx(1, abs=1e-5)
    ids = client.embeddings.create(model="tiny", input=list(b"works"))
    assert ids.data[0].embedding == both[1].embedding != both[0].embedding
    assert alone.usage.prompt_tokens == 5


def test_models(client):
    assert [one.id for one in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "thirty"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_errors_are_the_clients_own(url, client):
    """Whatever is wrong, the client raises what it raises for OpenAI, and the message says what to do."""
    chat = client.chat.completions.create
    with pytest.raises(openai.NotFoundError, match="there is no model") as found:
        chat(model="gpt-4", messages=SAID)
    assert found.value.code == "model_not_found" and found.value.param == "model"
    with pytest.raises(openai.BadRequestError, match="temperature") as found:
        chat(model="tiny", messages=SAID, temperature=3)
    assert found.value.param == "temperature"
    with pytest.raises(openai.BadRequestError, match="shorten it") as found:
        chat(model="tiny", messages=[{"role": "user", "content": "long " * 100}])
    assert found.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        chat(model="tiny", messages=SAID, tools=[{"type": "function", "function": {"name": "f"}}])
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.completions.create(model="tiny", prompt="")
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=url + "/v1", api_key="wrong", max_retries=0).models.list()
    ben = openai.OpenAI(base_url=url + "/v1", api_key="two", max_retries=0)
    ben.completions.create(model="tiny", prompt="a", max_tokens=1)
    with pytest.raises(openai.RateLimitError) as found:
        ben.completions.create(model="tiny", prompt="a", max_tokens=1)
    assert int(found.value.response.headers["retry-after"]) >= 1
    assert json.loads(found.value.response.text)["error"]["code"] == "rate_limit_exceeded"
