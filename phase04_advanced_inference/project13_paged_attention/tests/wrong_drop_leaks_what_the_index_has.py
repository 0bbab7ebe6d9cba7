"""What the index alone has is not noticed as idle, so it can never give way: memory leaks."""


class BlockManager:
    def drop(self, blocks):
        for block in blocks:
            demand(self.refs[block] > 0, f"block {block} is free already: given back twice?")
            self.refs[block] -= 1
            if self.refs[block] == 0:
                self.free.append(block)
