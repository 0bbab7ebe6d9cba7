"""What is free can be given back again, and will be given out twice."""


class BlockManager:
    def drop(self, blocks):
        for block in blocks:
            self.refs[block] -= 1
            if self.refs[block] <= 0:
                self.refs[block] = 0
                self.free.append(block)
            elif self.refs[block] == 1 and block in self.cached:
                self.idle.add(block)
