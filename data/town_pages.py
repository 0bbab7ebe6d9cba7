"""The pages of TinyTown: what makes a story, a letter, a diary, a notice board, a page of questions."""

from collections.abc import Callable

from data import town_registers as registers
from data.town_facts import QUESTIONS, RELATIONS, SHORT, relations_of
from data.town_scene import CAST_OF, FIXED, PLOTS_IN, Scene, capital
from data.town_words import OTHER_TOWNS
from data.town_world import Person


def story(scene: Scene) -> str:
    """A plot told in paragraphs; each person is introduced where they come in."""
    plot = scene.pick(PLOTS_IN[scene.season])
    scene.fix(*FIXED)
    title = headline(scene.say(scene.pick(plot.titles)))
    paragraphs = [title, f"{scene[scene.season]}. {scene.portrait(scene['a'], 2 + scene.coin(0.5))}", ""]
    known = {"a"}
    for phrasings in plot.events:
        template = scene.pick(phrasings)
        paragraphs[-1] += scene.narrate(template) + " "
        for letter in CAST_OF[template]:
            if letter not in known:
                paragraphs[-1] += scene.portrait(scene[letter], 2) + " "
            known.add(letter)
        if scene.coin(0.5):
            paragraphs.append("")
    return "\n\n".join(paragraph.strip() for paragraph in paragraphs if paragraph)


def headline(title: str) -> str:
    """A title with its words in capitals, but for the small ones: "The Concert at the Tea House"."""
    small = {"a", "and", "at", "for", "in", "of", "on", "the", "to", "up", "was", "with"}
    return " ".join(word if word in small else capital(word) for word in title.split())


def portraits(scene: Scene) -> str:
    """Some people of the town, one paragraph for each."""
    people = (scene.portrait(person, 3 + scene.coin(0.5)) for person in scene.some(scene.world.people, 3))
    return "\n\n".join([scene.frame("portraits"), *people])


def letter(scene: Scene) -> str:
    """A letter from {a} to a pen friend in another town."""
    scene["d"] = scene.world.stranger(scene.rng)
    scene.fix("away")
    about = [scene.pick(registers.LETTER_OPENINGS), *scene.some(registers.ABOUT_ME, 3)]
    body = [about, scene.some(registers.MY_HAPPENINGS, 3), [scene.pick(registers.LETTER_CLOSINGS)]]
    paragraphs = (" ".join(map(scene.say, templates)) for templates in body)
    return "\n\n".join([scene.frame("letter"), scene.frame("dear"), *paragraphs, scene.frame("yours")])


def diary(scene: Scene) -> str:
    """Two or three days of {a}'s diary."""
    dates = scene.dates(2 + scene.coin(0.5))
    said = [scene.say(template) for template in scene.some(registers.MY_HAPPENINGS, 3 * len(dates))]
    entries = [f"{date}. {' '.join(said[3 * i:3 * i + 3])}" for i, date in enumerate(dates)]
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
    "story": (story, 0.30, 759), "portraits": (portraits, 0.26, 514), "letter": (letter, 0.05, 640),
    "diary": (diary, 0.05, 647), "notices": (notices, 0.03, 388), "dialogue": (dialogue, 0.03, 574),
    "chronicle": (chronicle, 0.04, 935), "listing": (listing, 0.20, 334), "visitors": (visitors, 0.04, 494),
}
ASKING: dict[str, tuple[Callable[[Scene], str], float, float]] = {
    "questions": (questions, 0.75, 556), "conversation": (conversation, 0.25, 557),
}
