"""The rival: Gradio's own ChatInterface as its guide shows it, told all of the text so far after each token.
And the tape: a server that plays tokens at a given rate, so that nothing but the page is measured."""

import asyncio
import json

import httpx

import common.cli.quiet  # noqa: F401 - before gradio

# isort: split
import gradio as gr
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from .stream import DONE, Events


def stock(url, model):
    """An application: ChatInterface before a server, streaming as in Gradio's guide."""
    http = httpx.AsyncClient(base_url=url, timeout=300, trust_env=False)

    async def answer(message, history):
        said = [{"role": one["role"], "content": plain(one["content"])} for one in history]
        body = {"model": model, "messages": [*said, {"role": "user", "content": message}], "stream": True,
                "max_tokens": 4096}  # fmt: skip
        text, events = "", Events()
        async with http.stream("POST", "/v1/chat/completions", json=body) as found:
            async for piece in found.aiter_raw():
                for data in events.feed(piece):
                    if data == DONE:
                        return
                    delta = json.loads(data)["choices"][0]["delta"].get("content") or ""
                    text += delta
                    if delta:
                        yield text

    chat = gr.ChatInterface(answer, concurrency_limit=None, api_name="chat", save_history=False)
    chat.queue(default_concurrency_limit=None)
    app = FastAPI()
    return gr.mount_gradio_app(app, chat, path="/", ssr_mode=False, run_history=False)


def plain(content):
    """A message's text, of the parts in which Gradio keeps it."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def tape(tokens, rate):
    """An application that answers every chat with so many tokens, `rate` a second (0: as they can be)."""
    app = FastAPI()

    def line(delta, **more):
        return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}], **more})}\n\n".encode()

    @app.get("/v1/models")
    async def models():
        return {"data": [{"id": "tape"}]}

    @app.post("/v1/chat/completions")
    async def chat(request: Request):
        await request.json()
        clock = asyncio.get_running_loop().time

        async def play():
            began = clock()
            for i in range(tokens):
                if rate:
                    await asyncio.sleep(max(0.0, began + i / rate - clock()))
                yield line({"content": f"word{i % 7} "})
            usage = {"prompt_tokens": 8, "completion_tokens": tokens, "total_tokens": tokens + 8}
            yield line({}, usage=usage)
            yield b"data: [DONE]\n\n"

        return StreamingResponse(play(), media_type="text/event-stream")

    return app
