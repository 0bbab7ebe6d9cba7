"""Every sentence gets the nearest passage, however far that is: what is made up looks proven."""


def cited(answer, passages, weight=lambda word: 1.0, least=0.6):
    held, found = [words(passage) for passage in passages], []
    for start, end in sentences(answer):
        sentence = answer[start:end]
        shares = [share(words(sentence), one, weight) for one in held]
        found.append((sentence, shares.index(max(shares)) if shares else None))
    return found
