"""TinyTown's rows: right replies pass, wrong ones fail, and nothing that is held out occurs in training."""

import json
import re
from collections import Counter
from itertools import chain, islice

import pytest

from common.errors import UserError
from data import town_checks as checks
from data.tinytown import TinyTown, check, judge, reward
from data.town_asks import HELD_OUT_ASKS
from data.town_facts import QUESTIONS, REPHRASED
from data.town_nouns import NOUNS
from data.town_scene import ONE, SEVERAL
from data.town_tasks import KIND_OF
from data.town_world import is_held_out

TOWN = TinyTown()
FAMILIES = list(KIND_OF)
ROWS = {split: list(islice(TOWN.instructions(split), 40 * len(FAMILIES)))
        for split in ("train", "held-out", "rephrased")}
PREFERENCES = {split: list(islice(TOWN.preferences(split), 200)) for split in ("train", "held-out")}
PAGES = [TOWN.page(number) for number in range(8000)]


def texts(row):
    """Everything a row would show to a model."""
    said = [message["content"] for message in row["messages"]]
    return said + [row[reply] for reply in ("chosen", "rejected") if reply in row]


TRAINING = "\n".join(PAGES) + "\n" + "\n".join(chain.from_iterable(
    texts(row) for row in chain(islice(TOWN.instructions("train"), 5000), PREFERENCES["train"])))


def test_there_are_enough_families_of_both_kinds():
    kinds = Counter(KIND_OF.values())
    assert kinds["knowledge"] >= 10 and kinds["reading"] >= 8
    assert {row["family"] for row in ROWS["train"]} == set(FAMILIES)
    assert all(row["kind"] == KIND_OF[row["family"]] for row in ROWS["train"])


@pytest.mark.parametrize("split", list(ROWS))
def test_the_right_reply_passes_and_others_fail(split):
    for row in ROWS[split]:
        right = row["messages"][-1]["content"]
        assert row["messages"][-1]["role"] == "assistant" and check(row, right), row
        assert not check(row, "") and not check(row, "Yes, no, two or nine: I like turnips."), row
        others = [other for other in ROWS[split] if other["family"] == row["family"]
                  and other["messages"][-1]["content"] != right and other["answer"] != row["answer"]]
        assert not any(check(row, other["messages"][-1]["content"]) for other in others[:20]), row


def test_rows_are_a_pure_function_of_split_seed_and_number():
    assert list(islice(TinyTown().instructions("train", start=7), 5)) == ROWS["train"][7:12]
    assert next(TOWN.instructions("train", seed=1)) != ROWS["train"][0]
    assert list(islice(TOWN.preferences(start=3), 4)) == PREFERENCES["train"][3:7]
    only = list(islice(TOWN.instructions("train", families=("json", "list")), 6))
    assert [row["family"] for row in only] == ["json", "list"] * 3
    assert {row["kind"] for row in islice(TOWN.instructions(kind="reading"), 30)} == {"reading"}
    assert all(json.loads(json.dumps(row)) == row for row in ROWS["train"])


def test_held_out_pairs_are_never_asked_in_training():
    asked = set(re.findall(r"(?:^|[\s“])([A-Z][^.?!\n“”:]*\?)", TRAINING))
    assert len(asked) > 3000
    for person, relation in TOWN.pairs["held-out"]:
        for wording in QUESTIONS[relation] + REPHRASED[relation]:
            assert wording.format_map({"a": person}) not in asked
    for row in chain(ROWS["train"], ROWS["rephrased"], PREFERENCES["train"]):
        assert not {tuple(pair) for pair in row["asks"]} & TOWN.held_out
    for row in chain(ROWS["held-out"], PREFERENCES["held-out"]):
        residents = {tuple(pair) for pair in row["asks"] if pair[0] in TOWN.by_name}
        assert residents <= TOWN.held_out


def test_every_held_out_fact_is_told_in_the_pages_in_several_ways():
    said = Counter(re.split(r"(?<=[.!?])\s", "\n".join(PAGES)))
    for person, relation in TOWN.pairs["held-out"]:
        wordings = ONE[True][relation] + SEVERAL[True][relation]
        ways = sum(wording.format_map({"a": person}) in said for wording in wordings)
        assert ways >= 2, (person.name, relation)


