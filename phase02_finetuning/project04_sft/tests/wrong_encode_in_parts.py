"""Encodes head and content apart: what the tokenizer would merge across the two stays in two."""


def encode(messages, tokenizer):
    demand(messages, "the conversation is empty: give at least one message")
    (start, end), line = marks(tokenizer), tokenizer.encode("\n")
    tokens, counted = [], []
    for message in messages:
        head, said = tokenizer.encode(f"{message['role']}\n"), tokenizer.encode(message["content"])
        answer = message["role"] == "assistant"
        tokens += [start, *head, *said, end, *line]
        counted += [False] * (1 + len(head)) + [answer] * (len(said) + 1) + [False] * len(line)
    return Example(tokens, counted)
