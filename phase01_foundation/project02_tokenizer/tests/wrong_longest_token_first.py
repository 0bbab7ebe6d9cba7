"""Takes the longest token that the text begins with: another segmentation, on which no model was trained."""


def merge_piece(piece, ranks):
    ids = []
    while piece:
        n = next(n for n in range(len(piece), 0, -1) if piece[:n] in ranks)
        ids.append(ranks[piece[:n]])
        piece = piece[n:]
    return ids