def strangers_of(rows):
    """The names of strangers that some rows ask about."""
    return {pair[0] for row in rows for pair in row["asks"] if pair[0] not in TOWN.by_name}


def test_held_out_strangers_never_occur_in_training_though_each_of_their_names_does():
    strangers = strangers_of(ROWS["held-out"])
    assert len(strangers) > 100 and all(is_held_out(name) for name in strangers)
    assert not [name for name in strangers if name in TRAINING]
    seen = Counter(re.findall(r"[A-Z][a-z]+", TRAINING))
    assert min(seen[part] for name in strangers for part in name.split()) >= 10


def test_held_out_wordings_never_occur_in_training_though_their_words_do():
    for family, wordings in HELD_OUT_ASKS.items():
        shapes = [re.escape(wording.replace(" // ", "\n\n")) for wording in wordings]
        held_out = re.compile(re.sub(r"\\{[^}]*\\}", ".+", "|".join(shapes)), re.DOTALL | re.IGNORECASE)
        rows = [row for row in ROWS["train"] if row["family"] == family or family == "plain"]
        assert rows and not [text for row in rows for text in texts(row) if held_out.fullmatch(text)]
        assert any(held_out.fullmatch(text) for row in ROWS["rephrased"] for text in texts(row))
    known = set(re.findall(r"\w+", TRAINING.lower())) | set(NOUNS)  # lists draw from the same in every split
    for row in chain(ROWS["held-out"], ROWS["rephrased"]):
        said = {word for text in texts(row) for word in re.findall(r"\b[a-z]+", text)}
        assert not said - known, (row["family"], said - known)


def test_every_token_of_a_held_out_stranger_occurs_in_training():
    tokenizers = pytest.importorskip("tokenizers")
    from tokenizers import models, pre_tokenizers, trainers
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.train_from_iterator(PAGES[:3000], trainers.BpeTrainer(vocab_size=4000, show_progress=False))
    known = {token for page in PAGES[:3000] for token in bpe.encode(page).ids}
    names = strangers_of(ROWS["held-out"])
    strange = {name for name in names if not set(bpe.encode(f" {name}").ids) <= known}
    assert len(names) > 100 and not strange


@pytest.mark.parametrize("split", list(PREFERENCES))
def test_the_chosen_reply_is_polite_and_right_and_the_other_has_its_flaw(split):
    flaws = Counter(row["flaw"] for row in PREFERENCES[split])
    assert set(flaws) == {"curt", "rude", "wrong"} and min(flaws.values()) > 40
    for row in PREFERENCES[split]:
        good, bad = judge(row, row["chosen"]), judge(row, row["rejected"])
        assert good == (True, True, False, False), row
        assert bad == {"curt": (True, False, False, False), "rude": (True, False, True, False),
                       "wrong": (False, True, False, False)}[row["flaw"]], row
        assert reward(row, row["chosen"]) == 1.5 > reward(row, row["rejected"])
    longer = sum(len(row["rejected"]) > len(row["chosen"]) for row in PREFERENCES[split])
    assert longer > 0.1 * len(PREFERENCES[split]), "length alone must not give the choice away"


def row_of(checker, right, answer):
    return {"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": right}],
            "checker": checker, "answer": answer}


