"""Takes the first join that has a rank instead of the one with the lowest rank."""


def merge_piece(piece, ranks):
    parts, i = [piece[i : i + 1] for i in range(len(piece))], 0
    while i < len(parts) - 1:
        if parts[i] + parts[i + 1] in ranks:
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
            i = 0
        else:
            i += 1
    return [ranks[part] for part in parts]
