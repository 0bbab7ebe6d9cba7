"""The whole page: a head, six tabs, and an application that any ASGI server can serve."""

import asyncio

import common.cli.quiet  # noqa: F401 - before gradio: it calls nobody
from common.errors import UserError

try:
    import gradio as gr
    from fastapi import FastAPI
except ImportError as error:
    raise SystemExit(f"error: no page without {error.name}: ./thirty --install ui serve") from None

from . import _draw, _read, _style
from ._chat_tab import Chat
from ._look_tabs import Attention, Blocks, Sampler, Tokens

try:
    from ._documents_tab import Documents
except ImportError:  # project 10's search takes torch, which a small image may lack
    from ._look_tabs import NoDocuments as Documents

DARK = "() => { document.body.classList.toggle('dark'); }"


class Page:
    """What the tabs share. hub: the servers; mine: files of the page itself that a learner wrote; stops,
    watchers: {visitor: the event that ends an answer, or a look at the memory}."""

    def __init__(self, hub, mine=()):
        self.hub, self.mine, self.stops, self.watchers = hub, list(mine), {}, {}

    def build(self):
        """The Blocks."""
        with gr.Blocks(title="Thirty", analytics_enabled=False, fill_width=False) as blocks:
            with gr.Row(elem_id="head"):
                self.head = gr.HTML(self.line([]), elem_id="line")
                gr.Button("Light / dark", size="sm", scale=0, min_width=110, elem_id="dark").click(
                    None, None, None, js=DARK
                )
            with gr.Tabs(elem_id="tabs"):
                self.build_tabs()
            blocks.load(self.start, None, [self.head, self.chat.model, self.attention.layer,
                                           self.attention.head], show_progress="hidden",
                        api_name="start").then(
                self.chat.see, self.chat.model, [self.chat.engine, *self.chat.switches],
                show_progress="hidden")  # fmt: skip
            blocks.load(self.chat.choices, self.chat.saved, self.chat.before, show_progress="hidden")
            blocks.unload(self.leave)
        blocks.queue(default_concurrency_limit=None, max_size=512)
        return blocks

    def build_tabs(self):
        self.chat = Chat(self)
        with gr.Tab("Chat", id="chat") as first:
            self.chat.build()
        model, tabs = self.chat.model, [first]
        self.attention, self.blocks = Attention(self, model), Blocks(self, model)
        self.sampler, self.documents = Sampler(self, model), Documents(self, model)
        parts = {"Sampler": self.sampler, "Tokens": Tokens(self, model), "Attention": self.attention,
                 "KV cache": self.blocks, "Documents": self.documents}  # fmt: skip
        for name, part in parts.items():
            with gr.Tab(name, id=name.lower()) as tab:
                part.build()
            tabs.append(tab)
            if hasattr(part, "first"):  # what it shows when it is looked at
                work = part.read if name == "Sampler" else part.show
                shown = tab.select(work, *part.first, show_progress="hidden")
                if name == "Sampler":
                    shown.then(part.show, [part.row, *part.settings], part.next, show_progress="hidden")
            if name == "KV cache":
                tab.select(part.watch, model, part.out, show_progress="hidden")
            else:
                tab.select(self.look_away, None, None, queue=False, show_progress="hidden")
        first.select(self.look_away, None, None, queue=False, show_progress="hidden")

    # ---- coming and going ----

    def line(self, files, said=""):
        """The head: what this is, and whose code runs."""
        about = f'<span class="quiet">{_draw.shown(said)}</span>' if said else ""
        return f'<div class="line"><h1>Thirty</h1>{_draw.learner(files)}{about}</div>'

    async def start(self):
        """Meet the servers: head, models to choose from, and the sizes of the first one."""
        try:
            names = await self.hub.meet()
        except UserError as error:
            head = self.line(self.mine) + _draw.trouble(error)
            return head, gr.Dropdown([], value=None), gr.skip(), gr.skip()
        server, model = self.hub.find(names[0])
        engine, room = server.known.engine or {}, server.known.rooms[model]
        files = sorted({*self.mine, *engine.get("mine", ())})
        said = (
            f"{len(names)} models"
            if len(names) > 1
            else f"{names[0]}, {room or 'an unknown number of'} tokens"
        )
        layers, heads = engine.get("layers"), engine.get("heads")
        sizes = [gr.Slider(maximum=n - 1) if n and n > 1 else gr.skip() for n in (layers, heads)]
        return self.line(files, said), gr.Dropdown(names, value=names[0]), *sizes

    def look_away(self, request: gr.Request):
        """The memory is not looked at any more."""
        if stop := self.watchers.get(request.session_hash):
            stop.set()

    def leave(self, request: gr.Request):
        """A visitor has closed the page: nothing goes on for them."""
        for events in (self.stops, self.watchers):
            if stop := events.pop(request.session_hash, None):
                stop.set()


def create(hub, mine=()):
    """The application: the page at /, and /health for whoever watches it."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/health")
    async def health():
        return {"status": "ok"}

    app.add_middleware(_style.AtHome)
    blocks = Page(hub, mine).build()
    return gr.mount_gradio_app(
        app, blocks, path="/", theme=_style.theme(), css=_style.CSS, js=_style.JS, footer_links=[],
        ssr_mode=False, show_error=False, max_file_size=_read.BYTES, run_history=False,
        mcp_server=False, pwa=False, enable_monitoring=False)  # fmt: skip


async def serve(app, sock, then=None):
    """Serve until told to stop, or until `await then()` is over."""
    import uvicorn

    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=3)
    server = uvicorn.Server(config)
    running = asyncio.ensure_future(server.serve(sockets=[sock]))
    while not server.started and not running.done():
        await asyncio.sleep(0.02)
    try:
        if then is not None and server.started:
            await then()
    finally:
        if then is not None:
            server.should_exit = True
        await running
