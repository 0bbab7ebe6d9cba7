"""Ends with the word assistant: the line break that stood there in training is missing."""


def prompt(messages, tokenizer):
    return [*encode(messages, tokenizer).tokens, marks(tokenizer)[0], *tokenizer.encode("assistant")]
