"""What is seen from outside: figures for Prometheus under vLLM's names, and a line for each request.

Came before: `engine.stats()`, a dict for whoever stands beside it. New here: figures that somebody else
collects. A server keeps no history and draws no curves: it counts, and says the counts when asked; rates and
percentiles are worked out by the one who asks. So times are kept as *histograms*: how many were at most 10
ms, at most 25 ms, … From those any percentile can be read off later, over any span, for many servers
together, which no mean and no ready-made percentile allows.

The names are vLLM's, so that dashboards and autoscalers made for it work here. What the engine counts is read
from the snapshot that its owner leaves after every turn: nobody waits for anybody.

Prometheus' text format 0.0.4; W3C Trace Context (traceparent); vLLM's documentation, "Production Metrics".
"""

import json
import logging
import re
import secrets
import time

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

LOG = logging.getLogger("thirty.requests")
SECONDS = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
GAUGES = {
    "running": ("vllm:num_requests_running", "Requests that run."),
    "waiting": ("vllm:num_requests_waiting", "Requests that wait for their turn."),
    "used": ("vllm:kv_cache_usage_perc", "Share of the room for keys and values in use, 0 to 1."),
}
COUNTS = {"preemptions": ("vllm:num_preemptions", "Times that a request gave way and was read again."),
          "asked": ("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache."),
          "found": ("vllm:prefix_cache_hits", "Prompt tokens found there."),
          "proposed": ("vllm:spec_decode_num_draft_tokens", "Tokens guessed."),
          "accepted": ("vllm:spec_decode_num_accepted_tokens", "Guesses that were right."),
          "steps": ("thirty:engine_steps", "Steps of the engine.")}  # fmt: skip


def look(engine):
    """The engine's figures, for the owner to leave after a turn: a dict of plain numbers."""
    scheduler, store, draft = engine.scheduler, engine.store, engine.draft
    return {"running": len(scheduler.running), "waiting": len(scheduler.waiting), "used": engine.used(),
            "preemptions": scheduler.preemptions, "asked": store.asked, "found": store.found,
            "proposed": getattr(draft, "proposed", 0), "accepted": getattr(draft, "accepted", 0),
            "steps": engine.counts["steps"], "drawn": engine.counts["drawn"]}  # fmt: skip


class Snapshot:
    """A collector of prometheus_client: the newest snapshot, asked for when somebody collects."""

    def __init__(self, read, model):
        self.read, self.model = read, model

    def collect(self):
        now = self.read()
        for names, family in ((GAUGES, GaugeMetricFamily), (COUNTS, CounterMetricFamily)):
            for key, (name, about) in names.items():
                found = family(name, about, labels=["model_name"])
                found.add_metric([self.model], now[key])
                yield found


class Metrics:
    """The figures of one server. `watch` is for EngineLoop; `read` gives the engine's newest snapshot."""

    def __init__(self, model, read):
        self.registry = registry = CollectorRegistry()
        registry.register(Snapshot(read, model))

        def histogram(name, about, buckets):
            return Histogram(name, about, ["model_name"], buckets=buckets, registry=registry).labels(model)

        def counter(name, about, labels=()):
            return Counter(name, about, ["model_name", *labels], registry=registry)

        self.model = model
        self.ttft = histogram("vllm:time_to_first_token_seconds", "Arrival to first token.", SECONDS)
        self.itl = histogram("vllm:inter_token_latency_seconds", "One token to the next.", SECONDS)
        self.e2e = histogram("vllm:e2e_request_latency_seconds", "Arrival to last token.", SECONDS)
        self.prompts = histogram("vllm:request_prompt_tokens", "Tokens of a prompt.", TOKENS)
        self.answers = histogram("vllm:request_generation_tokens", "Tokens of an answer.", TOKENS)
        self.read_tokens = counter("vllm:prompt_tokens", "Tokens of all prompts.").labels(model)
        self.new_tokens = counter("vllm:generation_tokens", "Tokens of all answers.").labels(model)
        self.ended = counter("vllm:request_success", "Requests that ended.", ["finished_reason"])
        self.refused = counter("thirty:requests_refused", "Requests that were not served.", ["code"])

    def watch(self, ticket, event, now):
        """An event of a request, before it is told: called on the event loop, where nobody else counts."""
        if event.ids:
            self.new_tokens.inc(len(event.ids))
            if ticket.first is None:
                self.ttft.observe(now - ticket.arrived)
                self.read_tokens.inc(ticket.n_prompt)
                self.prompts.observe(ticket.n_prompt)
            else:
                self.itl.observe(now - ticket.last)
        if event.finish is not None:
            how = "abort" if event.finish == "cancelled" else event.finish
            self.ended.labels(self.model, how).inc()
            if event.finish in ("stop", "length"):
                self.e2e.observe(now - ticket.arrived)
                self.answers.observe(ticket.n_new + len(event.ids))

    def text(self):
        """All of it in Prometheus' text format, bytes."""
        return generate_latest(self.registry)


def trace_of(headers):
    """(trace id, request id): of W3C's traceparent and x-request-id where they are sound, else new ones."""
    sent = headers.get(b"traceparent", b"").decode("latin-1")
    found = re.fullmatch(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}", sent)
    own = headers.get(b"x-request-id", b"").decode("latin-1")
    return (
        found[1] if found and found[1].strip("0") else secrets.token_hex(16),
        own if re.fullmatch(r"[\w.-]{1,64}", own, flags=re.A) else "req-" + secrets.token_hex(8),
    )


class Logged:
    """ASGI middleware: a line of JSON for each request when it has ended; its id goes back as x-request-id.

    What was asked and answered is nobody's business, and is not in it. Routes may add to
    scope["state"]["log"].
    """

    def __init__(self, app, quiet=("/health", "/ready", "/metrics")):
        self.app, self.quiet = app, quiet

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, (trace, request) = time.perf_counter(), trace_of(dict(scope["headers"]))
        line = {"trace": trace, "request": request, "method": scope["method"], "path": scope["path"],
                "status": 0, "bytes": 0}  # fmt: skip
        scope.setdefault("state", {})["log"] = line

        async def counted(message):
            if message["type"] == "http.response.start":
                line["status"] = message["status"]
                message["headers"] = [*message.get("headers", []), (b"x-request-id", request.encode())]
            line["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, counted)
        finally:
            if scope["path"] not in self.quiet:
                line["ms"] = round(1e3 * (time.perf_counter() - began), 2)
                LOG.info(json.dumps(line))
