"""The verb chat: it starts project 4's conversation and hands on what was typed."""

import pytest

from common.cli import chat
from common.cli.__main__ import verbs
from common.cli.cards import find


def test_chat_starts_the_conversation_of_project_4(monkeypatch):
    started = []
    monkeypatch.setattr(chat, "start", lambda module, args: started.append((module, args)) or 7)
    assert chat.chat(["--model", "some folder", "--temperature", "0.7"]) == 7
    card = find("sft")
    assert started == [(f"{card.module}.chat", ["--model", "some folder", "--temperature", "0.7"])]
    assert card.number == 4 and (card.folder / "chat.py").is_file()


@pytest.mark.parametrize("verb", ["chat"])
def test_chat_is_offered(verb):
    assert verbs()[verb][0] == "chat"
