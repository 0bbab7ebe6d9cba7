"""Takes the oldest block wherever it hangs, and what hangs on it is lost without a word."""


class PrefixIndex:
    def evict(self, n_tokens):
        gone = []
        for node in sorted(self.nodes(), key=lambda node: node.used):
            if len(gone) * self.block >= n_tokens:
                break
            if not node.holders:
                del node.parent.children[node.key]
                gone.append(node.handle)
        self.blocks -= len(gone)
        return gone
