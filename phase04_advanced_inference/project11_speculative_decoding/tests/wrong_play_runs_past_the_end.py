"""Takes the whole verdict, also what comes after the end of the answer."""


def play(model, caches, draft, texts):
    draft.propose(texts)
    for text in texts:
        text.guesses = text.guesses[: text.row.left - 1]
    work = [(text.id, text.held, text.ids[text.held :] + text.guesses) for text in texts]
    hidden, taken = feed(model, caches, work), []
    for x, text, (_, _, fed) in zip(hidden, texts, work, strict=True):
        own, finish = x[len(fed) - 1 - len(text.guesses) : len(fed)], None
        known = len(text.ids)
        for id in draft.verify(text, model.head(own)):
            text.ids.append(id)
            text.row.push(id, None)
            finish = finish or text.row.finish
        text.row.finish = finish
        taken.append(len(text.ids) - known)
        text.held, text.guesses = len(text.ids) - 1, []
        draft.close(text.id) if text.row.finish else draft.note(text, own[taken[-1] - 1])
    return taken
