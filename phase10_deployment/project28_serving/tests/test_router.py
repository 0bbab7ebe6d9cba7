"""The router: who is chosen, what a dead server costs, and that answers pass through unchanged."""

import asyncio
import json
from collections import Counter

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.trial import model_folder
from phase04_advanced_inference.project10_prompt_caching.ring import Ring
from phase10_deployment.project28_serving import _trial
from phase10_deployment.project28_serving.api import create_app
from phase10_deployment.project28_serving.router import Router, beginning, create_router

NAMES = [f"http://s{i}" for i in range(5)]


# ---- who is chosen ----


@given(keys=st.lists(st.integers(0, 6), min_size=1, max_size=40), slack=st.sampled_from([1.0, 1.25, 3.0]))
@settings(max_examples=25, deadline=None, derandomize=True)
@pytest.mark.exercise("Router.choose")
def test_matches_the_ring_of_project_10(keys, slack):
    """All alive, none tried: the very server that the ring takes, request for request; so the bound holds."""
    router, ring = Router(NAMES, slack=slack), Ring(NAMES, slack=slack)
    for key in keys:
        chosen = router.choose(key)
        assert chosen == ring.take(key)
        router.load[chosen] += 1
    mean = len(keys) / len(NAMES)
    assert max(router.load.values()) <= -(-slack * mean // 1)


@pytest.mark.exercise("Router.choose")
def test_the_same_beginning_finds_the_same_server():
    router = Router(NAMES)
    first = {key: router.choose(key) for key in range(50)}
    assert {key: router.choose(key) for key in range(50)} == first and len(set(first.values())) == 5
    router.alive[NAMES[2]] = False
    after = {key: router.choose(key) for key in range(50)}
    moved = {key for key in first if first[key] != after[key]}
    assert moved == {key for key in first if first[key] == NAMES[2]}, "only the dead server's keys move"


@pytest.mark.exercise("Router.choose")
def test_the_dead_and_the_tried_are_left_out():
    for policy in ("prefix", "least", "round"):
        router = Router(NAMES, policy)
        router.alive[NAMES[0]] = False
        tried = []
        while (chosen := router.choose("key", tried)) is not None:
            assert chosen not in tried and router.alive[chosen], policy
            tried.append(chosen)
        assert sorted(tried) == NAMES[1:], policy


@pytest.mark.exercise("Router.choose")
def test_where_all_are_full_the_first_of_those_left_is_asked():
    """The bound is a wish; a request that is here has to go somewhere."""
    router = Router(NAMES[:2], slack=1.0)
    home = router.choose("key")
    other = next(name for name in NAMES[:2] if name != home)
    router.load[other] = 9
    assert router.choose("key", [home]) == other
    router.load[home] = 9
    router.load[other] = 0
    assert router.choose("key") == other, "a server with too much in hand is passed over"


@pytest.mark.exercise("Router.choose")
def test_the_bound_counts_the_living_alone():
    """Five servers of which two live: each may have its share of two, not of five."""
    router = Router(NAMES, slack=1.0)
    for name in NAMES[:3]:
        router.alive[name], router.load[name] = False, 50
    counts = Counter()
    for _ in range(10):
        chosen = router.choose("one key for all")
        router.load[chosen] += 1
        counts[chosen] += 1
    assert sorted(counts.values()) == [5, 5]


@pytest.mark.exercise("Router.choose")
def test_least_and_round():
    least, turns = Router(NAMES[:3], "least"), Router(NAMES[:3], "round")
    least.load.update({NAMES[0]: 2, NAMES[1]: 1, NAMES[2]: 1})
    assert least.choose("x") == NAMES[1]
    assert [turns.choose("x") for _ in range(4)] == [*NAMES[:3], NAMES[0]]
    turns.alive[NAMES[1]] = False
    assert [turns.choose("x") for _ in range(3)] == [NAMES[2], NAMES[0], NAMES[2]]


def test_what_a_beginning_is():
    chat = {"messages": [{"role": "system", "content": "s" * 300}, {"role": "user", "content": "one"}]}
    other = {"messages": [{"role": "system", "content": "s" * 300}, {"role": "user", "content": "two"}]}
    assert (
        beginning(json.dumps(chat)) == beginning(json.dumps(other)) != beginning(json.dumps(chat), "Bearer b")
    )
    said = [{"role": "user", "content": "one"}]
    later = [*said, {"role": "assistant", "content": "yes"}, {"role": "user", "content": "more"}]
    assert beginning(json.dumps({"messages": said})) == beginning(json.dumps({"messages": later}))
    assert beginning(json.dumps({"messages": said[:0]})) != beginning(json.dumps({"messages": said}))
    assert beginning('{"prompt": "abc"}') != beginning('{"prompt": "abd"}')
    for odd in (
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"messages": 3}',
        b'{"messages": [{}]}',
        b"null",
        b'{"prompt": null}',
    ):
        assert beginning(odd)[0] == ""


def test_bad_settings():
    for replicas, policy in (([], "prefix"), (["a", "a"], "least"), (["a"], "luck")):
        with pytest.raises(UserError):
            Router(replicas, policy)


# ---- passing on ----


