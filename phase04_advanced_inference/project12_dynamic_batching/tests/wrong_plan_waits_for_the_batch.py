"""Static batching: nobody is admitted while anybody runs."""


class Scheduler:
    def plan(self):
        work, left = [], self.max_step_tokens
        if not self.running:
            while len(self.running) < self.max_batch and self.admit():
                pass
        for one in sorted(self.running.values(), key=lambda one: (one.pending > 1, one.urgency)):
            n = min(one.pending, left)
            if one.id in self.running and n > 0 and self.make_room(one, n, {x.id for x, _ in work}):
                work.append((one, n))
                left -= n
        for one, n in work:
            one.trim(n)
            self.waiting.served[one.tenant] += n
        return work
