"""The project as a whole: its scripts, its technique in use, bad input, accumulation, several processes,
kill."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoint, hub
from common import tokenizer as tokenizers
from common.cli import chain
from common.errors import UserError
from common.model import GPT
from common.progress import read_history
from common.proofs import prove
from common.ranks import spawn
from common.testing import tiny
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from data import loader
from phase01_foundation.project03_pretrain import (
    _build,
    _text,
    evaluate,
    objectives,
    optimizers,
    train,
)

ROOT = Path(__file__).resolve().parents[3]
SMALL = train.Config(
    corpus="own.txt", characters=0, tokens=3 * 4 * 16, n_layer=1, n_head=2, n_kv_head=1, d_model=16, d_ff=24,
    context=16, batch_size=4, vocab_size=270, evals=3, save=False, precision="fp32",
    optimizer="adamw")  # fmt: skip


def fitted(config, folder, text=None, say=lambda line: None):
    """(model, history) of a run in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    text = text or train.prepare(config, folder, say)
    return train.fit(config, text, torch.device("cpu"), folder / "run", say=say)


def losses(history):
    return [row["loss"] for row in history.train]


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# ---- the scripts ----

TINY = ("--corpus", "tinytown,own.txt", "--tokens", 2000, "--characters", 40_000)


def test_smoke(home, capsys):
    """Train, then evaluate: a model folder with its card, a report, a picture; every number of the
    report."""
    run(train, "smoke", *TINY, "--save")
    said, folder = capsys.readouterr().out, home / "runs" / "project03_pretrain" / "smoke"
    for words in ("no tokenizer in", "tokens to train on", "tokens/s", "SD about the slope", "bits per byte",
                  "never asked in training", "strangers", "a sample", "smoke does not apply"):  # fmt: skip
        assert words in said, f"the run did not say {words!r}"
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    found = metrics(folder)
    assert found["perplexity"] == pytest.approx(np.exp(found["val_loss"]))
    card = json.loads((home / "models" / "base" / "card.json").read_text())
    tokenizer = tokenizers.load(home / "models" / "base")
    model = hub.load(home / "models" / "base")
    assert card["parameters"] == sum(p.numel() for p in model.parameters()) == found["parameters"]
    assert model.config.vocab_size == tokenizer.vocab_size
    assert tokenizer.sha256 in json.dumps(card)
    run(evaluate, "smoke", "--corpora", "tinytown,own.txt", "--questions", 5)
    said = capsys.readouterr().out
    assert "tinytown" in said and "own.txt" in said and "knowledge plain" in said


def test_evaluate_without_a_base_takes_a_stand_in(home, capsys, monkeypatch):
    """Nothing trained yet: a tiny model is made and judged. A corpus that is not here is named."""
    monkeypatch.setenv("THIRTY_OFFLINE", "1")
    monkeypatch.delenv("THIRTY_DATA", raising=False)
    monkeypatch.setattr(chain, "stand_in", lambda link, say: model_folder(home / link))
    run(evaluate, "smoke", "--questions", 0, "--corpora", "own.txt,ptb/test", "--tokens", 300)
    said = capsys.readouterr().out
    assert re.search(r"own.txt .*\d", said)
    assert re.search(r"ptb/test +not here", said)


