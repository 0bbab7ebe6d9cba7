"""The heap is the wrong way round: what was used just now goes first."""


class PrefixIndex:
    def evict(self, n_tokens):
        gone = []
        while len(gone) * self.block < n_tokens:
            spare = [node for node in self.nodes() if not node.children and not node.holders]
            if not spare:
                break
            node = max(spare, key=lambda node: node.used)
            del node.parent.children[node.key]
            gone.append(node.handle)
            self.blocks -= 1
        return gone
