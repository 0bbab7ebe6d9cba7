"""Where two merges touch, counts the pair between them from both sides."""


def merge_word(word, pair, new):
    first, second = pair
    parts, changes = word.split(pair), []
    for i in range(len(parts) - 1):
        before, after = parts[i][-1:], parts[i + 1][:1]
        if before or i > 0:
            changes += (((before or second) + first, -1), ((before or new) + new, 1))
        if after or i + 2 < len(parts):
            changes += ((second + (after or first), -1), (new + (after or new), 1))
    return new.join(parts), changes
