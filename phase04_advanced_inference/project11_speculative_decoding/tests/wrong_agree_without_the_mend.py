"""Gives the kept guesses alone, without the id that the large model said after them."""


def agree(guesses, drawn):
    kept = 0
    while kept < len(guesses) and guesses[kept] == drawn[kept]:
        kept += 1
    return drawn[: max(1, kept)]
