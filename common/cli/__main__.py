"""The command line: `./thirty VERB …`, or `python -m common.cli VERB …`, or `python PATH/common/cli VERB …`.

How to add a verb: one line in VERBS below, verb -> (file of common/cli that holds it, help line), and in that
file one of these:

- a dataclass called after the verb (`Bench` for bench). tyro fills it from the command line: fields marked
  `tyro.conf.Positional[...]` are positional, the docstring line under a field is its help. `__call__(self)`
  does the work and returns an exit code or None.
- or a function called after the verb (`run`), for verbs that pass flags on: it takes the rest of the command
  line as it was typed, a list of strings, and returns an exit code or None.

A verb raises `UserError` for a user's mistake: one line, exit code 2. It starts projects by `launch.start`
only and imports no torch itself. A verb whose file is not there is not offered; only the verb asked for is
imported, so that `--help` and `list` are quick. `--mine` works with every verb: the whole command line runs
again in a shadow tree (common/shadow.py), where the learner's finished files lie over ours. `progress.py`
notes what was run and checked, `extras.need` sees to optional packages.
"""
import sys
from pathlib import Path

if not __package__:  # started by path: the root goes first, in place of this folder
    sys.path[0] = str(Path(__file__).resolve().parents[2])

from common.cli.cards import unknown
from common.errors import UserError

VERBS = {
    "list": ("projects", "the thirty projects: tier, done, running time on this machine, claim"),
    "run": ("projects", "run a project: run N [script] [preset] [--field value ...]"),
    "start": ("learn", "write a stub of a project's technique to my/, for you to fill in"),
    "check": ("learn", "judge what you wrote with the project's own tests"),
    "hint": ("learn", "the next hint of a project, least help first"),
    "solution": ("learn", "the difference between yours and ours, after asking"),
    "chat": ("chat", "talk with the newest model of the chain"),
    "bench": ("measure", "measure a project's claim against its baseline"),
    "profile": ("measure", "where a project spends its time"),
    "explore": ("measure", "a project's pictures and experiments"),
    "expect": ("measure", "run a preset once a seed and write the expected band of its numbers"),
    "report": ("report", "write the tables of the READMEs from the results; --check only compares"),
    "test": ("checks", "the tests: of a project, a phase, or all"),
    "smoke": ("checks", "every script's smoke preset, in seconds each"),
    "data": ("projects", "fetch a corpus and verify it"),
    "doctor": ("doctor", "look at this machine: what works, what is missing, what that costs"),
    "assign": ("assign", "for instructors: stubs, lessons and tests of some projects, without solutions"),
    "grade": ("grade", "for instructors: judge a folder of submissions, each behind a wall"),
    "new": ("scaffold", "start project 31 in a folder that keeps the rules of the house"),
}


def verbs() -> dict[str, tuple[str, str]]:
    """The verbs whose files are here: verb -> (file, help line)."""
    here = {file.stem for file in Path(__file__).parent.glob("*.py")}
    return {verb: place for verb, place in VERBS.items() if place[0] in here}


def main(argv: list[str]) -> int:
    """Run one command line; its exit code. 2: the user's mistake, said in one line."""
    try:
        if "--mine" in argv:
            return mine([arg for arg in argv if arg != "--mine"])
        return dispatch(argv) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        from common.cli.extras import missing
        if not (lacking := missing("core")):
            raise
        print(f"error: {error.name} is not in {sys.executable}, which lacks {', '.join(lacking)}: "
              "use ./thirty, or install them with python -m pip install -c constraints.txt", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `thirty list | head`
        sys.stderr.close()
        return 0


def dispatch(argv: list[str]) -> int | None:
    if not argv:
        from common.cli.projects import what_next
        return what_next()
    verb, *rest = argv
    if verb in ("-h", "--help", "help"):
        return usage()
    if verb not in verbs():
        raise unknown("verb", verb, list(verbs()), also="; see `thirty --help`")
    name, about = verbs()[verb]
    module = __import__(f"common.cli.{name}", fromlist=[name])
    if not (kind := getattr(module, verb.capitalize(), None)):
        return getattr(module, verb)(rest)
    from common.cli.parse import parse
    return parse(kind, rest, prog=f"thirty {verb}", description=about)()


def usage() -> None:
    width = max(map(len, verbs()))
    print("usage: thirty [VERB] [--help]\n\nthirty alone says what to do next.\n")
    for verb, (_, about) in verbs().items():
        print(f"  {verb:{width}}  {about}")
    print("\nN is a project: 8, 08, kv_cache or its folder. --mine runs any verb on what you wrote in my/.")


def mine(argv: list[str]) -> int:
    """The same command line in a shadow tree, in a process of its own."""
    from common.cli import launch, paths
    from common.shadow import with_mine
    with with_mine(paths.my(), paths.ROOT) as root:
        return launch.start("common.cli", argv, root=root)


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a pipe on Windows may lack a letter
    sys.exit(main(sys.argv[1:]))
