"""JSON mode: the automaton against Python's own parser, and what a model writes under it."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import UserError
from common.generate import Sampling
from common.tokenizer import load
from common.trial import model_folder
from phase10_deployment.project28_serving import _trial
from phase10_deployment.project28_serving.json_mode import (
    BETWEEN,
    JsonGuide,
    Vocabulary,
    is_json,
    read,
    structure,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("model") / "m", loud=8, max_seq_len=64, n_layer=1, d_model=16)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)
COMPACT = {"separators": (",", ":")}
WRONG = ["{,", '{"a":1,}', "[", '"a"', '{"a" 1', '{"a":01', '{"a":[1,]', '{"a":-}', "{}x", '{"a":tru}', "{  ",
         '{"a":1]', '{"a":[1}', '{a', '{"a":1 2', '{"a":[,', "{}}", '{"a":"\n', '{"a":"\\x', '{1:2}', "{]",
         '{"a":[1 2', '{"a"}', '{"a":}', '{"a",', '{"a":[1:', '{"a":{}:']  # fmt: skip


@given(
    value=st.dictionaries(st.text(max_size=4), VALUES, max_size=3), ascii=st.booleans(), tight=st.booleans()
)
@settings(max_examples=60, deadline=None, derandomize=True)
@pytest.mark.exercise("structure")
def test_matches_the_standard_library(value, ascii, tight):
    """Whatever json.dumps writes is read to its end; and nothing that is cut short counts as done."""
    text = json.dumps(value, ensure_ascii=ascii, **(COMPACT if tight else {}))
    assert read(text) == (), text
    for end in range(len(text)):
        assert read(text[:end]), f"{text[:end]!r} is the beginning of {text!r}, and not all of it"


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.exercise("structure")
def test_what_python_refuses_is_no_beginning_of_json(text):
    assert read(text) is None and not is_json(text)


@given(text=st.text(st.sampled_from(list('{}[]",:1a ')), max_size=12))
@settings(max_examples=150, deadline=None, derandomize=True)
@pytest.mark.exercise("structure")
def test_done_is_what_python_reads(text):
    """Random brackets: where the automaton owes nothing, Python finds an object, and the other way round."""
    done = read(text) == ()
    assert not done or is_json(text), text
    loose = is_json(text) and "  " not in text and text == text.strip()
    assert done or not loose, text


@pytest.mark.exercise("structure")
def test_something_can_always_follow():
    """From every place between values some character leads on: no text runs into a dead end."""
    for top in BETWEEN:
        assert any(structure(("more pairs",), top, chr(c)) is not None for c in range(32, 127)), top
    assert structure(("x",), "more items", "]") == ("x",) and structure(("x",), "colon", ":") == ("x",)


def test_which_tokens_may_follow(folder):
    """The tree of tokens says what asking for each token alone says."""
    words = load(folder)
    vocabulary = Vocabulary(words, 260)
    for text in ("", "{", '{"a', '{"a"', '{"a":', '{"a":[1', '{"a":1.', '{"a":"\\', '{"a":"\\u0', '{"a":tr'):
        stack = read(text)
        want = [id for id in range(256) if read(words.token_bytes(id), stack) is not None]
        assert vocabulary.allowed(stack).nonzero().flatten().tolist() == want, text
    assert vocabulary.allowed(()).nonzero().flatten().tolist() == sorted(words.eos_ids)


@pytest.mark.exercise("structure")
def test_a_model_that_knows_no_json_writes_it(folder):
    """Untrained, drawn at a high temperature: every answer that came to its end parses."""
    engine = _trial.engine_of(folder, speculative="ngram")
    vocabulary, told = Vocabulary(engine.tokenizer, 260), {}
    for seed in range(6):
        sampling = Sampling(max_tokens=50, temperature=1.5, seed=seed)
        told[engine.begin([1, 2, 3], sampling, guide=JsonGuide(vocabulary))] = []
    free = engine.begin([1, 2, 3], Sampling(max_tokens=20, seed=1))
    told[free] = []
    while engine.busy:
        for event in engine.step():
            told[event.id].append(event)
    texts = {id: ("".join(e.text for e in events), events[-1].finish) for id, events in told.items()}
    plain = texts.pop(free)[0]
    assert not is_json(plain) and not engine.guides
    for text, finish in texts.values():
        assert is_json(text) if finish == "stop" else read(text) is not None, text
    assert any(finish == "stop" for _, finish in texts.values())


def test_is_on(folder):
    """With the same seed and no guide the answer is no JSON; a guide that allows one id makes all of it."""

    class Only:
        def allowed(self):
            return torch.arange(260) == 65

        def push(self, id):
            assert id == 65

    engine = _trial.engine_of(folder)
    id = engine.begin([1, 2], Sampling(max_tokens=5, seed=0, logprobs=2), guide=Only())
    events = [event for _ in range(8) for event in engine.step() if event.id == id]
    assert "".join(event.text for event in events) == "AAAAA"


def test_a_tokenizer_without_an_end_is_refused(folder):
    words = load(folder)
    words.eos_ids = ()
    with pytest.raises(UserError, match="ends the text"):
        Vocabulary(words, 260)