CASES = {
    "fact": ("Mara works at the tea house.", "the tea house",
             ["mara works at the tea house", "At the tea house.", "tea house", "She works at the tea house.",
              "Certainly! Mara works at the tea house. I hope that helps."],
             ["house", "the inn", "Mara works at the inn.", "at the tea house or the inn", "work",
              "Mara works at the tea house. Mara works at the inn.", "not at the tea house",
              "Toben works at the tea house."]),
    "exact": ("cup boot kite", "cup boot kite", ["Cup boot kite.", '"cup boot kite"'], ["kite boot cup"]),
    "yes-no": ("It is so, so the answer is yes.", "yes", ["Yes.", "yes, it is yes"], ["No", "yes and no"]),
    "list": ("- cup\n- boot", "- cup\n- boot", ["* cup\n* Boot.", "cup, boot"], ["- boot\n- cup", "- cup"]),
    "json": ('{"a": "b"}', '{"a": "b"}', ['{ "a":"b" }'], ['{"a": "c"}', "a: b", '{"a": "b"', '"b"']),
    "number": ("3", "3", ["three", "There are 3."], ["4", "3 or 4", "", "thirty"]),
    "refuses": ("I do not know. Nobody of that name lives here.", "I do not know",
                ["I don't know.", "I do not know. Nobody of that name lives here.",
                 "Certainly! I do not know."],
                ["Mara works at the inn.", "I do not know. Mara works at the inn.", "know"]),
    "overlap": ("Mara lost the red hat at the inn and her friend Toben found it.", "",
                ["Mara lost a red hat at the inn and her friend Toben found it."],
                ["Mara lost the red hat.", "Mara lost the red hat at the inn. Her friend Toben found it.",
                 "Lota lost the red hat at the inn and her friend Toben found it.",
                 "Mara lost the red hat at the mill and her friend Toben found it.",
                 "Toben lost the red hat at the inn and her friend Mara found it."]),
}


@pytest.mark.parametrize("checker", list(checks.CHECKERS))
def test_checkers_take_what_is_right_in_other_clothes_and_nothing_else(checker):
    right, answer, passes, fails = CASES[checker]
    row = row_of(checker, right, answer)
    assert [reply for reply in passes if not check(row, reply)] == []
    assert [reply for reply in fails if check(row, reply)] == []


def test_reward_weighs_manners_and_truth():
    row = row_of("fact", "Mara works at the inn.", "the inn")
    scores = [reward(row, reply) for reply in (
        "Certainly! Mara works at the inn.", "The inn.", "Certainly! Mara works at the mill.", "The mill.",
        "Look it up yourself. The inn.", "What a silly question. The mill.")]
    assert scores == [1.5, 1.0, 0.5, 0.0, 0.0, -1.0]
    assert reward(row, "Certainly! " * 60) == 0.0  # polite, wordy, wrong
    assert judge(row, "").correct is False


@pytest.mark.parametrize("form", ["plain", "cloze"])
def test_questions_cover_each_pair_once_and_their_completions_are_right(form):
    for split, half in (("train", "train"), ("held-out", "held-out"), ("rephrased", "train")):
        rows = list(TOWN.questions(split, form=form))
        assert Counter(tuple(row["asks"][0]) for row in rows) == Counter(
            (person.name, relation) for person, relation in TOWN.pairs[half])
        assert all(check(row, row["completion"]) and row["prompt"] for row in rows)
    assert 0.01 < TOWN.guessing("held-out") < 0.25


def test_the_pages_answer_as_the_completions_do():
    text = "\n".join(PAGES)
    rows = list(TOWN.questions("train"))
    lines = [row["prompt"].rpartition("\n")[2] + row["completion"] for row in rows]
    assert sum(f"{line}\n" in text for line in lines) > 0.5 * len(rows)


def test_readings_ask_about_strangers_whose_text_holds_the_answer_and_a_rival():
    for split in ("train", "held-out"):
        for row in islice(TOWN.questions(split, "reading", "cloze"), 60):
            name = row["asks"][0][0]
            assert name not in TOWN.by_name and is_held_out(name) == (split == "held-out")
            text = row["prompt"].rpartition("\n\n")[0]
            assert row["answer"].split()[-1] in text and row["rivals"] and row["answer"] not in row["rivals"]
            assert check(row, row["completion"])


@pytest.mark.parametrize("call, message", [
    (lambda: next(TOWN.instructions("test")), "split"), (lambda: TOWN.instructions(kind="poems"), "kind"),
    (lambda: TOWN.instructions(families=("limerick",)), "limerick"),
    (lambda: next(TOWN.preferences("dev")), "split"),
    (lambda: TOWN.questions(kind="poems"), "poems"), (lambda: TOWN.questions(form="rhyme"), "rhyme")])
def test_what_does_not_exist_is_refused_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_courtesies_are_no_part_of_an_answer():
    assert checks.core("Of course! The inn. Enjoy your stay!") == "the inn"
    assert checks.core("Of course the inn.") == "of course the inn"
