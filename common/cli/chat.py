"""Verb chat: a conversation in the terminal, by project 4's script, in a process of its own."""
from common.cli.cards import find
from common.cli.launch import start
from common.cli.measure import module

SFT = "4"
USAGE = ("usage: thirty chat [--model FOLDER] [--system TEXT] [--temperature 0.7] [--max-tokens 96]\n"
         "All fields: thirty run 4 chat --help")


def chat(argv: list[str]) -> int:
    """`chat [--model FOLDER] [--field value ...]`: talk with the newest model of the chain."""
    if {"-h", "--help"} & set(argv):
        print(USAGE)
        return 0
    return start(module(find(SFT), "chat"), argv)
