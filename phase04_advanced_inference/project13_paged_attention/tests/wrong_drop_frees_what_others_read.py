"""Who leaves frees its blocks, whoever else has them: the reference count is not looked at."""


class BlockManager:
    def drop(self, blocks):
        for block in blocks:
            demand(self.refs[block] > 0, f"block {block} is free already: given back twice?")
            self.refs[block] = 0
            self.free.append(block)
