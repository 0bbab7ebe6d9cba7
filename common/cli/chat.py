"""Verb chat: a conversation in the terminal, by project 4's script, in a process of its own."""
from common.cli.cards import find
from common.cli.launch import start
from common.cli.measure import module

SFT = "4"


def chat(argv: list[str]) -> int:
    """`chat [--model FOLDER] [--field value ...]`: talk with the newest model of the chain."""
    return start(module(find(SFT), "chat"), argv)
