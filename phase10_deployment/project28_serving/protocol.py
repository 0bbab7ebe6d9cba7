"""What may be asked: the bodies of OpenAI's routes, checked field by field, and what they mean to the engine.

Came before: a `Sampling` that a programmer writes. New here: JSON from strangers. Each field has a type and a
range; what the engine cannot do is refused by name, not silently left out: who sends `tools` and gets prose
has been lied to, and so has he who writes `max_token`. Fields that change nothing (user, metadata) are taken
and ignored.
"""

import difflib
import math
import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from common.generate import Sampling

from .limits import Refused

HALVES = re.compile("[\ud800-\udfff]")
MOST = {"n": 16, "stop": 4, "prompts": 32, "messages": 1024, "top_logprobs": 20}
UNHEARD = ("tools", "functions", "tool_choice", "function_call", "logit_bias", "audio", "echo", "suffix",
           "presence_penalty", "frequency_penalty", "best_of")  # fmt: skip
HARMLESS = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key",
            "prompt_cache_retention", "parallel_tool_calls", "modalities", "reasoning_effort", "verbosity",
            "prediction", "web_search_options")  # fmt: skip


def sound(text):
    """Half of a surrogate pair is no text: no tokenizer, and no UTF-8, could say it."""
    if HALVES.search(text):
        raise ValueError("holds half of a surrogate pair, which is no character")
    return text


Text = Annotated[str, AfterValidator(sound)]
Ids = Annotated[list[Annotated[int, Field(strict=True, ge=0)]], Field(min_length=1)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class Part(BaseModel):
    """A piece of a message; images and sound are not taken."""

    type: Literal["text"]
    text: Text


class Message(BaseModel):
    """role: who speaks; developer is taken for system."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | list[Part]

    def plain(self):
        """As a chat template takes it."""
        said = self.content if isinstance(self.content, str) else "".join(one.text for one in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": said}


class StreamOptions(BaseModel):
    include_usage: bool = False


class Format(BaseModel):
    """text, or json_object: only tokens with which the answer is JSON."""

    type: Literal["text", "json_object"]


class Asked(BaseModel):
    """What both kinds of request have in common. Names are OpenAI's; the last four are vLLM's."""

    model_config = ConfigDict(extra="allow")
    usual: ClassVar[int | None] = None  # tokens where none are named; None: as many as there may be

    model: Annotated[Text, Field(min_length=1, max_length=512)]
    max_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    temperature: Annotated[Number, Field(ge=0, le=2)] | None = None
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    n: Annotated[int, Field(ge=1, le=MOST["n"])] | None = None
    stop: Annotated[Text, Field(min_length=1)] | Annotated[
        list[Annotated[Text, Field(min_length=1)]], Field(max_length=MOST["stop"])] | None = None  # fmt: skip
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Format | None = None
    top_k: Annotated[int, Field(ge=-1, le=1 << 30)] | None = None
    min_p: Annotated[Number, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[Number, Field(gt=0, le=10)] | None = None
    ignore_eos: bool | None = None

    @model_validator(mode="after")
    def nothing_unheard(self):
        """Refuse what would change the answer and is not done here, and what nobody knows."""
        for name, given in (self.model_extra or {}).items():
            nothing = given in (None, 0, False, [], {}, "", "none") or (name == "best_of" and given == 1)
            if name in UNHEARD and not nothing:
                raise Refused(400, "unsupported", f"{name} is not supported by this server: leave it out",
                              param=name)  # fmt: skip
            if name not in (*UNHEARD, *HARMLESS):
                like = difflib.get_close_matches(name, type(self).model_fields, 1)
                raise Refused(400, "unknown_field", f"there is no field {name!r:.60}: "
                              + (f"{like[0]} is meant?" if like else "leave it out"))  # fmt: skip
        return self

    @property
    def copies(self):
        return self.n or 1

    @property
    def usage_wanted(self):
        return bool(self.stream_options and self.stream_options.include_usage)

    @property
    def json_only(self):
        return self.response_format is not None and self.response_format.type == "json_object"

    def sampling(self, most):
        """The engine's Sampling, of at most so many tokens. UserError where a value is out of range."""

        def given(value, default):
            return default if value is None else value

        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        return Sampling(
            max_tokens=max(1, min(most, given(self.max_tokens, given(self.usual, most)))), stop=tuple(stop),
            logprobs=0 if self.alternatives is None else max(1, self.alternatives),
            temperature=given(self.temperature, 1.0), top_p=given(self.top_p, 1.0),
            top_k=max(0, given(self.top_k, 0)), min_p=given(self.min_p, 0.0),
            repetition_penalty=given(self.repetition_penalty, 1.0), ignore_eos=bool(self.ignore_eos),
            seed=None if self.seed is None else self.seed % 2**64)  # fmt: skip


class ChatAsked(Asked):
    """POST /v1/chat/completions"""

    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST["messages"])]
    max_completion_tokens: Annotated[int, Field(ge=1, le=1 << 20)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST["top_logprobs"])] | None = None

    @model_validator(mode="after")
    def one_limit(self):
        if self.max_completion_tokens is not None:
            self.max_tokens = self.max_completion_tokens
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs asks for logprobs: true")
        return self

    @property
    def alternatives(self):
        """How many likely tokens are shown beside each; None: log-probabilities are not asked for."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextAsked(Asked):
    """POST /v1/completions"""

    usual: ClassVar[int | None] = 16

    prompt: Text | Annotated[list[Text], Field(min_length=1, max_length=MOST["prompts"])] | Ids | Annotated[
        list[Ids], Field(min_length=1, max_length=MOST["prompts"])]  # fmt: skip
    logprobs: Annotated[int, Field(ge=0, le=MOST["top_logprobs"])] | None = None

    @property
    def alternatives(self):
        return self.logprobs


class EmbeddingAsked(BaseModel):
    """POST /v1/embeddings"""

    model: Annotated[Text, Field(min_length=1, max_length=512)]
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=64)] | Ids | Annotated[
        list[Ids], Field(min_length=1, max_length=64)]  # fmt: skip
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: None = None
    user: Any = None


class TokenizeAsked(BaseModel):
    """POST /tokenize, as vLLM has it: a text, or a conversation."""

    model: Text | None = None
    prompt: Text | None = None
    messages: Annotated[list[Message], Field(min_length=1, max_length=MOST["messages"])] | None = None
    add_generation_prompt: bool = True
    return_token_strs: bool = False

    @model_validator(mode="after")
    def one_of_both(self):
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either a prompt or messages")
        return self


def several(given):
    """What one prompt, a list of them, ids or a list of ids hold: a list of texts or of lists of ids."""
    one = isinstance(given, str) or isinstance(given[0], int)
    return [given] if one else list(given)


class Problem(BaseModel):
    """OpenAI's shape of an error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ProblemBody(BaseModel):
    error: Problem


def problem(status, code, why, param=None):
    """The body of an error."""
    kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}
    kind = kinds.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": why, "type": kind, "param": param, "code": code}}


def finite(x):
    """A log-probability as JSON can say it: OpenAI, too, writes -9999 for what cannot be."""
    return x if math.isfinite(x) else -9999.0
