"""Reads the last places of the padded row, and not those of the text's own tokens."""


def play(model, caches, draft, texts):
    draft.propose(texts)
    for text in texts:
        text.guesses = text.guesses[: text.row.left - 1]
    work = [(text.id, text.held, text.ids[text.held :] + text.guesses) for text in texts]
    hidden, taken = feed(model, caches, work), []
    for x, text in zip(hidden, texts, strict=True):
        own = x[-1 - len(text.guesses) :]
        known = len(text.ids)
        for id in draft.verify(text, model.head(own)):
            text.ids.append(id)
            text.row.push(id, None)
            if text.row.finish:
                break
        taken.append(len(text.ids) - known)
        text.held, text.guesses = len(text.ids) - 1, []
        draft.close(text.id) if text.row.finish else draft.note(text, own[taken[-1] - 1])
    return taken
