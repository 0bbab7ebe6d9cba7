"""Chat templates: a conversation as one text, by the Jinja that the folder's tokenizer_config.json brings.

A template is code from whoever made the folder, so it runs in jinja2's sandbox, with what transformers
gives it and no more. What people wrote is data: a special token that a message spells stays ordinary text.
"""

import json
import re
from datetime import datetime

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from common.errors import UserError, demand

# ChatML, the chain's own. Content of assistant turns and the <|im_end|> behind it is what training counts.
CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # code points that no text holds


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    """Jinja's own filter escapes for HTML; this one is transformers'."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def render(template, messages, *, add_generation_prompt=False, **tokens):
    """Messages [{"role", "content"}] -> text; UserError where they do not fit. tokens: bos_token and such."""
    demand(template, "this tokenizer has no chat template: use one of a model that was trained to chat")
    demand(messages, "the conversation is empty: give at least one message")
    for message in messages:
        complete = isinstance(message, dict) and "role" in message and "content" in message
        demand(complete, f"a message needs a role and a content, not {message!r:.80}")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = to_json
    environment.globals.update(raise_exception=refuse, strftime_now=datetime.now().strftime)
    try:
        compiled = environment.from_string(template)
        return compiled.render(messages=messages, add_generation_prompt=add_generation_prompt, **tokens)
    except (jinja2.exceptions.TemplateError, TypeError) as error:
        raise UserError(f"the chat template refused these messages: {error}") from None


def segments(template, messages, special, **settings):
    """What `render` gives, as (text, is_special) pieces; only the template's own special tokens are special.

    Each special token that a message spells is rendered with a noncharacter inside, which is then taken out.
    """
    spoken = json.dumps(messages, ensure_ascii=False, default=str)
    guard = next((c for c in NONCHARACTERS if c not in spoken), None)
    demand(guard, "the messages hold every noncharacter from U+FDD0 to U+FDEF: these are no text")
    longest_first = map(re.escape, sorted(special, key=len, reverse=True))
    names = re.compile(f"({'|'.join(longest_first) or '(?!)'})")  # (?!) is nowhere

    def guarded(value):
        if isinstance(value, str):
            return names.sub(lambda found: found[0][0] + guard + found[0][1:], value)
        if isinstance(value, dict):
            return {key: guarded(item) for key, item in value.items()}
        return [guarded(item) for item in value] if isinstance(value, list | tuple) else value

    parts = names.split(render(template, guarded(messages), **settings))
    return [(part.replace(guard, ""), i % 2 == 1) for i, part in enumerate(parts) if part]
