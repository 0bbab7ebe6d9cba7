"""A long prompt takes the whole step, and the others' texts stop."""


class Scheduler:
    def plan(self):
        work, left = [], self.max_step_tokens
        for one in sorted(self.running.values(), key=lambda one: (-one.pending, one.urgency)):
            n = min(one.pending, left)
            if one.id in self.running and n > 0 and self.make_room(one, n, {x.id for x, _ in work}):
                work.append((one, n))
                left -= n
        while left and (one := self.admit()):
            n = min(one.pending, left)
            work.append((one, n))
            left -= n
        for one, n in work:
            one.trim(n)
            self.waiting.served[one.tenant] += n
        return work
