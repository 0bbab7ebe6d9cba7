"""Takes an empty answer for no answer, and computes it each time."""


class ExactCache:
    def answer(self, ids, sampling, compute):
        key = key_of(ids, sampling, self.model)
        found = self.store.get(key) if key else None
        self.rate.add(bool(found))
        if found:
            return found
        answer = tuple(compute())
        if key:
            self.store.put(key, answer, len(ids) + len(answer))
        return answer
