"""The routes: OpenAI's, so that any client of theirs works unchanged; health, figures, and a look inside.

Came before: `service.py`, which knows what to do with a request. New here: HTTP around it, by FastAPI. Each
route is a few lines: who asks, what is asked, its tokens, the answer. Whatever goes wrong leaves in OpenAI's
shape, `{"error": {...}}`, with the status that says whose fault it is: 4xx the sender's, and asking again
will not help; 429 and 503 nobody's, and Retry-After says when to; 500 ours.

OpenAI's API reference (chat, completions, embeddings, models); RFC 9110; Server-Sent Events (WHATWG HTML).
"""

import base64
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
from .protocol import ChatAsked, EmbeddingAsked, ProblemBody, TextAsked, problem
from .wire import STREAMED, ChatShape, TextShape

STATUSES = (400, 401, 404, 405, 408, 413, 429, 500, 503)


def said(refused):
    """A Refused as a response."""
    headers = {} if refused.after is None else {"retry-after": str(refused.after)}
    headers |= {"www-authenticate": "Bearer"} if refused.status == 401 else {}
    body = problem(refused.status, refused.code, refused.why, refused.param)
    return JSONResponse(body, refused.status, headers)


def complaint(error):
    """The first fault that FastAPI found in a body, as a Refused; without what was sent, which may be
    anything."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:] if not isinstance(part, int))
    why = first["msg"].removeprefix("Value error, ")
    return Refused(400, "invalid_request", f"{where}: {why}" if where else why, param=where or None)


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
    app.add_exception_handler(RequestValidationError, lambda request, error: refused(request,
                                                                                      complaint(error)))
    app.add_exception_handler(HTTPException, lambda request, error: JSONResponse(
        problem(error.status_code, None, str(error.detail)), error.status_code, error.headers))  # fmt: skip
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
            "max_model_len": min(service.config.max_seq_len, service.capacity)}  # fmt: skip

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


def create_app(service, *, inspect=False):
    """The ASGI application of a Service, whose engine it starts and stops. inspect: the routes of
    `inspection.py`, too, which show what is in the engine."""
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
    add_health(app, service)
    if inspect:
        inspection.add_routes(app, service, who)
    bounds = service.bounds
    app.add_middleware(Bounded, refuse=refuse, size=bounds.body, seconds=bounds.body_seconds)
    app.add_middleware(Logged)
    app.state.service = service
    return app
