"""The pages of TinyTown: what makes a story, a letter, a diary, a notice board, a page of questions."""

from collections.abc import Callable

from data import town_registers as registers
from data.town_facts import FIRST_PERSON, QUESTIONS, RELATIONS, SHORT, relations_of
from data.town_scene import FIXED, LETTERS_IN, PLOTS_IN, Scene, capital
from data.town_words import OTHER_TOWNS
from data.town_world import Person


def story(scene: Scene) -> str:
    """A plot told in paragraphs, with asides about the people in it."""
    plot = scene.pick(PLOTS_IN[scene.season])
    scene.fix(*FIXED)
    opening = f"{scene[scene.season]}. {scene.portrait(scene['a'], 2 + scene.coin(0.7))}"
    paragraphs = [scene.say(scene.pick(plot.titles)), opening, ""]
    for i, phrasings in enumerate(plot.events):
        template = scene.pick(phrasings)
        paragraphs[-1] += scene.say(template) + " "
        last = i == len(plot.events) - 1
        if not last and scene.coin(0.85):
            paragraphs[-1] += scene.aside(LETTERS_IN[template] or ("a", "b", "c")) + " "
        if not last and scene.coin(0.45):
            paragraphs.append("")
    return "\n\n".join(paragraph.strip() for paragraph in paragraphs if paragraph)


def portraits(scene: Scene) -> str:
    """Some people of the town, one paragraph for each."""
    people = (scene.portrait(person, 3 + scene.coin(0.5)) for person in scene.some(scene.world.people, 3))
    return "\n\n".join([scene.frame("portraits"), *people])


def in_own_words(scene: Scene, person: Person, relation: str) -> str:
    """A person's fact in the first person."""
    return capital(scene.pick(FIRST_PERSON[relation]).format_map({"a": person}))


def own_words(scene: Scene, events: int, facts: int) -> str:
    """A paragraph of {a}'s own: small events and facts by turns."""
    said = [scene.say(template) for template in scene.some(registers.MY_HAPPENINGS, events)]
    said += [in_own_words(scene, scene["a"], relation) for relation in scene.some(RELATIONS, facts)]
    return " ".join(scene.some(said, len(said)))


def letter(scene: Scene) -> str:
    """A letter from {a} to {b}."""
    parts = [scene.frame("letter"), scene.frame("dear"),
             scene.say(scene.pick(registers.LETTER_OPENINGS)) + " " + own_words(scene, 1, 3),
             own_words(scene, 1, 3), scene.say(scene.pick(registers.LETTER_CLOSINGS)),
             scene.frame("yours")]
    return "\n\n".join(parts)


def diary(scene: Scene) -> str:
    """Two or three days of {a}'s diary."""
    entries = [f"{date}. {own_words(scene, 1, 3)}" for date in scene.dates(2 + scene.coin(0.5))]
    return "\n\n".join([scene.frame("diary"), *entries])


def notices(scene: Scene) -> str:
    """The notice board: one notice of each of some kinds."""
    board = [scene.frame("notices")]
    for kind in scene.some(tuple(registers.NOTICES), 4):
        board.append(scene.recast().say(scene.pick(registers.NOTICES[kind])))
    return "\n\n".join(board)


def dialogue(scene: Scene) -> str:
    """{a} and {c} meet and talk."""
    turns = [scene.pick(registers.GREETINGS), *scene.some(registers.TALK, 4), scene.pick(registers.FAREWELLS)]
    said = "\n".join(turn for turns_ in turns for turn in scene.say(turns_).split(" | "))
    return scene.frame("dialogue") + "\n\n" + said


def chronicle_day(scene: Scene, date: str) -> str:
    """One day of the chronicle: what happened to this one and that one."""
    events = scene.some(registers.HAPPENINGS, 2 + scene.coin(0.5))
    return f"{date}. {' '.join(scene.recast().say(event) for event in events)}"


def chronicle(scene: Scene) -> str:
    """Some days of the town's chronicle."""
    return "\n\n".join([scene.frame("chronicle"), *(chronicle_day(scene, date) for date in scene.dates(4))])


def listing(scene: Scene) -> str:
    """One thing told of many people, a line for each."""
    title, line = scene.pick(registers.LISTS).split(" | ")
    people = scene.some(scene.world.people, 3 + 16 // (1 + len(relations_of(line))))
    return "\n".join([title, "", *(capital(line.format_map({"a": person})) for person in people)])


def ask(scene: Scene, person: Person, relation: str) -> tuple[str, str]:
    """A question of the training split and its short answer: "Where does Mara work?", "At the bakery"."""
    asked = scene.pick(QUESTIONS[relation]).format_map({"a": person})
    return asked, capital(SHORT[relation].format_map({"a": person}))


def questions(scene: Scene) -> str:
    """Plain questions with short answers, about pairs of the training split only."""
    pairs = scene.some(scene.world.pairs["train"], 12)
    asked = (ask(scene, person, relation) for person, relation in pairs)
    return "\n".join([scene.frame("questions"), "", *(f"{question} {short}." for question, short in asked)])


def conversation(scene: Scene) -> str:
    """A visitor asks {a} about other people, and {a} answers; training pairs only."""
    said = [scene.frame("conversation")]
    for person, relation in scene.some(scene.world.pairs["train"], 6):
        scene["asked"], scene["short"] = ask(scene, person, relation)
        said.append(scene.say(registers.SPOKEN))
    return "\n\n".join(said)


def visitors(scene: Scene) -> str:
    """A text about strangers and questions that only the text can answer."""
    cast = scene.world.strangers(scene.rng)
    away = Scene(scene.world, scene.rng, cast, town=scene.pick(OTHER_TOWNS))
    people = away.some(cast, 2 + scene.coin(0.5))
    text = " ".join(away.portrait(person, 2 + scene.coin(0.5)) for person in people)
    lines = [away.frame("visitors"), "", text, ""]
    for person in away.some(people, len(people)):
        told = [relation for relation in RELATIONS if (person.name, relation) in away.told]
        lines.append("{} {}.".format(*ask(away, person, away.pick(told))))
    return "\n".join(lines)


# Each kind of page: its maker, its share of the text, and its average length in characters, from which the
# share of pages follows (a test measures both).
KINDS: dict[str, tuple[Callable[[Scene], str], float, float]] = {
    "story": (story, 0.36, 774), "portraits": (portraits, 0.18, 498), "letter": (letter, 0.06, 532),
    "diary": (diary, 0.05, 489), "notices": (notices, 0.04, 389), "dialogue": (dialogue, 0.03, 578),
    "chronicle": (chronicle, 0.06, 936), "listing": (listing, 0.17, 336), "visitors": (visitors, 0.05, 430),
}
ASKING: dict[str, tuple[Callable[[Scene], str], float, float]] = {
    "questions": (questions, 0.75, 558), "conversation": (conversation, 0.25, 561),
}
