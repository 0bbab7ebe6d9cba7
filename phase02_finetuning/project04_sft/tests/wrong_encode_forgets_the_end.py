"""Does not count <|im_end|>, so that the model never learns to stop."""


def encode(messages, tokenizer):
    demand(messages, "the conversation is empty: give at least one message")
    (start, end), line = marks(tokenizer), tokenizer.encode("\n")
    tokens, counted = [], []
    for message in messages:
        head, answer = f"{message['role']}\n", message["role"] == "assistant"
        said = tokenizer.encode(head + message["content"])
        reach = accumulate(len(tokenizer.token_bytes(i)) for i in said)
        tokens += [start, *said, end, *line]
        counted += [False, *(answer and place > len(head.encode()) for place in reach), False]
        counted += [False] * len(line)
    return Example(tokens, counted)
