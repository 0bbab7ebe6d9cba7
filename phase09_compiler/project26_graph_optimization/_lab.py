"""What the scripts share: a model, a text, clocks, processes in which memory can be told apart."""

import sys
import time

import torch

from common import hub, tokenizer
from common.cli import chain, explore
from common.errors import demand
from common.model import GPT, ModelConfig
from data.tinytown import TinyTown
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for

SIZES = {  # 8 blocks, a vocabulary of 10,000
    "10M": {"d_model": 256, "d_ff": 688, "n_head": 4, "n_kv_head": 2},
    "30M": {"d_model": 512, "d_ff": 1376, "n_head": 8, "n_kv_head": 4},
}


def built(name, **more):
    """A random model of SIZES, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return GPT(ModelConfig(n_layer=8, **{**SIZES[name], **more})).eval()


class Steps:
    """One decode step of a model behind `held` tokens, ready to be repeated: call(step) -> logits (V,)."""

    def __init__(self, model, size, held):
        device = model.embed.weight.device
        self.model, self.caches = model, caches_for(model, StaticCache, 1, size)
        draw = torch.Generator().manual_seed(0)
        self.ids = torch.randint(model.config.vocab_size, (1, held + 1), generator=draw).to(device)
        self.positions = torch.arange(held + 1, device=device)[None]
        with torch.no_grad():
            model(self.ids[:, :held], positions=self.positions[:, :held], caches=self.caches)

    @torch.no_grad()
    def __call__(self, step):
        """Logits of the last token; the cache holds the same afterwards as before."""
        return step(self.ids[:, -1:], positions=self.positions[:, -1:], caches=self.caches)[0, -1]


def fastest(call, seconds=0.5, least=5):
    """Seconds of a call, the shortest of those that fit: who else is at work only ever adds."""
    call()
    best, began, runs = float("inf"), time.perf_counter(), 0
    while runs < least or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        call()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best


def paced(stack, ids):
    """(logits (n, V) behind each of n ids, seconds of each step of the second half), from an empty cache."""
    stack.begin()
    logits, seconds = [], []
    for at, token in enumerate(ids):
        start = time.perf_counter()
        found = stack.step(token, at)
        seconds.append(time.perf_counter() - start)
        logits.append(found.double().clone())
    return torch.stack(logits), seconds[len(ids) // 2 :]


def weight_bytes(model):
    """Bytes of weights that a step reads: all but the embedding, of which it reads one row."""
    tied = model.config.tie_embeddings
    return sum(p.nbytes for p in model.parameters()) - (0 if tied else model.embed.weight.nbytes)


def resident():
    """Bytes of memory that this process holds now; None where the system does not say."""
    if not sys.platform.startswith("linux"):
        return None
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


class Lab(explore.Album):
    """The model of the chain, its words, and a text that it knows."""

    def __init__(self, config, run):
        self.config, self.run, self.say, self.device = config, run, run.say, run.device
        demand(
            run.device.type == "cpu", "the parts look at a CPU: add --device cpu; the bench has GPU claims"
        )
        self.place = chain.find("base", config.model, say=run.say)
        self.model, self.words = hub.load(self.place).eval(), tokenizer.load(self.place)
        most = self.model.config.max_seq_len
        demand(config.size <= most, f"a cache of {config.size} slots is longer than the {most} tokens that "
               "this model reads")  # fmt: skip
        self.folder = run.folder / "files"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.put_words()

    def put_words(self):
        """The tokenizer beside the files, where llama.cpp's stack looks for it."""
        (self.folder / "words").mkdir(exist_ok=True)
        self.words.save(self.folder / "words")

    def text(self, n):
        """n ids of TinyTown."""
        return self.words.encode(TinyTown().text(10 * n + 200))[:n]

    def steps(self, held=None):
        return Steps(self.model, self.config.size, self.config.size // 2 if held is None else held)

    def steps_of(self, size):
        """Steps at the end of a cache of so many slots; a context that the model never learned still has a
        time."""
        return Steps(self.model, size, size - 1)
