"""Be the judge: a local page shows two answers to a question, blind and in random order, and counts.

Choices are written to choices.jsonl as they are made; --resume goes on. At the end: how often the tuned model
won, with its interval, and how often you agree with the programmatic judge.
"""

import json
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path
from random import Random

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain
from common.cli.script import script
from common.errors import UserError, demand
from data.tinytown import TinyTown
from phase02_finetuning.project04_sft import skill

from ._judge import outcome, win_rate

PAGE = Path(__file__).with_name("rate.html")
CHOICES = ("left", "right", "tie")
LARGEST = 1000  # bytes of what the page may send


@dataclass(frozen=True)
class Config:
    model: str = ""
    """Folder or name of the tuned model; empty: models/dpo, and where there is none, a tiny one made now."""
    against: str = ""
    """Folder or name of the other one; empty: models/sft, or a tiny one."""
    questions: int = 30
    """Questions to rate; those to which both say the same are left out."""
    max_tokens: int = 48
    """Tokens of an answer at most."""
    port: int = 8006
    """Where the page is; 0: any that is free."""
    robot: bool = False
    """Have a program click, which takes the longer answer: to try the page."""
    seed: int = 1337
    """Start of the random numbers: which answer stands on the left."""

    def __post_init__(self):
        demand(self.questions >= 1, f"questions is {self.questions}: it must be at least 1")
        demand(0 <= self.port < 65536, f"port is {self.port}: from 0 to 65535")


PRESETS = {"smoke": Config(questions=3, max_tokens=8, port=0, robot=True), "cpu": Config()}


class Ballot:
    """The questions with two answers each, which side is whose, and the choices so far.

    items: (row, answer of the tuned model, answer of the other). Choices that the file holds are taken over.
    """

    def __init__(self, items: Sequence[tuple[dict, str, str]], file: Path, seed: int):
        self.items, self.file, self.lock, self.done = list(items), file, threading.Lock(), threading.Event()
        draw = Random(seed)
        self.tuned_left = [draw.random() < 0.5 for _ in self.items]
        self.won = dict(self.before())  # {item: 1, 1/2 or 0 for the tuned model}
        self.see()

    def before(self):
        """(item, outcome) of what was rated in a run that stopped."""
        for line in self.file.read_text("utf-8").splitlines() if self.file.exists() else ():
            made = json.loads(line)
            same = made["id"] < len(self.items) and made["tuned"] == self.items[made["id"]][1]
            demand(same, f"{self.file} holds choices about other answers: start a new run")
            yield made["id"], made["won"]

    def see(self):
        if len(self.won) == len(self.items):
            self.done.set()

    def next(self) -> dict:
        """What the page shows now."""
        state = {"rated": len(self.won), "total": len(self.items), "done": self.done.is_set()}
        if state["done"]:
            return {**state, "summary": self.summary()}
        i = next(i for i in range(len(self.items)) if i not in self.won)
        row, *answers = self.items[i]
        left, right = answers if self.tuned_left[i] else answers[::-1]
        asked = "\n".join(message["content"] for message in skill.asked(row))
        return {**state, "id": i, "question": asked, "left": left, "right": right}

    def choose(self, i, choice) -> None:
        """Write a choice down. UserError for an item that is none or was rated, or a choice that is none."""
        with self.lock:
            demand(type(i) is int and 0 <= i < len(self.items), f"there is no question {i!r}")
            demand(i not in self.won, f"question {i} has been rated")
            demand(choice in CHOICES, f"a choice is one of {', '.join(CHOICES)}, not {choice!r}")
            won = 0.5 if choice == "tie" else float((choice == "left") == self.tuned_left[i])
            row, tuned, other = self.items[i]
            line = {"id": i, "question": skill.asked(row)[-1]["content"], "tuned": tuned, "other": other,
                    "tuned_on": "left" if self.tuned_left[i] else "right", "choice": choice, "won": won,
                    "judge": outcome(row, tuned, other)}  # fmt: skip
            with self.file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            self.won[i] = won
            self.see()

    def agreement(self) -> tuple[int, int]:
        """(how often you and the judge named the same winner, of how many where both named one)."""
        both = [(won, outcome(*self.items[i])) for i, won in self.won.items()]
        both = [pair for pair in both if 0.5 not in pair]
        return sum(mine == judged for mine, judged in both), len(both)

    def summary(self) -> str:
        """The result in two sentences."""
        if not self.won:
            return "Nothing was rated."
        rate, (low, high) = win_rate(list(self.won.values()))
        same, of = self.agreement()
        agreed = f"You and the judge agree on {same} of {of}." if of else "The judge saw no difference."
        return f"The tuned model wins {rate:.0%} [{low:.0%}, {high:.0%}] of {len(self.won)}. {agreed}"


