"""Every word counts alike, and the passage's repeats, too: a passage that says one name often wins."""


def cited(answer, passages, weight=lambda word: 1.0, least=0.6):
    held, found = [words(passage) for passage in passages], []
    for start, end in sentences(answer):
        sentence = answer[start:end]
        said = words(sentence)
        shares = [sum(word in said for word in one) / max(1, len(said)) for one in held]
        best = max(range(len(shares)), key=shares.__getitem__, default=None)
        found.append((sentence, best if best is not None and shares[best] >= least else None))
    return found
