"""A visitor without a browser: what the page's own JavaScript sends and receives, and when. For scripts,
tests and the bench."""

import json
import re
import secrets
import time
from dataclasses import dataclass, field

import httpx
from gradio_client.utils import apply_diff

from common.errors import demand

from .stream import Events


@dataclass
class Heard:
    """What came of saying something. Times: seconds since it was sent; sizes: bytes of the stream."""

    text: str = ""
    told: str = ""  # the line under the answer
    first: float | None = None
    ended: float = 0.0
    updates: list = field(default_factory=list)  # when the text grew
    size: int = 0
    trouble: bool = False

    @property
    def cached(self):
        found = re.search(r"(\d+) of them were there", self.told)
        return float(found[1]) if found else 0.0


def plain(markup):
    return re.sub(r"<[^>]*>", "", markup or "")


def text_of(message):
    """The text of a message, as Gradio sends it: as it is, or in parts."""
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class Visitor:
    """One session with a page at `url`; a context."""

    def __init__(self, url):
        self.http = httpx.AsyncClient(base_url=url, timeout=300, trust_env=False)
        self.session, self.functions, self.model = secrets.token_hex(6), {}, None

    async def __aenter__(self):
        config = (await self.http.get("/config")).json()
        self.functions = {one["api_name"]: one["id"] for one in config["dependencies"] if one["api_name"]}
        return self

    async def __aexit__(self, *error):
        await self.http.aclose()

    async def call(self, name, data):
        """The outputs of a function as they come: (output data, is it the last?, bytes)."""
        body = {"data": data, "fn_index": self.functions[name], "session_hash": self.session}
        joined = await self.http.post("/gradio_api/queue/join", json=body)
        demand(joined.status_code == 200, f"the page refused: {joined.text:.200}")
        events, now = Events(), None
        query = {"session_hash": self.session}
        async with self.http.stream("GET", "/gradio_api/queue/data", params=query) as answer:
            async for piece in answer.aiter_raw():
                size = len(piece)
                for line in events.feed(piece):
                    message = json.loads(line)
                    kind, output = message["msg"], message.get("output") or {}
                    if kind == "process_generating":
                        now = merged(now, output["data"])
                        yield now, False, size
                    elif kind == "process_completed":
                        demand(message["success"], f"the page failed: {output.get('error')}")
                        yield output.get("data") or now, True, size
                    size = 0
                if events.data == [] and now is not None and kind == "process_completed":
                    return

    async def load(self):
        """Open the page: the model that it offers first."""
        async for data, _, _ in self.call("start", []):
            self.model = data[1]["value"]
        return self.model

    async def say(self, text, *, api="chat", template="", who="Ilmo", temperature=0.7, max_tokens=200):
        """Say something: what was heard."""
        settings = [self.model, template, who, temperature, 1.0, 0, 0.0, max_tokens, 0]
        data = [text, None, *settings] if api == "chat" else [None, *settings]
        heard, began = Heard(), time.perf_counter()
        async for output, _, size in self.call(api, data):
            now = time.perf_counter() - began
            heard.size += size
            chat, _, told, *_ = output
            if isinstance(chat, list) and chat and chat[-1]["role"] == "assistant":
                said = text_of(chat[-1])
                if said != heard.text:
                    heard.first = heard.first or now
                    heard.updates.append(now)
                    heard.text = said
            if isinstance(told, str):
                heard.told, heard.trouble = plain(told), "trouble" in told
        heard.ended = time.perf_counter() - began
        return heard

    async def say_stock(self, text):
        """The same to a gr.ChatInterface, whose only output that counts is the text."""
        heard, began = Heard(), time.perf_counter()
        for name, data in (("_clear_and_save_textbox", [text]), ("_append_message_to_history", [None, []])):
            await self.post(name, data)  # as its JavaScript does it: one after the other
        async for output, _, size in self.call("_submit_fn", [None, None]):
            now = time.perf_counter() - began
            heard.size += size
            chat = output[1]
            if isinstance(chat, list) and chat and chat[-1]["role"] == "assistant":
                said = text_of(chat[-1])
                if said != heard.text:
                    heard.first, heard.text = heard.first or now, said
                    heard.updates.append(now)
        heard.ended = time.perf_counter() - began
        return heard

    async def post(self, name, data):
        """A function that is not queued: what it gives."""
        body = {"data": data, "fn_index": self.functions[name], "session_hash": self.session}
        return (await self.http.post("/gradio_api/run/predict", json=body)).json()

    async def stop(self):
        """The stop button."""
        return await self.post("stop", [])


def merged(before, data):
    """The outputs after a message of a running function: the first holds them whole, others what changed."""
    if before is None:
        return data
    return [apply_diff(old, new) if is_diff(new) else new for old, new in zip(before, data, strict=True)]


def is_diff(value):
    """[["append", path, value], …]"""
    return isinstance(value, list) and all(
        isinstance(one, list) and len(one) == 3 and one[0] in ("replace", "append", "add", "delete")
        for one in value
    )
