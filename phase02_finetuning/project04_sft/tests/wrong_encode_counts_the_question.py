"""Counts what the user says as well, so that the model learns to ask."""


def encode(messages, tokenizer):
    demand(messages, "the conversation is empty: give at least one message")
    (start, end), line = marks(tokenizer), tokenizer.encode("\n")
    tokens, counted = [], []
    for message in messages:
        head = tokenizer.encode(message["role"] + "\n")
        said = tokenizer.encode(f"{message['role']}\n{message['content']}")
        tokens += [start, *said, end, *line]
        counted += [False] * (1 + len(head)) + [True] * (len(said) - len(head) + 1) + [False] * len(line)
    return Example(tokens, counted)
