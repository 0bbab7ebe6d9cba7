"""The Documents tab: ask your own files. Found by words and vectors, answered with citations; beside it an
answer that needs no model."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import gradio as gr

from common.errors import UserError, demand

from . import _draw, _read, _town
from ._client import LACKS, Missing
from ._talk import space
from .documents import Shelf, cited, cut, extract, prompt

QUIET = {"show_progress": "hidden", "concurrency_limit": None}


@dataclass
class Library:
    """A visitor's documents. texts: {name: text}; shelf: their chunks; words: without vectors, and why."""

    texts: dict = field(default_factory=dict)
    shelf: Shelf | None = None
    why: str = ""


async def shelf_of(server, model, found):
    """(Shelf, why it has no vectors or ""): vectors of the server, if it has any."""
    try:
        vectors = await server.vectors(model, [one.text for one in found])
        return Shelf(found, vectors), ""
    except Missing:
        return Shelf(found), LACKS["embeddings"]
    except UserError as error:
        return Shelf(found), f"No vectors, words alone: {error}"


async def find(server, model, library, question, k, weight):
    """The numbers of the passages that fit best."""
    vector = None
    if library.shelf.vectors is not None and weight:
        vector = (await server.vectors(model, [question]))[0]
    return library.shelf.search(question, k, vector, weight)


async def passages_that_fit(server, model, question, found, max_tokens):
    """(messages, how many of the passages are in them): as many as there is room for, best first."""
    room, new = space(server.known.rooms.get(model), max_tokens)
    for n in range(len(found), 0, -1):
        messages = [{"role": "user", "content": prompt(question, [one.text for one in found[:n]])}]
        if room is None or await server.count(model, messages) <= room:
            return messages, n, new
    raise UserError("not even one passage fits into the model's context: make passages shorter")


