"""The tabs that look inside: Sampler, Tokens, Attention, KV cache."""

import asyncio
import base64
import json
import random

import gradio as gr
import numpy as np

from common.errors import UserError, demand

from . import _draw
from ._client import LACKS, Missing
from .sampler import drawn, effective, entropy, shaped
from .stream import Events, coalesced

START = "Ilmo lives in"
QUIET = {"show_progress": "hidden", "concurrency_limit": None}
LIVE = {**QUIET, "trigger_mode": "always_last"}


def told(work):
    """A handler of one HTML: what goes wrong stands in its place. On a server that lacks a route, what."""

    async def handler(self, label, *values):
        try:
            server, model = self.hub.find(label)
            return await work(self, server, model, *values)
        except Missing:
            return _draw.note(LACKS["engine"])
        except UserError as error:
            return _draw.trouble(error)

    return handler


class Sampler:
    """What may come next, and what temperature, top-k, top-p and min-p make of it, while they are moved."""

    def __init__(self, page, model):
        self.hub, self.model = page.hub, model

    def build(self):
        with gr.Row(equal_height=False):
            with gr.Column(scale=2, min_width=320):
                self.text = gr.Textbox(START, label="The text so far", lines=2, max_lines=6, max_length=1000,
                                       elem_id="sampler-text")  # fmt: skip
                self.next = gr.HTML(elem_id="sampler-next")
                with gr.Row():
                    draw, back = (
                        gr.Button("Draw the next token", size="sm"),
                        gr.Button("Start over", size="sm"),
                    )
            with gr.Column(scale=1, min_width=260):
                self.settings = [
                    gr.Slider(0, 2, 1.0, step=0.05, label="Temperature", elem_id="sampler-temperature"),
                    gr.Slider(0, 100, 0, step=1, label="Top-k", info="0: off"),
                    gr.Slider(0.01, 1, 1.0, step=0.01, label="Top-p"),
                    gr.Slider(0, 0.5, 0.0, step=0.01, label="Min-p")]  # fmt: skip
        self.course = gr.HTML(elem_id="sampler-course")
        self.row = gr.State(None)  # (logits (V,), the likeliest tokens {id: text}, where they come from)
        read = self.text.change(self.read, [self.model, self.text], [self.row, self.course], **LIVE)
        read.then(self.show, [self.row, *self.settings], self.next, **LIVE)
        for slider in self.settings:
            slider.change(self.show, [self.row, *self.settings], self.next, **LIVE)
        draw.click(self.draw, [self.row, self.text, *self.settings], self.text, **QUIET)
        back.click(lambda: START, None, self.text, **QUIET)
        self.first = [self.model, self.text], [self.row, self.course]

    async def read(self, label, text):
        """Logits behind the text, and how undecided the model was at each token of it."""
        try:
            server, model = self.hub.find(label)
            demand(text, "write a word or two")
            return await self.inside(server, text)
        except Missing:
            return await self.outside(server, model, text)
        except UserError as error:
            return None, _draw.trouble(error)

    async def inside(self, server, text):
        found = await server.ask("POST", "/thirty/logits", {"prompt": text, "top": 50, "whole": True})
        steps = found["steps"]
        logits = np.frombuffer(base64.b64decode(found["logits"]), "<f4")  # (V,)
        names = {one["id"]: one["token"] for one in steps[-1]["top"]}
        bits = [step["entropy"] for step in steps]
        most = max([*bits, 1e-9])
        before = [0.0, *bits[:-1]]  # what follows token i was undecided behind it
        titles = [f"{b:.2f} bits of choice before this token" for b in before]
        strip = _draw.tokens([step["token"] for step in steps], heat=[0.75 * b / most for b in before],
                             titles=titles)  # fmt: skip
        return (logits, names, ""), _draw.note("The darker, the less the model knew what would come:") + strip

    async def outside(self, server, model, text):
        """Of a server that is not ours: the likeliest that it tells."""
        body = {"model": model, "prompt": text, "max_tokens": 1, "logprobs": 5, "temperature": 1}
        try:
            answer = await server.ask("POST", "/v1/completions", body)
            top = answer["choices"][0]["logprobs"]["top_logprobs"][0]
            logits = np.array(list(top.values()), dtype=float)
            demand(len(logits), LACKS["engine"])
        except (Missing, KeyError, IndexError, TypeError, AttributeError):
            return None, _draw.note(LACKS["engine"])
        except UserError as error:
            return None, _draw.trouble(error)
        why = f"Of the {len(top)} likeliest only: this server tells no more. {LACKS['engine']}"
        return (logits, dict(enumerate(top)), why), ""

    def show(self, row, *settings):
        """The bars, for the settings of now."""
        if row is None:
            return ""
        (logits, names, why), (temperature, top_k, top_p, min_p) = row, settings
        plain, shares = shaped(logits), shaped(logits, temperature, int(top_k), top_p, min_p)
        best = np.argsort(-logits, kind="stable")[:14]
        rows = [(names.get(int(i), f"id {i}"), float(plain[i]), float(shares[i])) for i in best]
        bits = entropy(plain), entropy(shares)
        return _draw.bars(rows, bits, effective(shares), int((shares > 0).sum()), why)

    def draw(self, row, text, temperature, top_k, top_p, min_p):
        """The text with one token more, drawn by these settings among those whose names are known here."""
        if row is None:
            return text
        logits, names, _ = row
        shares, known = shaped(logits, temperature, int(top_k), top_p, min_p), np.zeros(len(logits))
        known[list(names)] = 1
        return text + names[drawn(shares * known, random.random())]


