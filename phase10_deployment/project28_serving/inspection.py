"""A look inside: switches, likely tokens, attention maps, blocks of memory. For the page of project 30.

Off unless asked for, as it shows what is in the engine; behind the same keys. The model is looked at in the
owner's thread, between two steps, by one forward of few tokens.
"""

import asyncio
import base64
import dataclasses
import json

import torch
from pydantic import BaseModel, Field
from starlette.responses import Response

from common.errors import UserError
from common.sampling import Sampling, truncate

from .assemble import Switches
from .limits import Refused
from .protocol import Message, Text
from .service import Stream
from .wire import STREAMED

MOST = 256  # tokens of a text that is looked at


class Change(BaseModel):
    """POST /thirty/engine: switches to set; those that are not named stay."""

    switches: dict[str, bool | int | str]


class Looked(BaseModel):
    """A text or a conversation to look at. The settings: how a next token would be drawn. whole: also the
    logits of all ids behind the last token."""

    prompt: Text | None = None
    messages: list[Message] | None = None
    top: int = Field(10, ge=1, le=50)
    temperature: float = Field(1.0, gt=0, le=10, allow_inf_nan=False)
    top_k: int = Field(0, ge=0)
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, le=1)
    layer: int = Field(0, ge=0)
    whole: bool = False


def entropy(logprobs):
    """Bits, of each row of log-probabilities (T, V)."""
    return (-(logprobs.exp() * logprobs.clamp(min=-1e4)).sum(-1) / torch.log(torch.tensor(2.0))).tolist()


@torch.no_grad()
def logits_of(model, ids, asked):
    """For each token what may follow it: its entropy as the model says and as it would be drawn, and the
    likeliest ids with both probabilities; and, where they are asked for whole, the last token's logits as
    base64 of little-endian float32."""
    tokens = torch.tensor([ids], device=model.norm.weight.device)
    logits = model.head(model.hidden(tokens)[0]).float().cpu()  # (T, V)
    sampling = Sampling(top_k=asked.top_k, top_p=asked.top_p, min_p=asked.min_p)
    plain = logits.log_softmax(-1)
    drawn = truncate(logits / asked.temperature, [sampling] * len(ids)).log_softmax(-1)
    values, best = plain.topk(min(asked.top, plain.size(-1)))
    steps = [{"entropy": before, "entropy_drawn": after,
              "top": [{"id": id, "probability": float(torch.tensor(value).exp()),
                       "drawn": float(row[id].exp())} for id, value in zip(some, kept, strict=True)]}
             for before, after, some, kept, row in zip(entropy(plain), entropy(drawn), best.tolist(),
                                                       values.tolist(), drawn, strict=True)]  # fmt: skip
    last = base64.b64encode(logits[-1].numpy().astype("<f4").tobytes()).decode() if asked.whole else None
    return steps, last


@torch.no_grad()
def attention_of(model, ids, layer):
    """The weights of one layer's attention over a text: H lists of T rows of T."""
    if layer >= len(model.blocks):
        raise UserError(f"layer {layer}: the model has layers 0 to {len(model.blocks) - 1}")
    maps, attn = [], model.blocks[layer].attn
    kept = attn.attend

    def shown(q, k, v, **where):
        scores = q @ k.repeat_interleave(q.size(1) // k.size(1), 1).transpose(-2, -1) * q.size(-1) ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu(1)
        maps.append(scores.masked_fill(future, -torch.inf).softmax(-1)[0])  # (H, T, T)
        return kept(q, k, v, **where)

    attn.attend = shown
    try:
        model.hidden(torch.tensor([ids], device=model.norm.weight.device))
    finally:
        attn.attend = kept
    return [[[round(x, 5) for x in row] for row in head] for head in maps[0].tolist()]


async def looked_at(service, asked):
    """The ids of what is to be looked at: at most MOST."""
    if (asked.prompt is None) == (asked.messages is None):
        raise Refused(400, "invalid_request", "give either a prompt or messages")
    if asked.prompt is None:
        ids = await service.chat(asked.messages)
    else:
        ids = (await service.prompts(asked.prompt))[0]
    if len(ids) > MOST:
        raise Refused(400, "too_large", f"{len(ids)} tokens: at most {MOST} are looked at")
    return ids


async def pictures(service, seconds=0.25):
    """The blocks of memory as they change: whose each is (a number; null: nobody's), how many tokens it holds
    (nobody's, and some: the prefix index alone has it), and of how many."""
    last = None
    while service.ready:
        now = await service.loop.call(lambda engine: engine.store.picture())
        if now != last:
            last = now
            yield f"data: {json.dumps({'blocks': now})}\n\n".encode()
        await asyncio.sleep(seconds)


def add_routes(app, service, who, mine=()):
    """/thirty: engine, logits, attention, blocks. mine: the files that a learner wrote."""

    def state(engine):
        return {"model": service.name, "switches": dataclasses.asdict(engine.switches),
                "stats": service.loop.snapshot, "can_switch": service.make is not None,
                "layers": service.config.n_layer, "heads": service.config.n_head,
                "mine": list(mine)}  # fmt: skip

    @app.get("/thirty/engine")
    async def engine(key=who):
        return await service.loop.call(state)

    @app.post("/thirty/engine")
    async def change(asked: Change, key=who):
        if service.make is None:
            raise Refused(400, "invalid_request", "this server's switches are fixed")
        now = await service.loop.call(lambda engine: engine.switches)
        try:
            wanted = dataclasses.replace(now, **asked.switches)
        except TypeError:
            names = ", ".join(field.name for field in dataclasses.fields(Switches))
            raise Refused(400, "invalid_request", f"the switches are {names}, of their own types") from None
        await service.loop.replace(await asyncio.to_thread(service.make, wanted))
        return await service.loop.call(state)

    @app.post("/thirty/logits")
    async def logits(asked: Looked, key=who):
        ids = await looked_at(service, asked)
        steps, last = await service.loop.call(lambda engine: logits_of(engine.model, ids, asked))
        for id, step in zip(ids, steps, strict=True):
            step["token"] = service.words.decode([id])
            for one in step["top"]:
                one["token"] = service.words.decode([one["id"]])
        return {"steps": steps, "logits": last}

    @app.post("/thirty/attention")
    async def attention(asked: Looked, key=who):
        ids = await looked_at(service, asked)
        heads = await service.loop.call(lambda engine: attention_of(engine.model, ids, asked.layer))
        return {"tokens": [service.words.decode([id]) for id in ids], "layer": asked.layer,
                "layers": service.config.n_layer, "heads": heads}  # fmt: skip

    @app.get("/thirty/blocks", response_class=Response, responses=STREAMED)
    async def blocks(key=who):
        await service.loop.call(lambda engine: None)
        return Stream(pictures(service))
