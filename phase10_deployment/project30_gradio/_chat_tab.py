"""The Chat tab: stream, stop, again, take back; who speaks, and how it is drawn; the engine's switches; what
was said before, kept in the browser."""

import asyncio
import logging
from contextlib import aclosing

import gradio as gr

from common.errors import UserError

from . import _draw
from ._client import LACKS
from ._talk import MOST, TEMPLATES, Settings, Talk, kept, reply, sound
from .inert import inert

HELLO = "**Say something.** In Tinytown, everybody knows where Ilmo lives."
SWITCHES = ("prefix_cache", "paged", "speculative", "kv", "weights")


def message(role, text):
    """Text in which nothing commands. As a part, as Gradio takes the indentation out of bare text."""
    return {"role": role, "content": [{"type": "text", "text": inert(text)}]}


def seen(talk):
    """What the chat shows of a talk."""
    return [message(one["role"], one["content"]) for one in talk.messages]


class Chat:
    """The tab's parts and what they do. page: who shares `hub`, and `stops`, an asyncio.Event a visitor."""

    def __init__(self, page):
        self.page, self.hub = page, page.hub

    # ---- what is seen ----

    def build(self):
        self.talk, self.saved = (
            gr.State(lambda: Talk()),
            gr.BrowserState([], storage_key="thirty-talks", secret="kept"),
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=3, min_width=320):
                self.chat = gr.Chatbot(
                    show_label=False, label="Conversation", elem_id="chat", height="62vh", layout="bubble",
                    latex_delimiters=[], buttons=["copy", "copy_all"], placeholder=HELLO,
                    feedback_options=None, allow_file_downloads=False, sanitize_html=True)  # fmt: skip
                self.figures = gr.HTML(elem_id="figures")
                self.box = gr.Textbox(
                    show_label=False, label="Your message", placeholder="Ask something, then Enter", lines=1,
                    max_lines=8, submit_btn=True, autofocus=True, max_length=MOST["characters"],
                    elem_id="say")  # fmt: skip
                with gr.Row():
                    self.again = gr.Button("Answer again", size="sm", min_width=90)
                    self.undo = gr.Button("Take back", size="sm", min_width=90)
                    self.new = gr.Button("New conversation", size="sm", min_width=90)
            with gr.Column(scale=1, min_width=280):
                self.build_side()
        self.wire()

    def build_side(self):
        self.model = gr.Dropdown([], label="Model", elem_id="model")
        self.before = gr.Dropdown([], label="Earlier conversations", info="kept in this browser only")
        self.forget = gr.Button("Forget this one", size="sm")
        with gr.Accordion("Who answers", open=False):
            self.kind = gr.Dropdown(list(TEMPLATES), value="None", label="Template")
            self.template = gr.Textbox(label="System prompt", lines=3, max_lines=8, max_length=4000,
                                       info="{name} and {date} are filled in")  # fmt: skip
            self.who = gr.Textbox("Ilmo", label="{name}", max_length=100)
        with gr.Accordion("How it is drawn", open=False):
            self.temperature = gr.Slider(0, 2, 0.7, step=0.05, label="Temperature", info="0: always the same")
            self.top_p = gr.Slider(0.05, 1, 1.0, step=0.05, label="Top-p")
            self.top_k = gr.Slider(0, 200, 0, step=1, label="Top-k", info="0: off")
            self.min_p = gr.Slider(0, 0.5, 0.0, step=0.01, label="Min-p")
            self.most = gr.Slider(1, 2048, 200, step=1, label="Tokens at most")
            self.seed = gr.Number(0, label="Seed", precision=0, info="0: another each time")
        with gr.Accordion("Engine", open=False):
            self.build_engine()

    def build_engine(self):
        self.engine = gr.HTML()
        on = {"interactive": True, "visible": False}
        self.switches = [
            gr.Checkbox(label="Prefix cache (project 10)", **on), gr.Checkbox(label="Pages (13)", **on),
            gr.Radio(["off", "ngram"], label="Guesses (11)", **on),
            gr.Radio(["float", "int8"], label="Keys and values (15)", **on),
            gr.Radio(["float", "int8"], label="Weights (14)", **on)]  # fmt: skip
        self.look = gr.Button("Look again", size="sm")

    # ---- who calls what ----

    def wire(self):
        settings = [self.model, self.template, self.who, self.temperature, self.top_p, self.top_k, self.min_p,
                    self.most, self.seed]  # fmt: skip
        shown = [self.chat, self.box, self.figures, self.talk]
        quick = {"queue": False, "show_progress": "hidden"}
        hot = {"concurrency_limit": None, "show_progress": "hidden", "trigger_mode": "multiple"}
        said = self.box.submit(self.answer, [self.box, self.talk, *settings], shown, api_name="chat", **hot)
        again = gr.on([self.again.click, self.chat.retry], self.answer_again, [self.talk, *settings], shown,
                      api_name="again", **hot)  # fmt: skip
        for event in (said, again):
            event.then(self.keep, [self.talk, self.saved], [self.saved, self.before], **quick)
        self.box.stop(self.stop, None, None, api_name="stop", **quick)
        back = gr.on([self.undo.click, self.chat.undo], self.take_back, self.talk, shown, **quick)
        back.then(self.keep, [self.talk, self.saved], [self.saved, self.before], **quick)
        gr.on([self.new.click, self.chat.clear], self.begin, None, [*shown, self.before], **quick)
        self.before.input(self.open, [self.before, self.saved], shown, **quick)
        gone = self.forget.click(self.drop, [self.talk, self.saved], [self.saved, self.talk], **quick)
        gone.then(self.begin, None, [*shown, self.before], **quick).then(
            self.keep, [self.talk, self.saved], [self.saved, self.before], **quick
        )
        self.kind.input(TEMPLATES.__getitem__, self.kind, self.template, **quick)
        parts = [self.engine, *self.switches]
        self.model.change(self.see, self.model, parts, **quick)
        self.look.click(self.see, self.model, parts, **quick)
        for name, switch in zip(SWITCHES, self.switches, strict=True):
            switch.input(self.switcher(name), [self.model, switch], parts, concurrency_limit=1,
                         show_progress="hidden")  # fmt: skip

    # ---- answers ----

    async def answer(self, request: gr.Request, text, talk, *settings):
        """Say something: the chat as it grows; then the box again, and the figures."""
        text = (text or "").strip()
        if not text:
            yield {self.figures: _draw.note("Say something first.")}
            return
        talk.messages.append({"role": "user", "content": text})
        async for shown in self.run(talk, settings, request):
            yield shown

    async def answer_again(self, request: gr.Request, talk, *settings):
        """The last answer is thrown away, and given anew."""
        try:
            talk.messages.append({"role": "user", "content": talk.back()})
        except UserError as error:
            yield {self.figures: _draw.trouble(error)}
            return
        async for shown in self.run(talk, settings, request):
            yield shown

    async def texts(self, talk, settings, stop):
        """The answer's text so far, each time there is more."""
        label, *values = settings
        server, model = self.hub.find(label)
        async with aclosing(reply(server, model, talk, Settings.of(values), stop)) as found:
            async for text in found:
                yield text

    async def run(self, talk, settings, request):
        stop = self.page.stops[request.session_hash] = asyncio.Event()
        before, told, texts = seen(talk), "", self.texts(talk, settings, stop)
        first = asyncio.ensure_future(anext(texts, None))  # asked for while the browser draws the question
        try:
            yield {self.chat: before, self.box: gr.Textbox("", submit_btn=False, stop_btn=True),
                   self.figures: ""}  # fmt: skip
            text = await first
            while text is not None:
                yield {self.chat: [*before, message("assistant", text)]}
                text = await anext(texts, None)
            told = _draw.figures(talk.figures)
        except UserError as error:
            told = _draw.trouble(error)
        except Exception:  # the box must be given back, whatever it was
            logging.getLogger("thirty.page").exception("an answer failed")
            told = _draw.trouble("The page failed; its log says where.")
        finally:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            await texts.aclose()
            self.page.stops.pop(request.session_hash, None)
        yield {self.chat: seen(talk), self.box: gr.Textbox(submit_btn=True, stop_btn=False),
               self.figures: told, self.talk: talk}  # fmt: skip

    def stop(self, request: gr.Request):
        """End the answer of this visitor; what there is of it stays."""
        if stop := self.page.stops.get(request.session_hash):
            stop.set()

    # ---- conversations ----

    def take_back(self, talk):
        try:
            text = talk.back()
        except UserError as error:
            return gr.skip(), gr.skip(), _draw.trouble(error), talk
        return seen(talk), gr.Textbox(text), "", talk

    def begin(self):
        return [], gr.Textbox(""), "", Talk(), gr.Dropdown(value=None)

    def choices(self, saved, talk=None):
        """The earlier conversations, by name; this one is chosen."""
        found = [(one.name, one.born) for one in sound(saved)]
        here = talk.born if talk and any(born == talk.born for _, born in found) else None
        return gr.Dropdown(found, value=here)

    def keep(self, talk, saved):
        now = kept(saved, talk)
        return now, self.choices(now, talk)

    def open(self, born, saved):
        """Go on with an earlier one."""
        talk = next((one for one in sound(saved) if one.born == born), Talk())
        return seen(talk), gr.Textbox(""), "", talk

    def drop(self, talk, saved):
        return [one.plain() for one in sound(saved) if one.born != talk.born], Talk()

    # ---- the engine ----

    async def see(self, label):
        """Its figures, and its switches as they are."""
        try:
            server, _ = self.hub.find(label)
            await server.meet()
        except UserError as error:
            return [_draw.trouble(error), *[gr.update(visible=False)] * len(SWITCHES)]
        engine = server.known.engine
        if engine is None:
            return [_draw.note(LACKS["engine"]), *[gr.update(visible=False)] * len(SWITCHES)]
        now = [gr.update(value=engine["switches"].get(name), visible=True, interactive=engine["can_switch"])
               for name in SWITCHES]  # fmt: skip
        return [_draw.state(engine), *now]

    def switcher(self, name):
        async def switch(label, value):
            """Another engine takes over, once the answers under way are finished."""
            wait = "Making the engine anew; answers under way are finished first …"
            yield [_draw.note(wait), *[gr.update(interactive=False)] * len(SWITCHES)]
            refused = None
            try:
                server, _ = self.hub.find(label)
                await server.ask("POST", "/thirty/engine", {"switches": {name: value}})
            except UserError as error:
                refused = _draw.trouble(error)
            state, *now = await self.see(label)
            yield [refused or state, *now]

        return switch
