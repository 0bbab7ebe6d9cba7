"""Forgets the contractions: "it's" is cut before the s, in the text and in no training."""


def piece_starts(text):
    kind = CLASS[text]
    before, after = np.empty_like(kind), np.empty_like(kind)
    before[0], before[1:] = 255, kind[:-1]
    after[-1], after[:-1] = SPACE, kind[1:]
    blank = np.zeros(len(text), bool)
    blank[1:] = text[:-1] == ord(" ")
    white = kind == SPACE
    return (kind != before) & (white | ~blank) | white & (after != SPACE)
