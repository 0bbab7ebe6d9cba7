"""A plain ring: a beginning that everybody has drowns one server."""


class Router:
    def choose(self, key, tried=()):
        left = [name for name in self.load if self.alive[name] and name not in tried]
        if not left:
            return None
        if self.policy == "least":
            return min(left, key=self.load.get)
        if self.policy == "round":
            names = list(self.load)
            found = next(i for i in range(self.turn, self.turn + len(names)) if names[i % len(names)] in left)
            self.turn = (found + 1) % len(names)
            return names[found % len(names)]
        return next(name for name in self.ring.walk(key) if name in left)
