"""Break: five ways in which pages go wrong. Each counts blocks that are lost, or texts that are right."""

import random
from unittest.mock import patch

from common.errors import UserError
from phase04_advanced_inference.project10_prompt_caching.prefix_cache import PrefixIndex

from ._lab import plain, served
from .block_manager import BlockManager, blocks_for
from .paged_attention import PagedStore, build_engine


def replaced(name, fn):
    """A context in which a method of the block manager is another one."""
    return patch.object(BlockManager, name, fn)


def forked(lab):
    """Four forks of one text, each drawn with its own seed: the share that is what it is alone."""
    ids = [5 * i % 97 for i in range(13)]
    built = build_engine(lab.lively, blocks=64, size=4, max_batch=5, in_place=False)
    first = built.add(ids, plain(30))
    while len(built.sequences[first].ids) < 14:  # the last block then holds one token of four
        built.step()
    text = list(built.sequences[first].ids)
    samplings = [plain(12, seed=i, temperature=2.0) for i in range(4)]
    forks = {built.fork(first, sampling): sampling for sampling in samplings}
    new = {id: [] for id in forks}
    while built.busy:
        for event in built.step():
            new.get(event.id, []).extend(event.ids)
    alone = build_engine(lab.lively, blocks=64, size=4, max_batch=1, in_place=False)
    right = [list(alone.generate([text], sampling)[0].ids) for sampling in samplings]
    return sum(mine == true for mine, true in zip(new.values(), right, strict=True)) / len(right)


def torn(lab) -> dict:
    """A fork writes into the block that the others read: no copy on write."""

    def reserve(self, id, n):
        table = self.table(id)
        need = blocks_for(n, self.size)
        if not self.make_free(max(0, need - len(table))):
            return False
        table += [self.take() for _ in range(need - len(table))]
        self.held[id] = n
        return True

    found = {"copied": forked(lab)}
    with replaced("reserve", reserve):
        found["not copied"] = forked(lab)
    for name, share in found.items():
        lab.say(f"  {name:11} {share:4.0%} of the forks have the tokens that they have alone")
    return found


def uncounted(lab) -> dict:
    """Who leaves frees its blocks, whoever else reads them."""

    def drop(self, blocks):
        for block in blocks:
            if block not in self.free:
                self.refs[block] = 0
                self.free.append(block)

    found, common = {}, [3 * i % 97 for i in range(24)]
    requests = [([*common, i], 4 + 5 * i) for i in range(6)]
    right = served(PagedStore(lab.lively, 200, 4), lab.lively, requests, max_batch=6)[1]
    for name, fn in {"counted": BlockManager.drop, "not counted": drop}.items():
        with replaced("drop", fn):
            store, index = PagedStore(lab.lively, 60, 4), PrefixIndex(4)
            answers = served(store, lab.lively, requests, max_batch=3, prefix=index)[1]
        found[name] = sum(a == b for a, b in zip(answers, right, strict=True)) / len(right)
        lab.say(f"  {name:12} {found[name]:4.0%} of the texts are right")
    return found


def leak(lab) -> dict:
    """Blocks are taken for the whole prompt, and then the known ones are put in their place."""

    def opened(self, id, ids):
        self.tables[id], self.held[id] = [], 0
        own = [self.take() for _ in range(blocks_for(len(ids), self.size))] if self.make_free(
            blocks_for(len(ids), self.size)) else []  # fmt: skip
        n, blocks = self.prefix.match(ids[:-1])
        self.tables[id], self.held[id] = [*blocks, *own[len(blocks) :]] if own else list(blocks), n
        self.hold(blocks)
        return n

    found, ids = {}, list(range(40))
    for name, fn in {"share, then take": BlockManager.open, "take, then share": opened}.items():
        with replaced("open", fn):
            manager = BlockManager(100, 4)
            manager.prefix = PrefixIndex(4)
            for i in range(12):
                manager.open(i, ids)
                manager.reserve(i, 40)
                manager.keep(i, ids)
                manager.close(i)
        held = 100 - len(manager.free) - len(manager.idle)
        found[name] = float(held)
        lab.say(f"  {name}: after 12 texts, none of which runs any more, {held} of 100 blocks are lost")
    return found


