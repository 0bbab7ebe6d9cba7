"""The routes: OpenAI's, so that any client of theirs works unchanged; health, figures, and a look inside.

Came before: `service.py`, which knows what to do with a request. New here: HTTP around it, by FastAPI. Each
route is a few lines: who asks, what is asked, its tokens, the answer. Whatever goes wrong leaves in OpenAI's
shape, `{"error": {...}}`, with the status that says whose fault it is: 4xx the sender's, and asking again
will not help; 429 and 503 nobody's, and Retry-After says when to; 500 ours.

OpenAI's API reference (chat, completions, embeddings, models); RFC 9110; Server-Sent Events (WHATWG HTML).
"""

import asyncio
import base64
import re
import struct
from contextlib import asynccontextmanager

from fastapi import Depends, FastAPI, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse, Response
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException

from common.errors import UserError

from . import inspection
from .assemble import embedding
from .engine_loop import EngineDown
from .limits import Bounded, Refused
from .metrics import Logged
from .protocol import ChatAsked, EmbeddingAsked, ProblemBody, TextAsked, TokenizeAsked, problem
from .wire import STREAMED, ChatShape, TextShape

STATUSES = (400, 401, 404, 405, 408, 413, 429, 500, 503)


def said(refused):
    """A Refused as a response."""
    headers = {} if refused.after is None else {"retry-after": str(refused.after)}
    headers |= {"www-authenticate": "Bearer"} if refused.status == 401 else {}
    body = problem(refused.status, refused.code, refused.why, refused.param)
    return JSONResponse(body, refused.status, headers)


def place(loc):
    """Where a fault is, as one would write it: messages[0].content. What pydantic calls its own branches, and
    what no field is called, is left out."""
    parts = [part for part in loc[1:] if isinstance(part, int) or re.fullmatch(r"[a-z]\w*", part, re.ASCII)]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts
                   if part not in ("str", "int", "float", "bool"))  # fmt: skip
    return path.lstrip(".")


def complaint(error):
    """One fault that FastAPI found in a body, as a Refused; without what was sent, which may be anything.
    Where a value could have been of several types, it is the fault of the one that it was meant to be."""
    faults = error.errors()
    first = next((one for one in faults if not one["type"].endswith("_type")), faults[0])
    if first["type"] == "json_invalid":
        why = f"the body is no JSON: {first['ctx']['error']} at character {first['loc'][-1]}"
        return Refused(400, "invalid_request", why)
    where = place(first["loc"])
    if not where and first["type"] in ("missing", "model_attributes_type", "dict_type"):
        return Refused(400, "invalid_request", "the body must be a JSON object, sent with Content-Type: "
                       "application/json")  # fmt: skip
    why = first["msg"].removeprefix("Value error, ")
    return Refused(400, "invalid_request", f"{where}: {why}" if where else why, param=where or None)


def unrouted(request, error):
    """No such path, or not by this method: what there is."""
    path, why = request.url.path[:100], str(error.detail)
    if error.status_code == 404:
        why = f"there is nothing at {path!r}: ask /v1/chat/completions, /v1/completions, /v1/models, /metrics"
    elif error.status_code == 405:
        why = f"{path!r} is for {error.headers.get('Allow', 'others')}, not for {request.method}"
    return JSONResponse(problem(error.status_code, None, why), error.status_code, error.headers)


def add_errors(app, service):
    """Every exception that a route may raise, as OpenAI's clients understand it."""

    def refused(request, error):
        service.metrics.refused.labels(service.name, error.code).inc()
        return said(error)

    def as_refused(status, code, after=None):
        return lambda request, error: refused(request, Refused(status, code, str(error), after=after))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(UserError, as_refused(400, "invalid_request"))
    app.add_exception_handler(EngineDown, as_refused(503, "engine_down", after=5))
    app.add_exception_handler(
        RequestValidationError, lambda request, error: refused(request, complaint(error))
    )
    app.add_exception_handler(HTTPException, unrouted)
    app.add_exception_handler(Exception, lambda request, error: JSONResponse(
        problem(500, "internal_error", "the server failed: its log says where"), 500))  # fmt: skip

    async def refuse(refusal, scope, receive, send):
        await refused(None, refusal)(scope, receive, send)

    return refuse


def whole(answer):
    """What `Service.answer` gave, as a response; None: nobody is there to read one."""
    if answer is None:
        return Response(status_code=499)
    return answer if isinstance(answer, Response) else JSONResponse(answer)


def packed(vector, form):
    """An embedding as a list, or as base64 of little-endian float32, which the openai client asks for."""
    return base64.b64encode(struct.pack(f"<{len(vector)}f", *vector)).decode() if form == "base64" else vector