class Tokens:
    """A text, as the model reads it."""

    def __init__(self, page, model):
        self.hub, self.model = page.hub, model

    def build(self):
        self.text = gr.Textbox("Unbelievable! Mara bought 1,234 naïve æbleskiver.\n\treturn x", lines=3,
                               label="Any text", max_length=4000, elem_id="tokens-text")  # fmt: skip
        self.out = gr.HTML(elem_id="tokens-out")
        self.text.change(self.show, [self.model, self.text], self.out, **LIVE)
        self.first = [self.model, self.text], self.out

    @told
    async def show(self, server, model, text):
        body = {"model": model, "prompt": text or "", "return_token_strs": True}
        try:
            found = await server.ask("POST", "/tokenize", body)
        except Missing:
            return _draw.note(LACKS["tokenize"])
        strings = found.get("token_strs") or [""] * len(found["tokens"])
        size = len((text or "").encode())
        each = f"{size / found['count']:.2f} bytes each" if found["count"] else "none"
        head = f"<p class='figures'><b>{found['count']}</b> tokens for {size} bytes, {each}</p>"
        return head + _draw.tokens(strings, found["tokens"])


class Attention:
    """Who looks at whom: all heads of a layer, and one token's view of the text."""

    def __init__(self, page, model):
        self.hub, self.model = page.hub, model

    def build(self):
        with gr.Row():
            self.text = gr.Textbox("Mara lives in Mill Lane. Mara works at the bakery. Where does Mara work?",
                                   label="Any text, up to 256 tokens", lines=2, max_length=1500, scale=3,
                                   elem_id="attention-text")  # fmt: skip
            with gr.Column(scale=2, min_width=240):
                self.layer = gr.Slider(0, 31, 0, step=1, label="Layer")
                self.head = gr.Slider(0, 31, 0, step=1, label="Head")
                self.token = gr.Slider(0, 255, 255, step=1, label="Token that looks", info="255: the last")
        self.out = gr.HTML(elem_id="attention-out")
        inputs = [self.model, self.text, self.layer, self.head, self.token]
        for part in (self.text, self.layer, self.head, self.token):
            part.change(self.show, inputs, self.out, **LIVE)
        self.first = inputs, self.out

    @told
    async def show(self, server, model, text, layer, head, token):
        demand(text, "write a word or two")
        engine = server.known.engine
        demand(engine is not None, LACKS["engine"])
        found = await server.ask("POST", "/thirty/attention", {"prompt": text, "layer": int(layer)})
        heads, strings = found["heads"], found["tokens"]
        head, token = min(int(head), len(heads) - 1), min(int(token), len(strings) - 1)
        row = heads[head][token]
        titles = [f"{weight:.1%} of its look" for weight in row]
        strip = _draw.tokens(
            strings, heat=[0.85 * weight**0.5 for weight in row], titles=titles, current=token
        )
        said = _draw.note(
            f"Layer {found['layer']} of {found['layers']}, head {head}: where token {token} looks."
        )
        return said + strip + _draw.heads(heads, found["layer"], head)


class Blocks:
    """The memory for keys and values, while requests run."""

    def __init__(self, page, model):
        self.hub, self.model, self.page = page.hub, model, page

    def build(self):
        gr.HTML(_draw.note("Each square is a block of keys and values. Coloured: a request's own, as full as "
                           "it is. Hatched: the prefix cache keeps it, nobody reads it now."))  # fmt: skip
        self.out = gr.HTML(elem_id="blocks-out")
        with gr.Row():
            self.crowd = gr.Button("Send six requests that begin alike", size="sm")
        self.said = gr.HTML()
        self.crowd.click(self.send, self.model, self.said, **QUIET)

    async def watch(self, label, request: gr.Request):
        """The map, as it changes, until the visitor leaves the tab."""
        stop = self.page.watchers[request.session_hash] = asyncio.Event()
        try:
            server, _ = self.hub.find(label)
            demand(server.known.engine is not None, LACKS["engine"])
            async for seen in coalesced(events(server.pieces("GET", "/thirty/blocks")), 0.1, stop):
                yield _draw.blocks(json.loads(seen[-1])["blocks"])
        except UserError as error:
            yield _draw.note(error)
        finally:
            if self.page.watchers.get(request.session_hash) is stop:
                del self.page.watchers[request.session_hash]

    @told
    async def send(self, server, model):
        """Six requests at once, of one beginning."""
        common = "I am new in Tinytown, and I would like to know all about it. Tell me a long story about "
        people = "the mill", "the bakery", "the harbour", "the school", "the market", "the river"

        async def one(who):
            asked = [{"role": "user", "content": common + who}]
            body = {
                "model": model,
                "messages": asked,
                "max_tokens": 120,
                "temperature": 1,
                "ignore_eos": True,
            }
            answer, pieces = server.say(body)
            async for _ in pieces:
                pass
            return answer.usage

        found = await asyncio.gather(*[one(who) for who in people])
        cached = sum((one.get("prompt_tokens_details") or {}).get("cached_tokens", 0) for one in found)
        read = sum(one.get("prompt_tokens", 0) for one in found)
        return _draw.note(f"Done: of {read} prompt tokens, {cached} were there already.")


class NoDocuments:
    """Instead of the Documents tab, where there is no torch."""

    def __init__(self, page, model):
        pass

    def build(self):
        gr.HTML(_draw.note("Documents are searched by project 10, which takes PyTorch: not installed here."))


async def events(pieces):
    """The data of each event of a stream of bytes."""
    parser = Events()
    try:
        async for piece in pieces:
            for data in parser.feed(piece):
                yield data
    finally:
        await pieces.aclose()
