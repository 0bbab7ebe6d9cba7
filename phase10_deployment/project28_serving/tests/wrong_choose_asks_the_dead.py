"""Nobody looks whether a server is alive."""


class Router:
    def choose(self, key, tried=()):
        names = list(self.load)
        left = [name for name in names if name not in tried]
        if not left:
            return None
        if self.policy == "least":
            return min(left, key=self.load.get)
        if self.policy == "round":
            found = next(i for i in range(self.turn, self.turn + len(names)) if names[i % len(names)] in left)
            self.turn = (found + 1) % len(names)
            return names[found % len(names)]
        most = -(-self.ring.slack * (sum(self.load.values()) + 1) // len(names))
        path = [name for name in self.ring.walk(key) if name in left]
        return next((name for name in path if self.load[name] < most), path[0])
