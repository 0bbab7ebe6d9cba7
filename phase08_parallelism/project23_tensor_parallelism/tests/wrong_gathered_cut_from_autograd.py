"""Gathers behind autograd's back: nothing flows to the shard."""


class Sharded:
    def gathered(self, shard):
        flat = self.group.all_gather(shard.detach(), 0)
        sizes = [shape.numel() for shape in self.shapes.values()]
        parts = flat[: sum(sizes)].split(sizes)
        return {
            name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)
        }
