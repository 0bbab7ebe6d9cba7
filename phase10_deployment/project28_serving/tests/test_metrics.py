"""The figures, read back by Prometheus' own parser; and the log line of a request."""

import asyncio
import json
import logging
import re

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.trial import model_folder
from phase10_deployment.project28_serving import _trial
from phase10_deployment.project28_serving.api import create_app
from phase10_deployment.project28_serving.metrics import trace_of


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    folder = model_folder(
        tmp_path_factory.mktemp("model") / "m", loud=8, max_seq_len=128, n_layer=1, d_model=16
    )
    service = _trial.service_of(folder, speculative="ngram")
    service.loop.start()
    yield create_app(service)
    service.loop.stop()


async def ask(app, *bodies, headers=None):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://t") as client:
        for body in bodies:
            await client.post("/v1/completions", json={"model": "tiny", **body}, headers=headers)
        return (await client.get("/metrics")).text


def values(text):
    return {(sample.name, sample.labels.get("finished_reason") or sample.labels.get("code") or
             sample.labels.get("le")): sample.value
            for family in text_string_to_metric_families(text) for sample in family.samples}  # fmt: skip


def test_matches_what_was_asked(app):
    """Counts of requests, tokens, hits and times are those of the answers."""
    prompt = "the same beginning for all of them, long enough for blocks"
    before = values(asyncio.run(ask(app)))
    bodies = [
        {"prompt": prompt + str(i), "max_tokens": 7, "ignore_eos": True, "temperature": 0} for i in range(3)
    ]
    after = values(asyncio.run(ask(app, *bodies, {"prompt": "x", "max_tokens": 0})))

    def grown(name, label=None):
        return after[name, label] - before.get((name, label), 0)

    assert grown("vllm:prompt_tokens_total") == 3 * (len(prompt) + 1)
    assert grown("vllm:generation_tokens_total") == 21
    assert grown("vllm:request_success_total", "length") == 3
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds"):
        assert grown(f"vllm:{name}_count") == grown(f"vllm:{name}_bucket", "+Inf") == 3
    assert 0 < grown("vllm:inter_token_latency_seconds_count") <= 18
    assert grown("vllm:request_generation_tokens_sum") == 21
    assert grown("vllm:prefix_cache_queries_total") == 3 * (len(prompt) + 1)
    assert grown("vllm:prefix_cache_hits_total") == 2 * (len(prompt) // 16 * 16)
    assert grown("thirty:requests_refused_total", "invalid_request") == 1
    assert after["vllm:num_requests_running", None] == after["vllm:kv_cache_usage_perc", None] == 0
    drafts = grown("vllm:spec_decode_num_draft_tokens_total")
    assert drafts >= grown("vllm:spec_decode_num_accepted_tokens_total") >= 0


def test_every_figure_says_which_model_and_what_it_is(app):
    families = list(text_string_to_metric_families(asyncio.run(ask(app))))
    assert len(families) >= 15 and all(family.documentation for family in families)
    for family in families:
        assert all(sample.labels["model_name"] == "tiny" for sample in family.samples), family.name


def test_the_line_of_a_request(app, caplog):
    """One line of JSON with trace, status and counts; nothing of what was asked or answered."""
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    sent = {"traceparent": f"00-{trace}-00f067aa0ba902b7-01", "x-request-id": "mine-7"}
    with caplog.at_level(logging.INFO, "thirty.requests"):
        asyncio.run(ask(app, {"prompt": "a secret", "max_tokens": 3, "ignore_eos": True}, headers=sent))
    (line,) = [json.loads(record.message) for record in caplog.records]
    assert (line["trace"], line["request"], line["status"]) == (trace, "mine-7", 200)
    assert (line["prompt_tokens"], line["new_tokens"]) == (8, 3) and line["ms"] > 0 and line["bytes"] > 0
    assert "secret" not in caplog.text


def test_ids_from_outside_are_not_trusted():
    """A forged header does not get into the log: neither lines nor control characters."""
    for bad in (b"a b", b"x\ny", b"", b"y" * 65, "é".encode("latin-1")):
        assert re.fullmatch(r"req-[0-9a-f]{16}", trace_of({b"x-request-id": bad})[1])
    for bad in (b"", b"00-zz-1-01", b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01"):
        assert re.fullmatch(r"[0-9a-f]{32}", trace_of({b"traceparent": bad})[0])
        assert set(trace_of({b"traceparent": bad})[0]) != {"0"}