def twice(lab) -> dict:
    """A block that is given back twice is given out twice."""

    def drop(self, blocks):
        for block in blocks:
            self.refs[block] -= 1
            if self.refs[block] <= 0:
                self.refs[block] = 0
                self.free.append(block)

    found = {}
    for name, fn in {"checked": BlockManager.drop, "not checked": drop}.items():
        with replaced("drop", fn):
            manager, said = BlockManager(8, 4), "nothing"
            manager.open(0, [1])
            manager.reserve(0, 4)
            table = list(manager.tables[0])
            manager.close(0)
            try:
                manager.drop(table)
            except UserError as error:
                said = str(error)
            manager.open(1, [1])
            manager.open(2, [1])
            manager.reserve(1, 4)
            manager.reserve(2, 4)
        common = set(manager.tables[1]) & set(manager.tables[2])
        found[name] = float(len(common))
        lab.say(f"  {name}: it says {said!r}; two strangers have {len(common)} blocks in common")
    return found


def moved(lab) -> dict:
    """Blocks are moved together to tidy up, and one of two owners is not told."""
    found = {}
    for name, tell in {"all told": True, "one told": False}.items():
        rng, manager = random.Random(0), BlockManager(16, 4)
        pages = [None] * 16
        manager.open(0, range(8))
        manager.reserve(0, 4)  # a block that will be free
        manager.open(1, range(8))
        manager.reserve(1, 8)
        for block in manager.tables[1]:
            pages[block] = f"text {rng.randrange(100)}"
        manager.fork(1, 2)
        right = [pages[block] for block in manager.tables[2]]
        manager.close(0)
        source, target = manager.tables[1][-1], manager.take()
        pages[target], pages[source] = pages[source], "somebody else's"
        for id in (1, 2) if tell else (1,):
            manager.tables[id] = [target if block == source else block for block in manager.tables[id]]
        found[name] = float([pages[block] for block in manager.tables[2]] == right)
        lab.say(f"  {name}: the other owner reads {'its own text' if found[name] else 'what is not its own'}")
    return found


def mixed(lab) -> dict:
    """A block is found by its own tokens, not by all that come before them."""

    class Loose(PrefixIndex):
        """Knows blocks by what is in them alone."""

        def __init__(self, block):
            super().__init__(block)
            self.known = {}

        def match(self, ids):
            found = []
            for key in self.keys(ids):
                if key not in self.known:
                    break
                found.append(self.known[key])
            return len(found) * self.block, found

        def insert(self, ids, handles):
            pairs = list(zip(self.keys(ids), handles, strict=True))
            taken = [handle for key, handle in pairs if key not in self.known]
            self.known |= {key: handle for key, handle in pairs if key not in self.known}
            return taken

    rng, found = random.Random(0), {}
    question = [rng.randrange(97) for _ in range(8)]
    texts = [[rng.randrange(97) for _ in range(8)] + question + [1] for _ in range(6)]
    texts += [question + text[:8] + [1] for text in texts]
    requests = [(ids, 12) for ids in texts]
    right = served(PagedStore(lab.lively, 200, 4), lab.lively, requests, max_batch=1)[1]
    for name, index in {"all that comes before": PrefixIndex, "its own tokens": Loose}.items():
        store = PagedStore(lab.lively, 200, 4)
        answers = served(store, lab.lively, requests, max_batch=1, prefix=index(4))[1]
        found[name] = sum(a == b for a, b in zip(answers, right, strict=True)) / len(right)
        lab.say(f"  a block is known by {name:22} {found[name]:4.0%} of the texts are right")
    return found
