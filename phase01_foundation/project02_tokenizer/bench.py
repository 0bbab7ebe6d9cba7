"""Measure the tokenizer: training against `tokenizers`, encoding against `tokenizers` and `tiktoken`,
memory against the text."""

import os
import subprocess
import sys

import regex
import tiktoken

from common.benchmark import values
from common.cli.bench import bench
from common.cli.paths import ROOT
from data import corpora

from .fast_bpe import BPE, cut, train
from .regex_bpe import GPT2_PATTERN, RegexBPE
from .vector_bpe import VectorBPE

# In a process of its own, where nothing else has made the memory grow: the text line by line, then what the
# process held at most. The peak is reset first, as Linux counts that of the parent too.
MEMORY = """
import sys, torch
from common.device import peak_memory, reset_peak
from phase01_foundation.project02_tokenizer.fast_bpe import train
cpu = torch.device("cpu")
reset_peak(cpu)
start = peak_memory(cpu)
train(open(sys.argv[1], encoding="utf-8"), int(sys.argv[2]))
print(peak_memory(cpu) - start)
"""


def corpus(b):
    """(text, its name): WikiText-2's validation and test text, as published figures have it; else the
    Python manual."""
    size = b.pick(smoke=60_000, quick=3_000_000, full=3_000_000)
    name = "wikitext" if corpora.resolve("wikitext/valid", say=b.say) == "wikitext/valid" else "python-manual"
    parts = ["wikitext/valid", "wikitext/test"] if name == "wikitext" else ["python-manual"]
    return "".join(corpora.load(part) for part in parts)[:size], name


def their_trainer(text, size):
    """The `tokenizers` library on one thread, learning the same merges: a function that returns them, in
    order."""
    os.putenv("RAYON_NUM_THREADS", "1")  # read when its first thread pool is made
    os.putenv("TOKENIZERS_PARALLELISM", "false")
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    def learn():
        model = Tokenizer(models.BPE())
        model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        options = {"min_frequency": 2, "initial_alphabet": alphabet, "show_progress": False}
        trainer = trainers.BpeTrainer(vocab_size=size, **options)
        model.train_from_iterator([text], trainer)
        return model

    return learn


def n_merges(model):
    """How many merges a trained tokenizer has, ours or the library's; that they are the same ones is a
    test's business."""
    return len(model) if isinstance(model, BPE) else model.get_vocab_size()


def bench_training(b, text, name, size):
    """10,000 ids learned by both, on one thread each."""
    settings = {"corpus": name, "bytes": len(text.encode()), "vocab_size": size}
    claim = {"sentence": f"{size} ids are learned in at most twice the time of `tokenizers` on one thread",
             "unit": "s", "better": "lower", "goal": ("<=", 2.0), "headline": True}
    if not b.library("tokenizers"):
        b.not_run("training", claim.pop("sentence"), why="tokenizers is not installed", **claim)
        return
    sides = {"tokenizers, 1 thread": their_trainer(text, size), "fast_bpe": lambda: train(text, size)}
    run = b.compare(sides, check=lambda a, c: n_merges(a) == n_merges(c), memory=False)
    b.claim("training", claim.pop("sentence"), measured=run.figures("fast_bpe"), settings=settings,
            why="half of it is the splitter, half the merges: see the profile", **claim)


def bench_naive(b, text):
    """What the incremental counts save, where rung 3 can still be waited for."""
    size = b.pick(smoke=270, quick=300, full=356)
    part = text[: b.pick(smoke=5_000, quick=30_000, full=100_000)]
    sides = {
        "regex_bpe": lambda: RegexBPE.train(part, size).vocab,
        "fast_bpe": lambda: train(part, size).vocab,
    }
    run = b.compare(sides, check=lambda a, c: a == c, memory=False)
    sentence = f"{size - 256} merges on {len(part):,} characters, at least 10 times as fast as counting anew"
    b.claim("incremental", sentence, unit="merges/s", better="higher", goal=(">=", 10),
            measured=run.figures("fast_bpe", work=size - 256))


