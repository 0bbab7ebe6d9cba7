"""Encodes the whole text with special tokens allowed: a user can write the end of a turn."""


def encode(messages, tokenizer):
    demand(messages, "the conversation is empty: give at least one message")
    tokens, counted = [], []
    for message in messages:
        text = f"<|im_start|>{message['role']}\n{message['content']}<|im_end|>\n"
        ids = tokenizer.encode(text, allowed_special="all")
        head = len(tokenizer.encode(f"<|im_start|>{message['role']}\n", allowed_special="all"))
        answer = message["role"] == "assistant"
        tokens += ids
        counted += [answer and head <= i < len(ids) - 1 for i in range(len(ids))]
    return Example(tokens, counted)