def add_openai(app, service, who):
    """/v1: chat, completions, embeddings, models. who: what FastAPI depends on for the Key that asks."""
    card = {"id": service.name, "object": "model", "created": 0, "owned_by": "thirty",
            "max_model_len": service.room}  # fmt: skip

    @app.get("/v1/models")
    async def models(key=who):
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model:path}")
    async def model(model: str, key=who):
        service.known(model)
        return card

    @app.post("/v1/chat/completions", responses=STREAMED)
    async def chat(asked: ChatAsked, request: Request, key=who):
        service.known(asked.model)
        shape = ChatShape(asked.model, service.words, asked.alternatives)
        prompt, log = await service.chat(asked.messages), request.state.log
        return whole(await service.answer(key, asked, shape, [prompt], request.receive, log))

    @app.post("/v1/completions", responses=STREAMED)
    async def completions(asked: TextAsked, request: Request, key=who):
        service.known(asked.model)
        shape = TextShape(asked.model, service.words, asked.alternatives)
        prompts, log = await service.prompts(asked.prompt), request.state.log
        return whole(await service.answer(key, asked, shape, prompts, request.receive, log))

    @app.post("/v1/embeddings")
    async def embeddings(asked: EmbeddingAsked, request: Request, key=who):
        service.known(asked.model)
        texts = await service.prompts(asked.input)
        read, found = sum(map(len, texts)), []
        entry = service.door.enter(key, read)
        try:
            for ids in texts:  # one between two steps: nobody's text stops for long
                found.append(await service.loop.call(
                    lambda engine, ids=ids: embedding(engine.model, ids).tolist()))  # fmt: skip
        finally:
            service.door.leave(entry, read)
        data = [{"object": "embedding", "index": i, "embedding": packed(vector, asked.encoding_format)}
                for i, vector in enumerate(found)]  # fmt: skip
        return {"object": "list", "data": data, "model": asked.model,
                "usage": {"prompt_tokens": read, "total_tokens": read}}  # fmt: skip


def add_tokens(app, service, who):
    """/tokenize: how long is a text, or a conversation? Of those that are too long, too."""

    def ids_of(asked):
        if asked.messages is None:
            return service.words.encode(asked.prompt)
        said = [message.plain() for message in asked.messages]
        return service.words.chat_ids(said, add_generation_prompt=asked.add_generation_prompt)

    @app.post("/tokenize")
    async def tokenize(asked: TokenizeAsked, key=who):
        service.known(asked.model or service.name)
        ids = await asyncio.to_thread(ids_of, asked)
        strings = [service.words.decode([id]) for id in ids] if asked.return_token_strs else None
        return {"count": len(ids), "max_model_len": service.room, "tokens": ids, "token_strs": strings}


def add_health(app, service):
    """For whoever starts, stops and watches servers. /health: does it live? /ready: send it requests?"""

    @app.get("/health")
    async def health():
        if not service.loop.alive:
            raise EngineDown(str(service.loop.failure or "the server is stopping"))
        return {"status": "ok"}

    @app.get("/ready")
    async def ready():
        if not service.ready:
            raise Refused(503, "not_ready", "no requests, please: the server is being stopped", after=5)
        return {"status": "ready", "model": service.name}

    @app.get("/metrics", response_class=Response)
    async def metrics():
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")


def described(app):
    """The OpenAPI document, without the 422 that FastAPI believes in."""
    document = get_openapi(title=app.title, version=app.version, routes=app.routes)
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    return document


def create_app(service, *, inspect=False, mine=()):
    """The ASGI application of a Service, whose engine it starts and stops. inspect: the routes of
    `inspection.py`, too, which show what is in the engine. mine: the files in it that a learner wrote."""

    @asynccontextmanager
    async def lifespan(app):
        if service.loop.thread.ident is None:
            service.loop.start()
        yield
        service.loop.stop()

    app = FastAPI(title="Thirty", version="1", lifespan=lifespan, docs_url=None, redoc_url=None,
                  responses={status: {"model": ProblemBody} for status in STATUSES})  # fmt: skip
    app.openapi = lambda: app.openapi_schema or described(app)
    bearer = HTTPBearer(auto_error=False)

    def asks(request: Request, token=Security(bearer)):  # noqa: B008 - FastAPI's way
        return service.door.keys.find(request.headers.get("authorization"))

    who, refuse = Depends(asks), add_errors(app, service)
    add_openai(app, service, who)
    add_tokens(app, service, who)
    add_health(app, service)
    if inspect:
        inspection.add_routes(app, service, who, mine)
    bounds = service.bounds
    app.add_middleware(Bounded, refuse=refuse, size=bounds.body, seconds=bounds.body_seconds)
    app.add_middleware(Logged)
    app.state.service = service
    return app
