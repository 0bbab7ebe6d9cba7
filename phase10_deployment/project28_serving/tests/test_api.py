"""Rude clients, strangers' keys, fuzzed bodies, and a server that is being stopped; over real sockets."""

import asyncio
import json
import signal
import socket
import threading
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.trial import model_folder
from phase10_deployment.project28_serving import _client, _server, _trial
from phase10_deployment.project28_serving._trial import PATIENCE, ask, comes, get
from phase10_deployment.project28_serving.api import create_app
from phase10_deployment.project28_serving.engine_loop import Order
from phase10_deployment.project28_serving.limits import Key
from phase10_deployment.project28_serving.protocol import ProblemBody
from phase10_deployment.project28_serving.service import Bounds

BOUNDS = Bounds(places=16, body=20_000)
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


def empty(service):
    """Do engine and door come to hold nothing?"""

    def held():
        now = service.loop.snapshot
        return now["running"] + now["waiting"] + len(service.loop.tickets)

    return comes(lambda: not held() and service.door.places.free == service.door.places.n)


def raw(url, data, wait=PATIENCE):
    """Send bytes, read until the other side closes or the time is up."""
    where, found = urlsplit(url), b""
    with socket.create_connection((where.hostname, where.port), timeout=wait) as sock:
        try:
            sock.sendall(data)
            while part := sock.recv(65536):
                found += part
        except OSError:  # it closed before all was sent, or says nothing
            return found
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

    asyncio.run(asyncio.wait_for(leave(), PATIENCE))
    assert empty(service) and service.loop.engine.used() == 0
    assert ask(url, asked()).ok


def test_a_slow_reader_holds_nobody_up(service, url):
    """One that opens a stream and never reads: others are served meanwhile, and it ends by itself."""
    where = urlsplit(url)
    with socket.create_connection((where.hostname, where.port)) as slow:
        slow.sendall(_client.request("/v1/completions", asked(max_tokens=60, stream=True), "two"))
        assert all(ask(url, asked()).ok for _ in range(3))
        assert comes(lambda: not service.loop.tickets), "the engine waited for one who does not read"
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
    for junk in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"GET / HTTP/9.9\r\n\r\n", b"\x00" * 100):
        assert not raw(url, junk, wait=1.0).startswith(b"HTTP/1.1 5")
    assert empty(service) and ask(url, asked()).ok


def test_a_body_that_never_comes_is_not_waited_for(folder):
    service = _trial.service_of(folder, bounds=Bounds(body_seconds=0.2))
    with _server.in_thread(create_app(service)) as url:
        head = b"POST /v1/completions HTTP/1.1\r\nHost: s\r\nContent-Length: 50\r\nConnection: close\r\n"
        assert raw(url, head + b"\r\n{").startswith(b"HTTP/1.1 408")


def fields(rest):
    """A body that asks for this model, and the rest, as it is sent."""
    return b'{"model": "tiny", ' + rest + b"}"


ODD = [b"{\xff\xfe", b"", b"null", b"[]", b'"x"', b"{" * 5000, b"[" * 9000, fields(b'"prompt": NaN'),
       fields(b'"prompt": "\\ud800"'), fields(b'"prompt": [1e999]'), fields(b'"prompt": [[]]'),
       fields(b'"prompt": "a", "\\ud800": 5'),
       fields(b'"prompt": "a", "temperature": NaN'), fields(b'"prompt": [-1]'), fields(b'"prompt": [999]'),
       fields(b'"prompt": "a", "seed": 1' + b"0" * 400), fields(b'"prompt": "a", "seed": ' + b"9" * 5000),
       fields(b'"prompt": "a", "stop": ""'), fields(b'"prompt": "a", "n": 17'), fields(b'"prompt": [true]'),
       fields(b'"prompt": {"a": 1}')]  # fmt: skip


@pytest.mark.parametrize("body", ODD, ids=lambda body: body[:40].decode("latin-1"))
def test_what_makes_no_sense_is_a_400_in_openais_shape(url, body):
    answer = ask(url, body)
    assert answer.status == 400, answer.body
    assert ProblemBody.model_validate_json(answer.body).error.message


HINTS = [('"prompt": 3', "prompt", "prompt: Input should be a valid string"),
         ('"prompt": [5, -1]', "prompt[1]", "prompt[1]: Input should be greater than or equal to 0"),
         ('"prompt": "a", "stop": ["a", "b", "c", "d", "e"]', "stop", "stop: List should have at most 4"),
         ('"prompt": "a", "max_token": 5', None, "there is no field 'max_token': max_tokens is meant?"),
         ('"prompt": "a", "suffix": "b"', "suffix", "suffix is not supported by this server: leave it out"),
         ('"prompt": "a", "user": "me", "best_of": 1, "n": 0', "n", "n: Input should be greater"),
         ('"prompt": "a",', None, "the body is no JSON: ")]  # fmt: skip


@pytest.mark.parametrize("rest, param, hint", HINTS, ids=[hint for *_, hint in HINTS])
def test_what_is_wrong_is_said_so_that_one_can_mend_it(url, rest, param, hint):
    error = json.loads(ask(url, fields(rest.encode())).body)["error"]
    assert error["param"] == param and error["message"].startswith(hint), error


def test_what_curl_sends_without_a_type_and_where_nothing_is(url):
    """A forgotten Content-Type, a wrong path, a wrong method: the answer says what is meant."""
    body, key = json.dumps(asked()), {"authorization": "Bearer one"}
    form = {**key, "content-type": "application/x-www-form-urlencoded"}
    answer = httpx.post(url + "/v1/completions", content=body, headers=form, timeout=PATIENCE)
    assert answer.status_code == 400 and "Content-Type: application/json" in answer.json()["error"]["message"]
    assert get(url, "/").status_code == 404 and "/v1/models" in get(url, "/").json()["error"]["message"]
    wrong = get(url, "/v1/completions")
    assert wrong.status_code == 405 and "is for POST, not for GET" in wrong.json()["error"]["message"]