def bench_encoding(b, text, bpe):
    """Encoding by the rungs and by the libraries: from nothing known ("cold"), and a text whose words are
    known ("warm")."""
    work = len(text.encode()) / 1e6
    theirs = tiktoken.Encoding("ours", pat_str=GPT2_PATTERN, mergeable_ranks=bpe.ranks, special_tokens={})
    expected = theirs.encode_ordinary(text)
    fast, vector = BPE(bpe.ranks), VectorBPE(bpe.ranks)
    for known in (fast, vector, vector):  # a second time for the table, which learns in steps
        known.encode(text)
    sides = {
        "tiktoken": lambda: theirs.encode_ordinary(text),
        "fast_bpe, cold": lambda: BPE(bpe.ranks).encode(text),
        "fast_bpe, warm": lambda: fast.encode(text),
        "vector_bpe, warm": lambda: vector.encode(text),
        "the splitter alone": lambda: (regex.findall(GPT2_PATTERN, text), expected)[1],
    }
    if b.library("tokenizers"):
        library, lines = their_encoder(bpe), list(cut([text], size=150))  # it is fastest on short pieces
        sides["tokenizers"] = lambda: [i for line in library.encode_batch_fast(lines) for i in line.ids]
    run = b.compare(sides, check=lambda a, c: a == c, memory=False)
    bound = run.sides["tiktoken"].median / run.sides["the splitter alone"].median
    rate = {"unit": "MB/s", "better": "higher"}
    b.claim("encoding-vector", "A splitter in NumPy encodes known words at least as fast as tiktoken", **rate,
            goal=(">=", 1.0), measured=run.figures("vector_bpe, warm", work=work),
            why="the regular expression of the other rungs is gone; see vector_bpe.py")
    b.claim("encoding-tiktoken", "fast_bpe encodes known words at least half as fast as tiktoken", **rate,
            goal=(">=", 0.5), bound=bound, measured=run.figures("fast_bpe, warm", work=work),
            why="the bound is Python's regular expression alone")
    for state, goal in (("cold", 1.0), ("warm", 3.0)):
        sentence = f"fast_bpe, {state}, is at least {goal:g} times as fast as encode_batch_fast"
        given = {**rate, "goal": (">=", goal)}
        if "tokenizers" in sides:
            figures = run.figures(f"fast_bpe, {state}", baseline="tokenizers", work=work)
            b.claim(f"encoding-{state}", sentence, measured=figures, **given)
        else:
            b.not_run(f"encoding-{state}", sentence, why="tokenizers is not installed", **given)


def their_encoder(bpe):
    """The `tokenizers` library with our merges, from the file that we save, splitting by its own built-in
    pattern."""
    from tempfile import TemporaryDirectory

    from tokenizers import Tokenizer, pre_tokenizers

    with TemporaryDirectory() as folder:
        BPE(bpe.ranks).save(folder)
        model = Tokenizer.from_file(f"{folder}/tokenizer.json")
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # faster than one's own pattern
    return model


def bench_memory(b, text, size):
    """How far training makes a fresh process grow, in sizes of the text."""
    claim = {"sentence": "Training grows the process by at most ten times the text", "unit": "times the text",
             "better": "lower", "goal": ("<=", 10.0)}
    from tempfile import NamedTemporaryFile

    with NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        command = [sys.executable, "-c", MEMORY, file.name, str(size)]
        grown = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    times = int(grown.stdout) / len(text.encode())
    b.claim("memory", claim.pop("sentence"), measured=values("fast_bpe", [times]), **claim)


def main(b):
    text, name = corpus(b)
    size = b.pick(smoke=400, quick=9996, full=9996)
    bench_training(b, text, name, size)
    bench_naive(b, text)
    bench_encoding(b, text, train(text, size))
    bench_memory(b, text, size)


def profiled(b):
    text, _ = corpus(b)
    return lambda: train(text, 9996).encode(text)


if __name__ == "__main__":
    bench(main, profiled)
