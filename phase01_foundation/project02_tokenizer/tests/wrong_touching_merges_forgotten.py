"""Forgets that two merges can touch: the pair they make is never counted."""


def merge_word(word, pair, new):
    first, second = pair
    parts, changes = word.split(pair), []
    for i in range(len(parts) - 1):
        before, after = parts[i][-1:], parts[i + 1][:1]
        if before:
            changes += ((before + first, -1), (before + new, 1))
        if after:
            changes += ((second + after, -1), (new + after, 1))
    return new.join(parts), changes
