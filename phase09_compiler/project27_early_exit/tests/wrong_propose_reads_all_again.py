"""Every round the whole text is fed anew, and the states stand at the wrong places."""


class EarlyDraft:
    def propose(self, texts):
        going, self.states = may_guess(texts, self.K), {}
        wanted = {text.id: n for text, n in going}
        self.q = {text.id: [] for text, _ in going}
        for text, _ in going:
            text.guesses = []
        work = [(text.id, 0, text.ids) for text, _ in going]
        texts = [text for text, _ in going]
        while texts:
            x = feed(self.model, self.caches, work)
            for row, (id, _, fed) in zip(x, work, strict=True):
                self.states.setdefault(id, []).append(row[: len(fed)])
            last = x[range(len(work)), [len(fed) - 1 for _, _, fed in work]]
            self.guess(texts, self.model.head(last))
            work = [
                (text.id, start + len(fed), text.guesses[-1:])
                for text, (_, start, fed) in zip(texts, work, strict=True)
            ]
            more = [i for i, text in enumerate(texts) if len(text.guesses) < wanted[text.id]]
            texts, work = [texts[i] for i in more], [work[i] for i in more]
        self.states = {id: torch.cat(rows) for id, rows in self.states.items()}
        self.q = {id: torch.stack(q) for id, q in self.q.items() if q}
