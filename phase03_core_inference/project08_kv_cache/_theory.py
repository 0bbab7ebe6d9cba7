"""What the arithmetic says: operations, bytes and seconds of a step with and without a cache."""

from dataclasses import dataclass

from .gqa import cache_bytes


@dataclass(frozen=True)
class Cost:
    """A model's sizes as they bear on a step. blocks and head: weights that multiply a token."""

    blocks: int
    head: int
    layers: int
    d_attn: int
    kv: int  # bytes of the cache for each token
    weights: int  # bytes read to draw one token

    def flops(self, fed: int, length: int) -> int:
        """Of a forward that feeds `fed` tokens, the last of `length`; the head reads one of them.

        Each of the blocks' weights multiplies and adds for each token; each token looks at those up to
        itself: 4 · d_attn operations for every pair and layer.
        """
        pairs = fed * length - fed * (fed - 1) // 2
        return 2 * self.blocks * fed + 2 * self.head + 4 * self.layers * self.d_attn * pairs

    def attention(self, fed: int, length: int) -> int:
        """The part of `flops` that looks back."""
        return 4 * self.layers * self.d_attn * (fed * length - fed * (fed - 1) // 2)

    def totals(self, prompt: int, new: int) -> tuple[int, int]:
        """Operations of a whole answer: (without a cache, with one)."""
        without = sum(self.flops(prompt + i, prompt + i) for i in range(new))
        steps = sum(self.flops(1, prompt + i) for i in range(1, new))
        return without, self.flops(prompt, prompt) + steps

    def seconds(self, fed: int, length: int, ceilings, cached: bool) -> float:
        """The fewest that the machine allows: operations, or reading weights and cache once, what is more."""
        read = self.weights + (self.kv * length if cached else 0)
        return max(self.flops(fed, length) / ceilings.fp32, read / ceilings.read)

    def bound(self, prompt: int, new: int, ceilings) -> tuple[float, float]:
        """The fewest seconds of a whole answer: (without a cache, with one)."""
        without = sum(self.seconds(prompt + i, prompt + i, ceilings, False) for i in range(new))
        steps = sum(self.seconds(1, prompt + i, ceilings, True) for i in range(1, new))
        return without, self.seconds(prompt, prompt, ceilings, True) + steps


def cost_of(model) -> Cost:
    """The Cost of a model in float32 or whatever its weights are."""
    size, head = model.config, model.head.weight
    blocks = sum(p.numel() for p in model.blocks.parameters() if p.dim() > 1)
    kv = cache_bytes(size, itemsize=head.element_size())
    read = (blocks + head.numel()) * head.element_size()
    return Cost(blocks, head.numel(), size.n_layer, size.n_head * size.head_dim, kv, read)


def published(L: int, G: int) -> float:
    """A formula in circulation, G L / (L + G - 1): it keeps the context at L for ever, and counts nothing
    but attention."""
    return G * L / (L + G - 1)