LESSON = Path(train.__file__).parent / "README.md"


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 3 …` and `explore 3 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 10


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true."""
    assert len(snippets(LESSON)) == 1


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)


PARTS = [
    ("adamw", optimizers.ForeachAdamW.update_all), ("muon", optimizers.ForeachAdamW.update_all),
    ("muon", optimizers.Muon.update), ("muon", optimizers.orthogonalise), ("lion", optimizers.Lion.update),
    ("ademamix", optimizers.AdEMAMix.update), ("adamw", objectives.CausalLM.forward),
    ("adamw", objectives.token_loss)]  # fmt: skip


@pytest.mark.parametrize("name, part", PARTS)
def test_is_on(name, part, home):
    """A technique that raises makes the run fail: the run really uses what the learner wrote."""
    text = train.prepare(SMALL, home, lambda line: None)
    with unplugged(part):
        fitted(replace(SMALL, optimizer=name), home / name, text)


# ---- the same, however it is computed ----


def test_matches_a_plain_loop_with_torch_adamw(home):
    """The run gives the weights that twenty lines of plain torch give: same batches, schedule, clip and
    decay."""
    config = replace(SMALL, tokens=8 * 4 * 16)
    text = train.prepare(config, home, lambda line: None)
    ours, history = fitted(config, home, text)
    settings = config.train_config(torch.device("cpu"))
    train.seed_all(config.seed)
    model = _build.build(config, text.tokenizer.vocab_size)
    groups = [{"params": [p for p in model.parameters() if p.dim() > 1]},
              {"params": [p for p in model.parameters() if p.dim() == 1], "weight_decay": 0.0}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    expected = []
    for step in range(config.steps):
        x, y = text.train.batch(config.seed, step, batch_size=4, context=16)
        loss = torch.nn.functional.cross_entropy(model(x).flatten(0, 1), y.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = train_rate(step, settings)
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert losses(history) == pytest.approx(expected, abs=1e-5)
    assert (weights(ours) - weights(model)).abs().max() < 1e-5


def train_rate(step, settings):
    """The schedule again, from its description: linear warm-up, then half a cosine."""
    if step < settings.warmup:
        return settings.learning_rate * (step + 1) / (settings.warmup + 1)
    part = (step - settings.warmup) / (settings.steps - settings.warmup)
    low, high = settings.min_learning_rate, settings.learning_rate
    return low + (high - low) * (1 + np.cos(np.pi * part)) / 2


def test_matches_the_large_batch_when_accumulated(home):
    """Four micro-batches of one sequence give the weights and losses of one batch of four."""
    text = train.prepare(SMALL, home, lambda line: None)
    whole, once = fitted(SMALL, home / "once", text)
    parts, four = fitted(replace(SMALL, accumulate=4), home / "four", text)
    assert losses(four) == pytest.approx(losses(once), abs=1e-6)
    assert (weights(parts) - weights(whole)).abs().max() < 1e-6


def test_recomputed_blocks_change_nothing_but_memory(home):
    """With checkpointing the weights after training are the same bit for bit, and the blocks are
    recomputed."""
    text = train.prepare(SMALL, home, lambda line: None)
    plain, _ = fitted(SMALL, home / "plain", text)
    saved, _ = fitted(replace(SMALL, checkpointing=True), home / "saved", text)
    assert torch.equal(weights(plain), weights(saved))
    model = _build.recompute(GPT(tiny()))
    runs = []
    model.blocks[0].ffn.register_forward_pre_hook(lambda *_: runs.append(1))
    model(torch.zeros(1, 4, dtype=torch.long)).sum().backward()
    assert len(runs) == 2, "a recomputed block runs twice: forward, and again in the backward pass"
    assert set(model.state_dict()) == set(GPT(tiny()).state_dict())


def test_muon_takes_the_matrices_of_the_blocks():
    """Each parameter has exactly one optimiser; embedding, head and norms stay with AdamW."""
    objective = objectives.CausalLM(GPT(tiny(tie_embeddings=True)))
    muon, rest = _build.muon(objective, train.TrainConfig())
    names = {p: name for name, p in objective.named_parameters()}
    ours = {names[p] for group in muon.param_groups for p in group["params"]}
    others = {names[p] for group in rest.param_groups for p in group["params"]}
    assert not ours & others and ours | others == set(names.values())
    assert all(".blocks." in name and "norm" not in name for name in ours) and "model.embed.weight" in others


# ---- several processes ----


def on_a_rank(rank, world, config, place, folder, home):
    """What one process of a group does: the run with DDP and again with FSDP2, and what came out of each."""
    os.environ["THIRTY_HOME"] = home
    os.chdir(home)
    train.EVALUATED = 1024
    tokenizer, found = tokenizers.load(place), {}
    text = _text.Text(tokenizer, *_text.read_tokens("own.txt", 0, tokenizer), "own.txt")
    for name, shard in (("DDP", False), ("FSDP2", True)):
        settings, device = replace(config, shard=shard), torch.device("cpu")
        model, history = train.fit(settings, text, device, Path(folder) / name, say=lambda line: None)
        found[name] = losses(history), [row["val_loss"] for row in history.evals], weights(model)
    return found


def test_matches_one_process_when_spread_over_two(home):
    """Two processes with half the batch each, copies or shares of the weights: the losses of one process."""
    config = replace(SMALL, accumulate=2)
    text = train.prepare(config, home, lambda line: None)
    whole, history = fitted(replace(config, accumulate=1), home / "one", text)
    places = str(home / "tokenizer"), str(home / "two"), str(home)
    for found in spawn(on_a_rank, 2, config, *places):
        for name, (loss, val_loss, each) in found.items():
            assert loss == pytest.approx(losses(history), abs=1e-5), name
            assert val_loss == pytest.approx([row["val_loss"] for row in history.evals], abs=1e-5), name
            assert (each - weights(whole)).abs().max() < 1e-5, name


RANK = """
import os, pathlib, runpy, sys
pathlib.Path("pid-" + os.environ["RANK"]).write_text(str(os.getpid()))
sys.argv = ["train", *sys.argv[1:]]
runpy.run_module("{module}", run_name="__main__")
"""


def torchrun(folder, *arguments):
    """A run of `train` by two processes, as its command line starts it; pid-RANK holds their numbers."""
    Path("rank.py").write_text(RANK.format(module=train.__name__))
    options = {"corpus": "own.txt", "characters": 0, "tokens": 120 * 64, "n_layer": 1, "d_model": 16,
               "d_ff": 24, "context": 16, "batch_size": 4, "vocab_size": 270, "evals": 12,
               "optimizer": "adamw", "precision": "fp32", "device": "cpu", "out": folder}  # fmt: skip
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["rank.py", "smoke", *(f"--{name}={value}" for name, value in options.items()), *arguments]
    env = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1", "OMP_NUM_THREADS": "1",
           "PYTHONPATH": str(ROOT)}  # fmt: skip
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process):
    """What a run said, once it has ended well."""
    said = process.communicate(timeout=240)[0]
    assert process.returncode == 0, said
    return said


def wait_for_checkpoint(folder, process, timeout=120):
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        if (folder / "last.safetensors").exists():
            return
        assert process.poll() is None, f"the run ended before it was killed:\n{process.communicate()[0]}"
        time.sleep(0.02)
    raise AssertionError("no checkpoint in time")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL; test_killed_and_resumed is the twin that runs here")
def test_two_ranks_killed_and_resumed(home):
    """SIGKILL of both ranks in the middle of a run; with --resume it ends at the loss of the unbroken run."""
    ended(torchrun(home / "whole"))
    broken = torchrun(home / "broken")
    wait_for_checkpoint(home / "broken", broken)
    for rank in (0, 1):
        os.kill(int((home / f"pid-{rank}").read_text()), signal.SIGKILL)
    broken.communicate(timeout=120)
    assert broken.returncode != 0 and not (home / "broken" / "result.json").exists()
    assert "resuming" in ended(torchrun(home / "broken", "--resume"))
    expected, found = (read_history(home / name / "metrics.jsonl") for name in ("whole", "broken"))
    assert [row["step"] for row in found.train] == [row["step"] for row in expected.train]
    assert losses(found) == pytest.approx(losses(expected), abs=1e-6)
    assert found.evals[-1]["val_loss"] == pytest.approx(expected.evals[-1]["val_loss"], abs=1e-6)


def test_killed_and_resumed(home):
    """A run that ends at a checkpoint without a word goes on to the weights of the unbroken run, bit for
    bit."""
    text = train.prepare(SMALL, home, lambda line: None)
    whole, expected = fitted(SMALL, home / "whole", text)

    class Killed(Exception):
        pass

    def die(line):
        if line.startswith("step 2"):  # after the checkpoint of step 1, before that of step 2
            raise Killed

    with pytest.raises(Killed):
        fitted(SMALL, home / "broken", text, die)
    resumed, history = train.fit(SMALL, text, torch.device("cpu"), home / "broken" / "run", resume=True)
    assert losses(history) == losses(expected)
    assert torch.equal(weights(resumed), weights(whole))


def test_another_number_of_processes_is_refused(home):
    """A run of one process cannot go on exactly with two: it says so."""
    text = train.prepare(SMALL, home, lambda line: None)
    fitted(SMALL, home, text)
    state = checkpoint.read(home / "run" / "last.safetensors")
    checkpoint.write(home / "run" / "last.safetensors", {**state, "rng": state["rng"] * 2})
    with pytest.raises(UserError, match="made by 2 processes"):
        train.fit(SMALL, text, torch.device("cpu"), home / "run", resume=True)


# ---- bad input ----


class TestBadInput:
    def test_corpus_shorter_than_a_context(self, home, capsys):
        (home / "short.txt").write_text("\n".join(f"{i} the cat sat\n" * 99 for i in range(99)))
        said = refused(
            capsys, train, "smoke", "--corpus", "short.txt", "--characters", 0, "--context", 100_000
        )
        assert "too few for one context" in said

    def test_empty_validation_split(self, home, capsys):
        (home / "one.txt").write_text("only one page, which is trained on\n")
        assert "held out" in refused(capsys, train, "smoke", "--corpus", "one.txt", "--vocab_size", 262)
        assert not list((home / "cache" / "tokens").glob("*.bin"))

    def test_token_file_of_another_tokenizer(self, home, capsys):
        text = train.prepare(SMALL, home, lambda line: None)
        loader.write(text.train.path, [[1, 2, 3]], vocab_size=300, tokenizer="f" * 64)
        with pytest.raises(UserError, match="made by another tokenizer"):
            train.prepare(SMALL, home, lambda line: None)

    def test_world_size_that_does_not_divide_the_batch(self):
        with pytest.raises(UserError, match=r"cannot be cut into 3 processes times 2 .* a multiple of 6"):
            replace(SMALL, batch_size=4, accumulate=2).micro_batch(3)

    def test_micro_batches_that_do_not_divide_the_batch(self, home, capsys):
        assert "cannot be cut" in refused(capsys, train, "smoke", "--corpus", "own.txt", "--accumulate", 3)

    def test_existing_run_folder(self, home, capsys):
        """A finished run is never overwritten."""
        own = ("--corpus", "own.txt", "--characters", 0, "--tokens", 600, "--out", "here")
        run(train, "smoke", *own)
        capsys.readouterr()
        assert "holds a finished run" in refused(capsys, train, "smoke", *own)

    def test_vocabulary_smaller_than_the_bytes(self, home, capsys):
        assert "at least 260" in refused(capsys, train, "smoke", "--corpus", "own.txt", "--vocab_size", 257)

    def test_no_such_corpus_or_tokenizer(self, home, capsys):
        assert "no corpus is called" in refused(capsys, train, "smoke", "--corpus", "nothing-like-it")
        assert "names no corpus" in refused(capsys, train, "smoke", "--corpus", ",")
        assert "tokenizer.json" in refused(
            capsys, train, "smoke", "--corpus", "own.txt", "--tokenizer", "gone"
        )

    def test_endless_corpus(self, home, capsys):
        assert "never ends" in refused(capsys, train, "smoke", "--corpus", "tinytown", "--characters", 0)

    @pytest.mark.parametrize(
        "field", ["tokens", "batch_size", "evals", "context", "characters", "learning_rate"]
    )
    def test_impossible_sizes(self, home, capsys, field):
        assert field in refused(capsys, train, "smoke", "--corpus", "own.txt", f"--{field}=-1")

    def test_shards(self, home, capsys):
        assert "under torchrun" in refused(capsys, train, "smoke", "--corpus", "own.txt", "--shard",
                                           "--optimizer", "adamw")  # fmt: skip
        assert "muon needs whole matrices" in refused(capsys, train, "smoke", "--shard")