def handler(ballot: Ballot):
    """The routes: / the page, /next what to show, /choose a choice. All else is refused."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a request to arrive

        def do_GET(self):
            if self.path == "/":
                self.reply(200, PAGE.read_bytes(), "text/html; charset=utf-8")
            elif self.path == "/next":
                self.reply(200, ballot.next())
            else:
                self.reply(404, {"error": "there is no such page"})

        def do_POST(self):
            if self.path != "/choose" or self.headers.get_content_type() != "application/json":
                return self.reply(404, {"error": "choices are JSON for /choose"})
            length = self.headers.get("Content-Length", "")
            if not length.isdecimal() or int(length) > LARGEST:
                return self.reply(413, {"error": f"at most {LARGEST} bytes"})
            try:
                sent = json.loads(self.rfile.read(int(length)))
                demand(isinstance(sent, dict), "a choice is an object")
                ballot.choose(sent.get("id"), sent.get("choice"))
            except (ValueError, UserError) as error:
                return self.reply(400, {"error": str(error)})
            self.reply(200, ballot.next())

        def reply(self, status, body, kind="application/json"):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in (("Content-Type", kind), ("Content-Length", str(len(body))),
                                ("Cache-Control", "no-store")):  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            """Silent: the screen is for the result."""

    return Handler


def serve(ballot: Ballot, port: int) -> ThreadingHTTPServer:
    """The page on this machine alone, in a thread. UserError where the port is taken."""
    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), handler(ballot))
    except OSError as error:
        raise UserError(f"port {port} cannot be had ({error.strerror}): name another with --port") from None
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def click(address: str) -> None:
    """Rate everything through the page's own routes: the longer answer wins."""
    def ask(path, body=None):
        data = body and json.dumps(body).encode()
        request = urllib.request.Request(address + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    item = ask("next")
    while not item["done"]:
        longer = len(item["left"]) - len(item["right"])
        choice = "tie" if not longer else "left" if longer > 0 else "right"
        item = ask("choose", {"id": item["id"], "choice": choice})


def answered(config, run) -> list[tuple[dict, str, str]]:
    """Held-out questions and both models' answers, where they differ."""
    tuned, other = (chain.find(link, named, say=run.say) for link, named in
                    (("dpo", config.model), ("sft", config.against)))  # fmt: skip
    rows = list(islice(TinyTown().preferences("held-out", seed=1), config.questions))
    texts = []
    for folder in (tuned, other):
        model, tokenizer = hub.load(folder, device=run.device), tokenizers.load(folder)
        asked = [row["messages"] for row in rows]
        texts.append(skill.replies(model, tokenizer, asked, max_tokens=config.max_tokens))
    items = [item for item in zip(rows, *texts, strict=True) if item[1] != item[2]]
    run.say(f"{len(rows)} questions; to {len(rows) - len(items)} of them both models say the same")
    return items


def main(config, run):
    items = answered(config, run)
    demand(items, "both models give the same answers: there is nothing to choose between")
    ballot = Ballot(items, run.folder / "choices.jsonl", config.seed)
    server = serve(ballot, config.port)
    address = f"http://127.0.0.1:{server.server_address[1]}/"
    run.say(f"open {address} in a browser; Ctrl-C ends it, and --resume goes on")
    try:
        if config.robot:
            click(address)
        while not ballot.done.wait(0.2):
            continue
        time.sleep(0.5)  # the page is still being told the result
    finally:
        run.say(ballot.summary())
        server.shutdown()
        server.server_close()
    rate, (low, high) = win_rate(list(ballot.won.values()))
    same, of = ballot.agreement()
    run.finish({"win_rate": rate, "win_low": low, "win_high": high, "rated": len(ballot.won),
                "agreed": same, "of": of}, corpus="tinytown")  # fmt: skip


if __name__ == "__main__":
    script(main, PRESETS)
