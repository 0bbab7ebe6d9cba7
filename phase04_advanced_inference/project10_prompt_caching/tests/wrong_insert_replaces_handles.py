"""Puts the new handle over the old one: who reads the old block loses it."""


class PrefixIndex:
    def insert(self, ids, handles):
        keys, node, path = self.keys(ids), self.root, []
        demand(len(handles) == len(keys), f"{len(handles)} handles for {len(keys)} whole blocks")
        for key, handle in zip(keys, handles, strict=True):
            if key not in node.children:
                node.children[key] = Node(key, handle, node)
                self.blocks += 1
            node = node.children[key]
            node.handle = handle
            path.append(node)
        self.touch(path)
        return list(handles)
