"""Leaves out the head of the answer: the model must first guess who speaks."""


def prompt(messages, tokenizer):
    return encode(messages, tokenizer).tokens
