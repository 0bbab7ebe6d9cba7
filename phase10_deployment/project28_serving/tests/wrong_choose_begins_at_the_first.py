"""Taking turns begins at the first server every time."""


class Router:
    def choose(self, key, tried=()):
        names = list(self.load)
        left = [name for name in names if self.alive[name] and name not in tried]
        if not left:
            return None
        if self.policy == "least":
            return min(left, key=self.load.get)
        if self.policy == "round":
            return left[0]
        living = [name for name in names if self.alive[name]]
        most = -(-self.ring.slack * (sum(self.load[name] for name in living) + 1) // len(living))
        path = [name for name in self.ring.walk(key) if name in left]
        return next((name for name in path if self.load[name] < most), path[0])
