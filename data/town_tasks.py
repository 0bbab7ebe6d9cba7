"""Rows to train and to test on: instructions, preferences, and plain questions for a base model."""

from collections.abc import Iterator, Sequence
from itertools import count
from random import Random

from common.errors import UserError
from data import town_knowledge as knowledge
from data import town_reading as reading
from data.town_asks import CLOSINGS, OPENINGS, RUDE
from data.town_desk import SPLITS, Desk, Row, full, row, turns
from data.town_facts import SHORT
from data.town_registers import FRAMES
from data.town_scene import capital
from data.town_world import Person, World, draw_person, seed_of

FAMILIES = {"knowledge": knowledge.FAMILIES, "reading": reading.FAMILIES}
KIND_OF = {family: kind for kind, families in FAMILIES.items() for family in families}
TITLES = {"plain": "questions", "cloze": "portraits"}  # the page on which each form of question stands
FLAWS = ("curt", "rude", "wrong")


def desk_for(world: World, split: str, *parts: object) -> Desk:
    """The desk of one row: the same for equal parts."""
    if split not in SPLITS:
        raise UserError(f"There is no split {split!r} in TinyTown. Take one of {', '.join(SPLITS)}.")
    return Desk(world, Random(seed_of("row", world.seed, split, *parts)), split)


def choose_families(kind: str | None, families: Sequence[str]) -> list[str]:
    """The families that are asked for: all, those of a kind, or those named."""
    unknown = sorted(set(families) - set(KIND_OF))
    if unknown or kind not in (None, *FAMILIES):
        raise UserError(f"TinyTown has no {'family ' + unknown[0] if unknown else 'kind ' + str(kind)!r}. "
                        f"Kinds: {', '.join(FAMILIES)}; families: {', '.join(KIND_OF)}.")
    return [family for family in families or KIND_OF if kind in (None, KIND_OF[family])]


def instruction(world: World, split: str, seed: int, number: int, families: Sequence[str]) -> Row:
    """Row `number` of a stream: the families take turns."""
    family = families[number % len(families)]
    desk = desk_for(world, split, seed, family, number)
    kind = KIND_OF[family]
    return {"family": family, "kind": kind, **FAMILIES[kind][family](desk)}


def polite(desk: Desk, reply: str) -> str:
    """A reply with a courtesy before it, after it, or both."""
    before, after = desk.pick(((1, 0), (0, 1), (1, 1)))
    parts = [desk.pick(OPENINGS)] * before + [reply] + [desk.pick(CLOSINGS)] * after
    return " ".join(parts)


def preference(world: World, split: str, seed: int, number: int) -> Row:
    """Row `number` of a stream of preferences: polite and right over curt, rude or wrong."""
    family = ("where", "what", "who", "refusal")[number % 4]
    desk = desk_for(world, split, "preference", seed, number)
    made = knowledge.FAMILIES[family](desk)
    *prompt, right = made["messages"]
    flaw = desk.pick(FLAWS)
    said = {"curt": capital(made["answer"]) + ".", "rude": f"{desk.pick(RUDE)} {right['content']}",
            "wrong": polite(desk, wrong(desk, *made["asks"][0]))}[flaw]
    return {"family": family, "kind": "knowledge", **made, "messages": prompt,
            "chosen": polite(desk, right["content"]), "rejected": said, "flaw": flaw}


def wrong(desk: Desk, name: str, relation: str) -> str:
    """A full sentence about someone that is not true, whether they live here or not."""
    person = desk.world.by_name.get(name) or draw_person(desk.rng, name)
    return full(knowledge.another(desk, person, relation), relation)


def question(desk: Desk, person: Person, relation: str, form: str) -> Row:
    """A question for a model that only continues text: the top of a page, and how the page would go on."""
    reply = full(person, relation)
    if form == "cloze":
        prompt = knowledge.opening(person, relation)
        completion = reply.removeprefix(prompt).removesuffix(".")  # the sentence may go on
    else:
        prompt = desk.question(person, relation)
        completion = f" {capital(SHORT[relation].format_map({'a': person}))}."
    asked = row(turns(prompt, reply), person.value(relation), "fact", [(person, relation)])
    prompt = f"{FRAMES[TITLES[form]][0]}\n\n{prompt}".replace("{town}", "Tinytown")
    return {"family": form, "kind": "knowledge", **asked, "prompt": prompt, "completion": completion}


def questions(world: World, split: str, form: str, seed: int) -> Iterator[Row]:
    """Every pair of the split once, in shuffled order."""
    if form not in TITLES:
        raise UserError(f"TinyTown's questions come in the forms plain and cloze, not {form!r}.")
    desk = desk_for(world, split, "questions", form, seed)
    pairs = list(world.pairs[desk.half])
    desk.rng.shuffle(pairs)
    return (question(desk, person, relation, form) for person, relation in pairs)


def readings(world: World, split: str, form: str, seed: int) -> Iterator[Row]:
    """Endless questions about strangers, each after the text that answers it, with the other values in it."""
    for number in count():
        desk = desk_for(world, split, "readings", form, seed, number)
        scene, text, told = reading.passage(desk)
        person, relation = desk.pick(told)
        rivals = reading.rivals(person, relation, told)
        if not rivals:
            continue  # without a rival there is no chance to compare with
        made = question(desk, person, relation, form)
        prompt = f"{scene.frame('visitors')}\n\n{text}\n\n{made['messages'][0]['content']}"
        yield {**made, "kind": "reading", "prompt": prompt, "rivals": rivals,
               "messages": turns(prompt, full(person, relation))}
