"""Evicts blocks that a request is reading."""


class PrefixIndex:
    def evict(self, n_tokens):
        gone = []
        while len(gone) * self.block < n_tokens and self.blocks:
            node = min((n for n in self.nodes() if not n.children), key=lambda n: n.used)
            del node.parent.children[node.key]
            gone.append(node.handle)
            self.blocks -= 1
        return gone