class Fleet(httpx.AsyncBaseTransport):
    """Servers of this process by name; those in `dead` refuse connections, `breaks` lose theirs on the
    way."""

    def __init__(self, apps):
        self.to = {name: httpx.ASGITransport(app) for name, app in apps.items()}
        self.dead, self.breaks, self.asked = set(), {}, []

    async def handle_async_request(self, request):
        name = f"http://{request.url.host}"
        if request.url.path not in ("/ready",):
            self.asked.append(name)
        if name in self.dead:
            raise httpx.ConnectError("refused")
        if name in self.breaks:
            return self.breaks[name]()
        return await self.to[name].handle_async_request(request)


class Cut(httpx.AsyncByteStream):
    def __init__(self, parts):
        self.parts = parts

    async def __aiter__(self):
        for part in self.parts:
            yield part
        raise httpx.ReadError("gone")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(
        tmp_path_factory.mktemp("model") / "m", loud=8, max_seq_len=128, n_layer=1, d_model=16
    )


@pytest.fixture
def fleet(folder):
    services = {name: _trial.service_of(folder) for name in NAMES[:2]}
    for service in services.values():
        service.loop.start()
    yield Fleet({name: create_app(service) for name, service in services.items()})
    for service in services.values():
        service.loop.stop()


def through(fleet, *bodies, policy="prefix", during=lambda router: None):
    """The answers to these bodies by way of a router over the fleet, and the router."""
    router = Router(NAMES[:2], policy)
    app = create_router(router, client=httpx.AsyncClient(transport=fleet))

    async def run():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://r") as client:
            answers = []
            for body in bodies:
                answers.append(await client.post("/v1/completions", json={"model": "tiny", **body}))
                during(router)
            return answers, (await client.get("/router")).json()

    return (*asyncio.run(run()), router)


ASKED = {"prompt": "the same beginning, long enough to be kept in blocks", "max_tokens": 6, "temperature": 0}


def test_matches_the_server_itself(fleet, folder):
    """Whole and streamed, status, headers and text are the server's own; and its errors."""
    bodies = [ASKED, {**ASKED, "stream": True}, {**ASKED, "max_tokens": -1}]
    (whole, streamed, bad), state, _ = through(fleet, *bodies)
    text = whole.json()["choices"][0]["text"]
    pieces = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: {")]
    assert "".join(piece["choices"][0]["text"] for piece in pieces) == text
    assert streamed.text.endswith("data: [DONE]\n\n") and streamed.headers["content-type"].startswith(
        "text/event"
    )
    assert bad.status_code == 400 and bad.json()["error"]["param"] == "max_tokens"
    assert int(whole.headers["content-length"]) == len(whole.content)
    assert whole.headers["x-request-id"] and len(set(fleet.asked)) == 1, "one beginning, one server"
    assert (
        sum(state["load"].values()) == 0
        and whole.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    )


def test_is_on(fleet):
    """The second request finds its beginning cached behind the prefix policy; taking turns, it does not."""
    (_, second), _, _ = through(fleet, ASKED, ASKED)
    assert second.json()["usage"]["prompt_tokens_details"]["cached_tokens"] >= 32
    other = {**ASKED, "prompt": "quite another beginning, but as long as the first one"}
    (_, second), _, router = through(fleet, other, other, policy="round")
    assert second.json()["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    assert set(router.served.values()) == {1}


def test_a_dead_server_costs_nobody_anything_who_has_heard_nothing(fleet):
    home = Router(NAMES[:2]).choose(beginning(json.dumps(ASKED)))
    fleet.dead.add(home)
    (first, second), state, _ = through(fleet, ASKED, {**ASKED, "stream": True})
    assert first.status_code == second.status_code == 200 and second.text.endswith("data: [DONE]\n\n")
    assert state["retries"] == 1 and not state["alive"][home], "after the first failure nobody asks it"
    assert sum(state["load"].values()) == 0


def test_one_that_breaks_off_before_the_first_byte_is_asked_again_elsewhere(fleet):
    home = Router(NAMES[:2]).choose(beginning(json.dumps(ASKED)))

    def breaks():
        raise httpx.RemoteProtocolError("closed without a word")

    fleet.breaks[home] = breaks
    (answer,), state, _ = through(fleet, ASKED)
    assert answer.status_code == 200 and state["retries"] == 1


def test_half_an_answer_is_never_joined_to_anothers(fleet):
    """After the first byte there is no second attempt: the stream says what happened."""
    home = Router(NAMES[:2]).choose(beginning(json.dumps(ASKED)))
    piece = b'data: {"choices": [{"index": 0, "text": "half", "finish_reason": null}]}\n\n'
    fleet.breaks[home] = lambda: httpx.Response(200, headers={"content-type": "text/event-stream"},
                                                stream=Cut([piece]))  # fmt: skip
    (answer,), state, _ = through(fleet, {**ASKED, "stream": True})
    assert answer.text.startswith(piece.decode()) and "server_lost" in answer.text
    assert fleet.asked == [home] and state["lost"] == 1 and state["retries"] == 0
    assert sum(state["load"].values()) == 0


def test_where_nobody_is_left_that_is_said(fleet):
    fleet.dead.update(NAMES[:2])
    (answer,), state, _ = through(fleet, ASKED)
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert answer.json()["error"]["code"] == "no_server" and sum(state["load"].values()) == 0


def test_a_server_that_is_being_stopped_sends_its_requests_on(fleet):
    home = Router(NAMES[:2]).choose(beginning(json.dumps(ASKED)))
    fleet.to[home].app.state.service.door.draining = True
    (answer,), state, _ = through(fleet, ASKED)
    assert answer.status_code == 200 and state["retries"] == 1
