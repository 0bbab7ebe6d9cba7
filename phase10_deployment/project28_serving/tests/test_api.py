"""Rude clients, strangers' keys, fuzzed bodies, and a server that is being stopped; over real sockets."""

import asyncio
import json
import socket
import threading
import time
import urllib.request
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import hub
from common.generate import Sampling
from common.trial import model_folder
from phase10_deployment.project28_serving import _client, _server, _trial
from phase10_deployment.project28_serving.api import create_app
from phase10_deployment.project28_serving.assemble import Switches, assemble
from phase10_deployment.project28_serving.limits import Key
from phase10_deployment.project28_serving.protocol import ProblemBody
from phase10_deployment.project28_serving.service import Bounds

BOUNDS = Bounds(places=16, seconds=60, body=20_000, body_seconds=1.0)
KEYS = {"one": Key("anna"), "two": Key("ben")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(
        tmp_path_factory.mktemp("model") / "m", loud=8, max_seq_len=512, n_layer=1, d_model=16
    )


@pytest.fixture(scope="module")
def service(folder):
    return _trial.service_of(folder, keys=KEYS, bounds=BOUNDS, max_batch=4)


@pytest.fixture(scope="module")
def url(service):
    with _server.in_thread(create_app(service, inspect=True)) as url:
        yield url


def asked(**fields):
    return {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 8, "ignore_eos": True, **fields}


def ask(url, body, key="one", path="/v1/completions"):
    return asyncio.run(asyncio.wait_for(_client.ask(url, path, body, key=key), 60))


def empty(service, seconds=20.0):
    """Do engine and door hold nothing, before the time is up?"""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        now = service.loop.snapshot
        held = now["running"] + now["waiting"] + len(service.loop.tickets)
        if not held and service.door.places.free == BOUNDS.places:
            return True
        time.sleep(0.01)
    return False


def raw(url, data, wait=5.0):
    """Send bytes, read until the other side closes or the time is up."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port), timeout=wait) as sock:
        try:
            sock.sendall(data)
            found = b""
            while part := sock.recv(65536):
                found += part
        except OSError:
            return found if "found" in dir() else b""
        return found


# ---- who leaves, reads slowly, sends too much ----


def test_is_on(service, url):
    """An answer goes through the engine's own steps: nothing is made up on the way."""
    before = service.loop.snapshot["drawn"]
    assert ask(url, asked()).ok and service.loop.snapshot["drawn"] - before == 8


def test_whoever_hangs_up_frees_its_room(service, url):
    """Streaming, waiting for a whole answer, and still in the queue: gone within a moment."""

    async def leave():
        opened = []
        for i in range(6):
            reader, writer = await _client.connect(url)
            body = asked(max_tokens=4000, stream=i % 2 == 0, prompt="Once")
            writer.write(_client.request("/v1/completions", body, "one" if i < 3 else "two"))
            opened.append((reader, writer))
        await opened[0][0].readuntil(b'"text": "')
        assert service.loop.tickets
        for _, writer in opened:
            writer.transport.abort()

    asyncio.run(asyncio.wait_for(leave(), 60))
    assert empty(service) and service.loop.engine.used() == 0
    assert ask(url, asked()).ok


def test_a_slow_reader_holds_nobody_up(service, url):
    """One that opens a stream and never reads: others are served meanwhile, and it ends by itself."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port)) as slow:
        slow.sendall(_client.request("/v1/completions", asked(max_tokens=60, stream=True), "two"))
        assert all(ask(url, asked()).ok for _ in range(3))
        until = time.monotonic() + 40
        while service.loop.tickets and time.monotonic() < until:
            time.sleep(0.01)
        assert not service.loop.tickets, "the engine wrote its text, read or not"
    assert empty(service)


def test_too_large_too_slow_and_no_text(service, url):
    large = asked(prompt="x" * 30_000)
    answer = ask(url, large)
    assert answer.status == 413 and json.loads(answer.body)["error"]["code"] == "too_large"
    head = b"POST /v1/completions HTTP/1.1\r\nHost: s\r\nAuthorization: Bearer one\r\n"
    claimed = raw(url, head + b"Content-Length: 100000000\r\nConnection: close\r\n\r\n{")
    assert claimed.startswith(b"HTTP/1.1 413"), "100 MB are refused before they are read"
    chunked = head + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n" + b"4000\r\n" + b"x" * 0x4000
    assert raw(url, chunked + b"\r\n4000\r\n" + b"x" * 0x4000 + b"\r\n").startswith(b"HTTP/1.1 413")
    slow = raw(url, head + b"Content-Length: 50\r\nConnection: close\r\n\r\n{")
    assert slow.startswith(b"HTTP/1.1 408"), "one that never sends its body is not waited for"
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100):
        assert not raw(url, junk, wait=1.0).startswith(b"HTTP/1.1 5")
    assert empty(service) and ask(url, asked()).ok


def fields(rest):
    """A body that asks for this model, and the rest, as it is sent."""
    return b'{"model": "tiny", ' + rest + b"}"


ODD = [b"{\xff\xfe", b"", b"null", b"[]", b'"x"', b"{" * 5000, b"[" * 9000, fields(b'"prompt": NaN'),
       fields(b'"prompt": "\\ud800"'), fields(b'"prompt": [1e999]'), fields(b'"prompt": [[]]'),
       fields(b'"prompt": "a", "temperature": NaN'), fields(b'"prompt": [-1]'), fields(b'"prompt": [999]'),
       fields(b'"prompt": "a", "seed": 1' + b"0" * 400), fields(b'"prompt": "a", "seed": ' + b"9" * 5000),
       fields(b'"prompt": "a", "stop": ""'), fields(b'"prompt": "a", "n": 17'), fields(b'"prompt": [true]'),
       fields(b'"prompt": {"a": 1}')]  # fmt: skip


@pytest.mark.parametrize("body", ODD, ids=lambda body: body[:40].decode("latin-1"))
def test_what_makes_no_sense_is_a_400_in_openais_shape(url, body):
    answer = ask(url, body)
    assert answer.status == 400, answer.body
    assert ProblemBody.model_validate_json(answer.body).error.message


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_connections(service, url, count):
    """So many open at once, silent; whoever asks meanwhile is served."""
    assert (_server.descriptors() or 1e9) > 2 * count + 100, "both ends lie in this process"

    async def crowd():
        opened = [await _client.connect(url) for _ in range(count)]
        answers = await _client.in_turn(url, "/v1/completions", [asked(max_tokens=2)] * 8, 4, key="one")
        for _, writer in opened:
            writer.close()
        return answers

    assert all(answer.ok for answer in asyncio.run(asyncio.wait_for(crowd(), 60))) and empty(service)


# ---- keys ----


def test_overload_is_refused_with_a_time_and_nobody_is_lost(service, url):
    """Five times as many as there are places: each is answered, or told when to come again."""

    async def flood():
        crowd = _client.in_turn(url, "/v1/completions", [asked(max_tokens=30)] * 80, 80, key="one")
        guest = _client.in_turn(url, "/v1/completions", [asked(max_tokens=5)] * 3, 1, key="two")
        return await asyncio.gather(crowd, guest)

    crowd, guest = asyncio.run(asyncio.wait_for(flood(), 60))
    refused = [answer for answer in crowd if not answer.ok]
    assert refused and {answer.status for answer in refused} <= {429, 503}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert len(crowd) - len(refused) >= 8 and all(answer.text for answer in crowd if answer.ok)
    assert all(answer.ok for answer in guest), "a key that asks for much starves no other"
    assert empty(service)


def cached(answer):
    return answer.usage["prompt_tokens_details"]["cached_tokens"]


def test_a_key_does_not_learn_what_another_has_asked(url, folder):
    """A beginning that one key has sent is found for that key, and for no other, unless that is allowed."""
    body = asked(prompt="a secret that only anna knows, and nobody else in town", max_tokens=1)
    assert cached(ask(url, body)) == 0 and cached(ask(url, body)) >= 32
    assert cached(ask(url, body, key="two")) == 0, "a stranger's prompt was found: a side channel"
    shared = _trial.service_of(folder, keys=KEYS, shared_prefixes=True)
    with _server.in_thread(create_app(shared)) as open_url:
        assert cached(ask(open_url, body)) == 0 and cached(ask(open_url, body, key="two")) >= 32


def test_no_key_no_answer(url):
    for path in ("/v1/models", "/thirty/engine", "/thirty/blocks"):
        assert httpx.get(url + path).status_code == 401
        assert httpx.get(url + path, headers={"authorization": "Bearer nope"}).status_code == 401
    assert httpx.get(url + "/health").status_code == httpx.get(url + "/metrics").status_code == 200


# ---- anything at all ----

JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=5),
                    lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=5), x, max_size=3),
                    max_leaves=4)  # fmt: skip
FIELDS = (
    "model",
    "prompt",
    "messages",
    "input",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "seed",
    "stream",
    "logprobs",
    "top_logprobs",
    "response_format",
    "stream_options",
    "top_k",
    "tools",
    "layer",
)


@pytest.fixture(scope="module")
def app(folder):
    service = _trial.service_of(folder, bounds=Bounds(max_tokens=3))
    service.loop.start()
    yield create_app(service, inspect=True)
    service.loop.stop()


@given(path=st.sampled_from(["chat/completions", "completions", "embeddings"]),
       body=st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=5), sound=st.booleans())  # fmt: skip
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_body_makes_the_server_fail(app, path, body, sound):
    """Whatever is sent, the answer is one of the statuses of the description, and errors have their shape."""
    if sound:
        body = {**body, "model": "tiny", "prompt": "a", "input": "a",
                "messages": [{"role": "user", "content": "a"}]}  # fmt: skip

    async def post():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            return await client.post(f"/v1/{path}", content=json.dumps(body).encode())

    answer = asyncio.run(asyncio.wait_for(post(), 60))
    assert answer.status_code in (200, 400, 404, 429), answer.text
    if answer.status_code != 200:
        ProblemBody.model_validate_json(answer.content)


@pytest.mark.slow
def test_schemathesis(app):
    """The schema's own fuzzer: no 5xx, no answer that the description does not know."""
    schemathesis = pytest.importorskip("schemathesis")
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    checks = schemathesis.checks
    wanted = [getattr(checks, name, None) or getattr(schemathesis.specs.openapi.checks, name)
              for name in ("not_a_server_error", "status_code_conformance", "content_type_conformance",
                           "response_schema_conformance")]  # fmt: skip

    @schema.include(path_regex="^/(v1|health|ready|metrics|thirty/(engine|logits|attention))").parametrize()
    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
    def run(case):
        case.call_and_validate(checks=wanted)

    for operation in schema.get_all_operations():
        case = operation.ok().as_strategy()

        @given(case=case)
        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
        def one(case):
            if case.path != "/thirty/blocks":
                case.call_and_validate(checks=wanted)

        one()


# ---- a look inside ----


def test_a_look_inside(service, url):
    """Likely tokens, attention maps, switches and blocks; and not a byte of it where that is off."""
    key = {"authorization": "Bearer one"}

    def post(path, body):
        return httpx.post(url + path, json=body, headers=key).json()

    steps = post("/thirty/logits", {"prompt": "abc", "top": 3, "temperature": 0.5})["steps"]
    assert [step["token"] for step in steps] == ["a", "b", "c"]
    for step in steps:
        assert 0 <= step["entropy_drawn"] <= step["entropy"] <= 8.1, "colder is surer"
        assert [one["probability"] for one in step["top"]] == sorted((o["probability"] for o in step["top"]),
                                                                     reverse=True)  # fmt: skip
    maps = post("/thirty/attention", {"prompt": "abcd", "layer": 0})
    assert len(maps["heads"]) == 4 and all(len(head) == len(head[0]) == 4 for head in maps["heads"])
    for row in (row for head in maps["heads"] for row in head):
        assert sum(row) == pytest.approx(1, abs=1e-3)
    assert maps["heads"][0][0][1:] == [0, 0, 0], "nobody looks ahead"
    assert "layers 0 to 0" in post("/thirty/attention", {"prompt": "a", "layer": 7})["error"]["message"]
    assert post("/thirty/logits", {"prompt": "x" * 400})["error"]["code"] == "too_large"
    assert httpx.get(url + "/thirty/engine", headers=key).json()["switches"]["paged"] is True
    with httpx.stream("GET", url + "/thirty/blocks", headers=key) as stream:
        first = next(line for line in stream.iter_lines() if line)
    assert len(json.loads(first[6:])["blocks"]) == len(service.loop.engine.store.refs)


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
        changed = httpx.post(
            url + "/thirty/engine", json={"switches": {"paged": False, "tokens": 512}}, timeout=20
        )
        thread.join(20)
        assert changed.json()["switches"]["paged"] is False and running[0].usage["completion_tokens"] == 100
        assert type(service.loop.engine.store).__name__ == "Slots" and ask(url, asked()).ok
        for wrong in ({"paged": 3, "kv": "int3"}, {"nothing": True}, {"kv": "int8", "paged": False}):
            answer = httpx.post(url + "/thirty/engine", json={"switches": wrong}, timeout=20)
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

    async def post():
        async with httpx.AsyncClient(
            transport=httpx.ASGITransport(create_app(service)), base_url="http://t"
        ) as c:
            return (await c.post("/v1/completions", json=asked(temperature=0))).json()

    try:
        text = asyncio.run(asyncio.wait_for(post(), 60))["choices"][0]["text"]
    finally:
        service.loop.stop()
    assert text == want or ("int8" in switches.values() and len(text) > 0)
    assert service.loop.engine.switches == Switches(tokens=1024, max_batch=8, max_step_tokens=64, **switches)


# ---- the end ----


def test_a_server_that_is_stopped_drains(folder):
    """Who is inside is served to the end, who comes is told to ask another, and then the process may go."""
    service = _trial.service_of(folder)
    app, found = create_app(service), []
    with _server.in_thread(app, grace=40) as url:
        thread = threading.Thread(
            target=lambda: found.append(ask(url, asked(max_tokens=60, stream=True), key=""))
        )
        thread.start()
        until = time.monotonic() + 20
        while not service.loop.tickets and time.monotonic() < until:
            time.sleep(0.002)
        service.door.draining = True
        late = ask(url, asked(), key="")
        ready = httpx.get(url + "/ready")
    thread.join(40)
    assert late.status == ready.status_code == 503 and int(late.headers["retry-after"]) >= 1
    assert found[0].whole and found[0].finish == "length"
    assert not service.loop.thread.is_alive()


@pytest.mark.slow
def test_sigterm_drains_a_process(folder, tmp_path):
    """The same by a signal: the answer that is being written is written to its end, and the exit code is
    0."""
    replica = _server.Replica("--model", folder, "--max_batch", 2).ready()
    found = []
    body = {"model": "m", "prompt": "Once", "max_tokens": 200, "ignore_eos": True, "stream": True}
    thread = threading.Thread(target=lambda: found.append(ask(replica.url, body, key="")))
    thread.start()
    until = time.monotonic() + 10
    while time.monotonic() < until:
        with urllib.request.urlopen(replica.url + "/metrics", timeout=5) as page:
            if b'vllm:num_requests_running{model_name="m"} 1.0' in page.read():
                break
    code = replica.stop()
    thread.join(20)
    assert found[0].ok and found[0].finish == "length" and code == 0