class Documents:
    """The tab."""

    def __init__(self, page, model):
        self.hub, self.model, self.page = page.hub, model, page

    def build(self):
        self.library = gr.State(lambda: Library())
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=280):
                self.files = gr.File(label="Text, code, PDF, images", file_count="multiple", height=140,
                                     file_types=_read.KINDS, elem_id="upload")  # fmt: skip
                with gr.Row():
                    sample = gr.Button("A chronicle of Tinytown", size="sm")
                    clear = gr.Button("Put all away", size="sm")
                self.held = gr.HTML(_draw.note("No documents yet."), elem_id="held")
                with gr.Accordion("How it is found", open=False):
                    self.size = gr.Slider(20, 300, 60, step=5, label="Words of a passage")
                    self.overlap = gr.Slider(0, 100, 15, step=5, label="Words that two share")
                    self.k = gr.Slider(1, 10, 3, step=1, label="Passages that are read")
                    self.weight = gr.Slider(0, 1, 0.3, step=0.05, label="Weight of vectors",
                                            info="0: by words alone")  # fmt: skip
            with gr.Column(scale=2, min_width=320):
                self.ask = gr.Textbox(show_label=False, label="Your question", submit_btn=True,
                                      placeholder="Ask your documents", max_length=1000,
                                      elem_id="ask")  # fmt: skip
                self.answer = gr.HTML(elem_id="answer")
                self.passages = gr.HTML(elem_id="passages")
        cuts = [self.model, self.library, self.size, self.overlap]
        shown = [self.held, self.library]
        self.files.upload(self.take, [*cuts, self.files], [*shown, self.files], concurrency_limit=4)
        sample.click(self.take_sample, cuts, [*shown, self.ask], **QUIET)
        clear.click(lambda: (_draw.note("No documents yet."), Library(), "", ""), None,
                    [*shown, self.answer, self.passages], **QUIET)  # fmt: skip
        for part in (self.size, self.overlap):
            part.release(self.again, cuts, shown, **QUIET)
        self.ask.submit(self.reply, [self.model, self.library, self.ask, self.k, self.weight],
                        [self.answer, self.passages], **QUIET)  # fmt: skip

    # ---- documents ----

    async def take(self, label, library, size, overlap, files):
        """Read what was uploaded; the copies that Gradio keeps are deleted."""
        faults = []
        if len(files or ()) + len(library.texts) > _read.FILES:
            faults.append(f"at most {_read.FILES} documents: the others are left out")
        for path in (files or ())[: max(0, _read.FILES - len(library.texts))]:
            try:
                text = await asyncio.to_thread(_read.text_of, path)
                library.texts[_read.called(path)] = text
            except UserError as error:
                faults.append(str(error))
        for path in files or ():
            Path(path).unlink(missing_ok=True)
        return await self.told(label, library, size, overlap, faults), library, None

    async def take_sample(self, label, library, size, overlap):
        text, question = await asyncio.to_thread(_town.sample)
        library.texts["The chronicle of Tinytown"] = text
        return await self.told(label, library, size, overlap, ()), library, question

    async def again(self, label, library, size, overlap):
        return await self.told(label, library, size, overlap, ()), library

    async def told(self, label, library, size, overlap, faults):
        """Cut anew, and what there is, as HTML."""
        lines = "".join(_draw.trouble(fault) for fault in faults)
        if not library.texts:
            return lines + _draw.note("No documents yet.")
        try:
            server, model = self.hub.find(label)
            found = cut(library.texts, int(size), min(int(overlap), int(size) - 1))
            library.shelf, library.why = await shelf_of(server, model, found)
        except UserError as error:
            return lines + _draw.trouble(error)
        names = "".join(f"<li>{_draw.shown(name)} <small>({len(text):,} characters)</small></li>"
                        for name, text in library.texts.items())  # fmt: skip
        why = _draw.note(library.why) if library.why else ""
        return f"{lines}<ul class='held'>{names}</ul>" + _draw.note(f"{len(found)} passages.") + why

    # ---- answers ----

    async def reply(self, label, library, question, k, weight):
        """The answer as it comes, then where each sentence of it stands; and the passages, best first."""
        try:
            demand(library.shelf is not None, "No documents yet: upload some, or take the chronicle.")
            demand((question or "").strip(), "Ask something.")
            server, model = self.hub.find(label)
            numbers = await find(server, model, library, question, int(k), weight)
            found = [library.shelf.chunks[number] for number in numbers]
            texts, rarity = [one.text for one in found], library.shelf.rarity
            sentence, place = extract(question, texts, rarity)
            rows = [(i, one.source, one.text) for i, one in enumerate(found, 1)]
            marks = [] if sentence is None else [(place + 1, sentence)]
            shown = _draw.passages(rows, marks)
            plain = _draw.note("No sentence shares a word with the question.")
            if sentence is not None:
                plain = _draw.note("Without a model, the sentence that fits best:") + _draw.traced(
                    [(sentence, place + 1)])  # fmt: skip
            yield plain, shown
            async for said in self.say(server, model, question, found, rarity):
                yield said + plain, shown
        except UserError as error:
            yield _draw.trouble(error), ""

    async def say(self, server, model, question, found, rarity):
        """What the model says, as HTML: its text while it comes, at the end with citations."""
        messages, n, new = await passages_that_fit(server, model, question, found, 120)
        answer, pieces = server.say({"model": model, "messages": messages, "temperature": 0,
                                     "max_tokens": new})  # fmt: skip
        head = _draw.note(f"The model, having read {n} of {len(found)} passages:")
        async for _ in pieces:
            yield head + f'<p class="answer">{_draw.shown(answer.text)}</p>'
        traced = cited(answer.text, [one.text for one in found[:n]], rarity)
        rows = [(sentence, None if number is None else number + 1) for sentence, number in traced]
        warning = ""
        if any(number is None for _, number in rows):
            warning = _draw.note("[?]: no passage says so. Small models read strangers poorly.")
        yield head + _draw.traced(rows) + warning + _draw.figures(answer.figures())
