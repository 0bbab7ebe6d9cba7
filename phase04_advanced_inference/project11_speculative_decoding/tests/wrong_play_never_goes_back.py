"""Counts all that was fed as held, wrong guesses too: no rollback."""


def play(model, caches, draft, texts):
    draft.propose(texts)
    for text in texts:
        text.guesses = text.guesses[: text.row.left - 1]
    work = [(text.id, text.held, text.ids[text.held :] + text.guesses) for text in texts]
    hidden, taken = feed(model, caches, work), []
    for x, text, (_, _, fed) in zip(hidden, texts, work, strict=True):
        own = x[len(fed) - 1 - len(text.guesses) : len(fed)]
        known, most = len(text.ids), text.held + len(fed)
        for id in draft.verify(text, model.head(own)):
            text.ids.append(id)
            text.row.push(id, None)
            if text.row.finish:
                break
        taken.append(len(text.ids) - known)
        text.held, text.guesses = min(most, len(text.ids) + 1), []
        draft.close(text.id) if text.row.finish else draft.note(text, own[taken[-1] - 1])
    return taken
