"""Events out of bytes, many pieces to few, and the figures of an answer."""

import asyncio
import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from phase10_deployment.project30_gradio.stream import Answer, Events, answered, coalesced, retold

STREAM = (': hello\r\n\r\ndata: {"a": 1}\n\nevent: x\ndata:é🥞\ndata:  two\nid: 7\n\n'
          "data\n\ndata: [DONE]\r\r")  # fmt: skip
WANT = ['{"a": 1}', "é🥞\n two", "", "[DONE]"]


def fed(data, cuts):
    """The events of bytes that come in pieces, cut at these places."""
    events, found, places = Events(), [], [0, *sorted(cuts), len(data)]
    for start, end in pairwise(places):
        found += events.feed(data[start:end])
    return found


# ---- events ----


@pytest.mark.exercise("Events.feed")
def test_events_come_out_however_they_are_cut():
    """All of it at once, byte by byte, and cut at every single place: the same events."""
    data = STREAM.encode()
    assert fed(data + b"\n", []) == WANT
    assert fed(data + b"\n", range(len(data))) == WANT
    for cut in range(len(data)):
        assert fed(data + b"\n", [cut]) == WANT, cut


@pytest.mark.exercise("Events.feed")
def test_an_event_comes_out_with_the_bytes_that_complete_it():
    """Neither earlier nor later; several at once where a piece completes several."""
    events = Events()
    assert events.feed(b"data: one") == [] and events.feed(b"\n") == []
    assert events.feed(b"\ndata: two\n\ndata: thr") == ["one", "two"]
    assert events.feed(b"ee\n\n") == ["three"] and events.feed(b"\n\n: nothing\n\n") == []


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text(max_size=6), max_size=4), st.lists(st.integers(0, 60), max_size=5),
       st.sampled_from(["\n", "\r\n"]))  # fmt: skip
def test_matches_the_openai_client(texts, cuts, end):
    """Its decoder finds the same events in the same bytes."""
    streaming = pytest.importorskip("openai._streaming")
    lines = [f"data: {json.dumps(text)}{end}{end}" for text in texts]
    data = "".join(lines).encode()
    want = [one.data for one in streaming.SSEDecoder().iter_bytes(iter([data]))]
    assert fed(data, [cut for cut in cuts if cut < len(data)]) == want == [json.dumps(t) for t in texts]


# ---- many to few ----


def run(coroutine):
    """Its result; a test fails where it never comes. Waits of a tenth: a machine that stands still in between
    does not count."""

    async def patient():
        task = asyncio.ensure_future(coroutine)
        for _ in range(80):
            done, _ = await asyncio.wait([task], timeout=0.1)
            if done:
                return task.result()
        task.cancel()
        raise AssertionError("it never comes to an end")

    return asyncio.run(patient())


@pytest.mark.exercise("coalesced")
def test_nothing_is_lost_and_few_lists_come():
    """A thousand items that come faster than eyes see: all there, in order, in few lists."""

    async def source():
        for i in range(1000):
            yield i
            await asyncio.sleep(0)

    async def count():
        began, lists = asyncio.get_running_loop().time(), []
        async for some in coalesced(source(), every=0.05):
            lists.append(some)
        return lists, asyncio.get_running_loop().time() - began

    lists, seconds = run(count())
    assert [item for some in lists for item in some] == list(range(1000)) and all(lists)
    assert len(lists) <= 3 + seconds / 0.05


@pytest.mark.exercise("coalesced")
def test_the_first_comes_at_once_and_the_rest_together():
    """The first item is told while the second is not there yet; what comes within a blink is one list."""

    async def play():
        gate, told = asyncio.Event(), []

        async def source():
            yield "a"
            await gate.wait()
            for item in "bcd":
                yield item

        async for some in coalesced(source(), every=0.3):
            told.append(some)
            gate.set()
        return told

    assert run(play()) == [["a"], ["b", "c", "d"]]


@pytest.mark.exercise("coalesced")
def test_after_a_silence_an_item_comes_at_once():
    """It does not wait for a beat: the source goes on only when its last item was told."""

    async def play():
        heard, told = asyncio.Event(), []

        async def source():
            for item in range(3):
                heard.clear()
                yield item
                await heard.wait()

        async for some in coalesced(source(), every=0.001):
            told.append(some)
            heard.set()
        return told

    assert run(play()) == [[0], [1], [2]]


@pytest.mark.exercise("coalesced")
def test_what_fails_says_so_after_what_came():
    async def source():
        yield 1
        yield 2
        raise ValueError("broke off")

    async def play():
        told = []
        with pytest.raises(ValueError, match="broke off"):
            async for some in coalesced(source(), every=0.01):
                told += some
        return told

    assert run(play()) == [1, 2]


@pytest.mark.exercise("coalesced")
@pytest.mark.parametrize("how", ["stop", "close"])
def test_however_it_ends_the_source_is_closed(how):
    """Stopped, or left alone by its reader, it hangs up: also while the source has nothing to say."""

    async def play():
        closed, stop, told = [], asyncio.Event(), []

        async def source():
            try:
                yield "a"
                yield "b"
                await asyncio.Event().wait()  # for ever
            finally:
                closed.append(True)

        pieces = coalesced(source(), every=0.01, stop=stop)
        async for some in pieces:
            told += some
            if told == ["a", "b"]:
                if how == "close":
                    break
                asyncio.get_running_loop().call_later(0.05, stop.set)
        await pieces.aclose()
        return told, list(closed)

    assert run(play()) == (["a", "b"], [True])


def test_is_on_for_each_update():
    """The naive page tells n(n + 1)/2 pieces; ours each once."""
    pieces = ["word "] * 200
    told = list(retold(pieces))
    assert told[-1] == "".join(pieces) and sum(map(len, told)) == 5 * 200 * 201 / 2


# ---- an answer ----


def chunk(text="", **more):
    return json.dumps({"choices": [{"delta": {"content": text}, "finish_reason": None}], **more})


def test_figures_of_an_answer():
    """What the server tells, and when it came; what it does not tell is not there."""
    answer = Answer(asked=10.0)
    assert answer.take(chunk(""), 10.1) == "" and answer.first is None
    for i, text in enumerate(["Ilmo ", "lives ", "here."]):
        answer.take(chunk(text), 11.0 + i)
    usage = {"prompt_tokens": 20, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 16},
             "completion_tokens_details": {"accepted_prediction_tokens": 3,
                                           "rejected_prediction_tokens": 1}}  # fmt: skip
    answer.take(json.dumps({"choices": [], "usage": usage}), 13.1)
    assert answer.text == "Ilmo lives here."
    assert answer.figures() == {
        "ttft": 1.0,
        "new": 5,
        "rate": 2.0,
        "prompt": 20,
        "cached": 16,
        "accepted": 0.75,
    }
    assert Answer(0.0).figures() == {}


def test_a_stream_that_breaks_off_is_no_answer():
    """No [DONE]: half an answer; an error in the stream: the server's words; no JSON: said so."""

    def heard(*lines):
        async def pieces():
            for line in lines:
                yield f"data: {line}\n\n".encode()

        async def play():
            answer = Answer(0.0)
            return [text async for text in answered(pieces(), answer, lambda: 1.0)]

        return run(play())

    assert heard(chunk("a"), chunk("b"), "[DONE]", chunk("c")) == ["a", "b"]
    for lines, why in (([chunk("a")], "broke off"), (['{"error": {"message": "full"}}'], "full"),
                       (["<html>"], "no JSON"), (["[1]"], "no event")):  # fmt: skip
        with pytest.raises(UserError, match=why):
            heard(*lines)