@pytest.mark.parametrize("count", [300, pytest.param(1000, marks=pytest.mark.slow)])
def test_many_connections(service, url, count):
    """So many open at once, silent; whoever asks meanwhile is served."""
    assert (_server.descriptors() or 1e9) > 2 * count + 100, "both ends lie in this process"

    async def crowd():
        opened = [await _client.connect(url) for _ in range(count)]
        answers = await _client.in_turn(url, "/v1/completions", [asked(max_tokens=2)] * 6, 3, key="one")
        for _, writer in opened:
            writer.close()
        return answers

    assert all(answer.ok for answer in asyncio.run(asyncio.wait_for(crowd(), PATIENCE))) and empty(service)


# ---- keys ----


def test_overload_is_refused_with_a_time_and_nobody_is_lost(service, url):
    """While a step takes long, five times as many come as there are places: one key gets half of them, the
    rest is told at once when to come again; a guest finds a place, and in the end all have an answer."""
    assert empty(service)
    going_on, answered = threading.Event(), []

    async def one(key):
        answered.append(await _client.ask(url, "/v1/completions", asked(), key=key))
        if len(answered) == 72:
            going_on.set()  # not before: who was refused has not waited for the step

    async def flood():
        await asyncio.gather(*[one("one") for _ in range(80)], guest())

    async def guest():
        while len(answered) < 72:
            await asyncio.sleep(0.005)
        await one("two")

    service.loop.put(Order(lambda: going_on.wait(PATIENCE), lambda: None))
    asyncio.run(asyncio.wait_for(flood(), PATIENCE))
    refused = [answer for answer in answered if not answer.ok]
    assert len(refused) == 72 and refused == answered[:72]
    assert {answer.status for answer in refused} == {429}
    assert all(int(answer.headers["retry-after"]) >= 1 for answer in refused)
    assert all(answer.text for answer in answered[72:]) and empty(service)


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
        assert httpx.get(url + path, timeout=PATIENCE).status_code == 401
        assert get(url, path, key="nope").status_code == 401
    assert get(url, "/health", key="").status_code == get(url, "/metrics", key="").status_code == 200


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

    async def send():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
            return await client.post(f"/v1/{path}", content=json.dumps(body).encode())

    answer = asyncio.run(asyncio.wait_for(send(), PATIENCE))
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


# ---- the end ----


def test_a_server_that_is_stopped_drains(folder):
    """Who is inside is served to the end, who comes is told to ask another, and then the process may go."""
    service = _trial.service_of(folder)
    going_on, told, found = threading.Event(), threading.Event(), []

    async def stop(server):
        await asyncio.to_thread(told.wait, PATIENCE)
        server.handle_exit(signal.SIGTERM, None)

    with _server.in_thread(create_app(service), grace=PATIENCE, then=stop) as url:
        thread = threading.Thread(target=lambda: found.append(ask(url, asked(stream=True), key="")))
        thread.start()
        assert comes(lambda: service.loop.tickets)
        service.loop.put(Order(lambda: going_on.wait(PATIENCE), lambda: None))
        told.set()
        assert comes(lambda: service.door.draining)
        late, ready = ask(url, asked(), key=""), get(url, "/ready")
        going_on.set()
        thread.join(PATIENCE)
    assert late.status == ready.status_code == 503 and int(late.headers["retry-after"]) >= 1
    assert found[0].whole and found[0].finish == "length" and found[0].usage is None
    assert not service.loop.thread.is_alive()


def test_whoever_is_not_done_when_the_grace_is_over_gets_what_there_is(folder):
    """Told to stop, with no time left: streams end as if max_tokens were reached; they do not break off."""
    service = _trial.service_of(folder)
    with _server.in_thread(create_app(service), grace=0) as url:
        found = []
        body = asked(max_tokens=480, stream=True)
        thread = threading.Thread(target=lambda: found.append(ask(url, body, key="")))
        thread.start()
        assert comes(lambda: any(ticket.n_new for ticket in [*service.loop.tickets.values()]))
        service.loop.put(Order(lambda: comes(lambda: service.door.draining), lambda: None))
    thread.join(PATIENCE)
    assert found[0].whole and found[0].finish == "length" and 0 < len(found[0].times) < 480
    assert not service.loop.tickets and service.loop.engine.used() == 0


@pytest.mark.slow
def test_sigterm_drains_a_process(folder):
    """The same by a signal: the answer that is being written is written to its end, who comes meanwhile is
    told to ask another, and the exit code is 0."""
    replica = _server.Replica("--model", folder, "--max_batch", 2, "--grace", PATIENCE).ready()
    found = []
    body = {"model": "m", "prompt": "Once", "max_tokens": 490, "ignore_eos": True, "stream": True}
    thread = threading.Thread(target=lambda: found.append(ask(replica.url, body, key="")))
    thread.start()
    running = 'vllm:num_requests_running{model_name="m"} 1.0'
    assert comes(lambda: running in get(replica.url, "/metrics").text)
    replica.process.send_signal(signal.SIGTERM)
    assert comes(lambda: get(replica.url, "/ready").status_code == 503)
    late = ask(replica.url, {**body, "stream": False}, key="")
    assert late.status == 503 and late.headers["retry-after"]
    thread.join(PATIENCE)
    assert found[0].ok and found[0].finish == "length" and replica.process.wait(PATIENCE) == 0
