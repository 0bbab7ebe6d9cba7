"""TinyTown: a small town that is made up, whose facts never change, told in as many pages as one asks for.

    town = TinyTown()
    print(next(town.pages()))
"""

from collections.abc import Iterator
from itertools import accumulate, count
from random import Random

from data.town_pages import ASKING, KINDS
from data.town_scene import Scene
from data.town_world import World, seed_of


class TinyTown(World):
    """One town. All that it says is a pure function of its arguments and of the number asked for."""

    def __init__(self, seed: int = 0, population: int = 200, asking: float = 0.15) -> None:
        super().__init__(seed, population)
        kinds = {name: (make, share * (1 - asking) / length) for name, (make, share, length) in KINDS.items()}
        kinds |= {name: (make, share * asking / length) for name, (make, share, length) in ASKING.items()}
        total = sum(weight for _, weight in kinds.values())
        self.bounds = [bound / total for bound in accumulate(weight for _, weight in kinds.values())]
        self.makers = list(zip(kinds, (make for make, _ in kinds.values()), self.bounds, strict=True))

    def page(self, number: int, seed: int = 0) -> str:
        """Page `number` of the stream `seed`."""
        rng = Random(seed_of("page", self.seed, seed, number))
        draw = rng.random()
        make = next(make for _, make, bound in self.makers if draw < bound)
        return make(Scene(self, rng))

    def pages(self, seed: int = 0, start: int = 0) -> Iterator[str]:
        """The pages of a stream from number `start`, without end."""
        return (self.page(number, seed) for number in count(start))
