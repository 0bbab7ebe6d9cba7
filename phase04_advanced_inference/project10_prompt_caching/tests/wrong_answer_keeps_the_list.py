"""Keeps the very list that was computed: whoever has it can change the cache."""


class ExactCache:
    def answer(self, ids, sampling, compute):
        key = key_of(ids, sampling, self.model)
        found = None if key is None else self.store.get(key)
        self.rate.add(found is not None)
        if found is not None:
            return found
        answer = compute()
        if key is not None:
            self.store.put(key, answer, len(ids) + len(answer))
        return answer
