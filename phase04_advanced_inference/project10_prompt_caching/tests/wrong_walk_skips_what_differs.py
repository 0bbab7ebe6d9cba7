"""Goes on behind a block that differs: keys of another beginning are reused."""


class PrefixIndex:
    def walk(self, ids):
        by_key = {node.key: node for node in self.nodes()}
        return [by_key[key] for key in self.keys(ids) if key in by_key]
