"""Compares hashes and not tokens: prompts of one hash share their keys and values."""


class PrefixIndex:
    def walk(self, ids):
        node, found = self.root, []
        for key in self.keys(ids):
            node = {hash(k): child for k, child in node.children.items()}.get(hash(key))
            if node is None:
                break
            found.append(node)
        return found
