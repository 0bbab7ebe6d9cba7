"""The project as a whole: its scripts, its techniques in use, what it refuses, the lesson's commands."""

import builtins
import json
import re
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common import hub
from common import tokenizer as tokenizers
from common.checkpoint import read
from common.cli.bench import Bench
from common.cli.bench import bench as run_bench
from common.errors import UserError
from common.model import GPT
from common.proofs import prove
from common.testing import close, tiny
from common.trial import commands, refused, run, unplugged
from phase02_finetuning.project04_sft.sft import AnswerLoss, pack
from phase02_finetuning.project05_lora import (
    _build,
    _memory,
    _paper,
    _seven,
    adapter,
    bench,
    explore,
    lora,
    nf4,
    train,
)

LESSON = Path(train.__file__).parent / "README.md"
TINY = ("--rows", 16, "--context", 48, "--judged", 0, "--rank", 2)


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)


# ---- the script ----


def test_smoke(home, base, capsys):
    """A LoRA run leaves an adapter and a merged model that give the same logits, and says its figures."""
    run(train, "smoke", "--model", base, "--rows", 32, "--save")
    said, folder = capsys.readouterr().out, home / "runs" / "project05_lora" / "smoke"
    for words in ("weights are trained", "nats a token", "tokens/s", "before", "adapter,", "merged model"):
        assert words in said, f"the run did not say {words!r}"
    assert (folder / "loss.png").read_bytes().startswith(b"\x89PNG")
    merged, tokens = hub.load(folder / "model"), torch.randint(256, (2, 9))
    close(adapter.load(hub.load(base), folder / "adapter")(tokens), merged(tokens), "adapter and merged")
    assert (merged(tokens) - hub.load(base)(tokens)).abs().max() > 1e-4
    result = json.loads((folder / "result.json").read_text())["metrics"]
    assert 0 < result["trained"] < result["share"] ** -1 * result["trained"] + 1
    linked = home / "models" / "lora"
    assert torch.equal(hub.load(linked)(tokens), merged(tokens)) and (linked / "adapter").is_dir()
    assert tokenizers.load(linked).sha256 in (linked / "card.json").read_text()


@pytest.mark.parametrize("extra", [
    ("--method", "qlora", "--checkpointing", "--accumulate", 2),
    ("--method", "qlora", "--frozen", "bfloat16"),
    ("--frozen", "bfloat16", "--precision", "fp32"),
    ("--method", "full"),
    ("--dora", "--rslora", "--targets", "wq", "head", "--dropout", 0.1),
], ids=lambda extra: " ".join(map(str, extra)))  # fmt: skip
def test_smoke_of_every_method(extra, home, base, capsys):
    """4 bits, whole, DoRA with an adapter on the head: each ends in a model folder that loads plainly."""
    run(train, "smoke", "--model", base, *TINY, *extra)
    folder = home / "runs" / "project05_lora" / "smoke"
    model = hub.load(folder / "model")
    assert model.surgery == [] and {p.dtype for p in model.parameters()} == {torch.float32}
    assert (folder / "adapter").is_dir() == ("full" not in extra)


def test_an_8_bit_optimizer(home, base, capsys):
    """bitsandbytes' AdamW moves the adapters, and its checkpoint is read again."""
    pytest.importorskip("bitsandbytes")
    run(train, "smoke", "--model", base, *TINY, "--optimizer", "paged", "--method", "qlora")
    folder = home / "runs" / "project05_lora" / "smoke"
    assert "merged model" in capsys.readouterr().out
    assert read(folder / "last.safetensors")["step"] == 2


PARTS = [("lora", lora.LoRALinear.forward), ("lora", lora.scaling), ("lora", lora.LoRALinear.delta),
         ("qlora", nf4.quantize), ("qlora", nf4.dequantize), ("qlora", nf4.normal_levels),
         ("qlora", nf4.quantize_scales), ("qlora", nf4.dequantize_scales)]  # fmt: skip


@pytest.mark.parametrize("method, part", PARTS, ids=lambda x: getattr(x, "__qualname__", x))
def test_is_on(method, part, home, base):
    """A technique that raises makes the run fail: the run really uses what the learner wrote."""
    nf4.byte_pairs.cache_clear()
    with unplugged(part):
        run(train, "smoke", "--model", base, *TINY, "--method", method)


def test_killed_and_resumed(home, base):
    """A QLoRA run that dies after a checkpoint goes on to the weights of the unbroken run, bit for bit."""
    config = replace(train.PRESETS["smoke"], method="qlora", rows=32, batch_size=8, rank=2, evals=4,
                     precision="fp32")  # fmt: skip
    tokenizer = tokenizers.load(base)

    class Killed(Exception):
        pass

    def die(line):
        if line.startswith("step 3"):  # after the checkpoint of step 2, before that of step 3
            raise Killed

    def run_of(name, say=lambda line: None, resumed=False):
        model = hub.load(base)
        fake = SimpleNamespace(folder=home / name, device=torch.device("cpu"), say=say, resumed=resumed)
        train.fit(model, tokenizer, config, fake)
        return model.state_dict()

    whole = run_of("whole")
    with pytest.raises(Killed):
        run_of("broken", die)
    assert read(home / "broken" / "last.safetensors")["step"] == 2
    resumed = run_of("broken", resumed=True)
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)


# ---- its parts ----


def test_batches_are_a_pure_function_of_the_step():
    """Every example once an epoch, each epoch in another order, the same for the same step."""
    table = list(range(10))
    batch_at = _build.batches(table, list, size=4, seed=1)
    seen = [batch_at(i) for i in range(6)]
    for epoch in (seen[:3], seen[3:]):
        assert sorted(i for part in epoch for i in part) == list(range(10))
    assert seen[:3] != seen[3:]
    assert _build.batches(table, list, size=4, seed=1)(4) == seen[4]
    assert _build.batches(table, list, size=4, seed=2)(4) != seen[4]


def test_recomputed_blocks_change_nothing_but_memory(base):
    """With checkpointing the gradients are the same, the blocks run twice, and they are plain again after."""
    config = replace(train.PRESETS["smoke"], rank=2)
    batch = pack(_build.examples(tokenizers.load(base), _build.rows("train", 4), 48), 48, 259)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = _build.dress(hub.load(base), replace(config, checkpointing=checkpointing)).train()
        runs = []
        model.blocks[0].ffn.register_forward_pre_hook(lambda *_, seen=runs: seen.append(1))
        AnswerLoss(model)(batch).backward()
        found.append((len(runs), [p.grad for p in model.parameters() if p.requires_grad]))
    assert [n for n, _ in found] == [1, 2]
    assert all(torch.equal(a, b) for a, b in zip(found[0][1], found[1][1], strict=True))
    assert type(_build.undress(model).blocks[0]) is type(GPT(tiny()).blocks[0])


def test_weights_are_counted_as_what_they_stand_for():
    """Trained and all: with 4-bit codes as many as without."""
    config = replace(train.PRESETS["smoke"], rank=2)
    counts = {method: _build.count(_build.dress(GPT(tiny()), replace(config, method=method)))
              for method in ("lora", "qlora", "full")}  # fmt: skip
    size = sum(p.numel() for p in GPT(tiny()).parameters())
    per_rank = 2 * (32 + 32 + 2 * (32 + 16) + 32 + 32 + 3 * (32 + 48))
    assert counts["lora"] == counts["qlora"] == (2 * per_rank, size + 2 * per_rank)
    assert counts["full"] == (size, size)


# ---- through the libraries ----


@pytest.fixture
def llama(home):
    """A tiny random Llama as transformers saves it, with a tokenizer and a chat template."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft"), pytest.importorskip("bitsandbytes")
    from common.trial import model_folder

    folder = model_folder(home / "llama")
    torch.manual_seed(0)
    sizes = {"vocab_size": 260, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
             "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128}  # fmt: skip
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes)).save_pretrained(folder)
    (folder / "card.json").unlink()
    return folder


PAPER = ("paper", "--rows", 8, "--batch_size", 4, "--accumulate", 2, "--context", 64, "--rank", 2)


def test_smoke_of_paper(llama, home, capsys):
    """It says what it will need, trains in 4 bits, and leaves an adapter that peft and ours both load."""
    run(train, *PAPER, "--model", llama)
    said, folder = capsys.readouterr().out, home / "runs" / "project05_lora" / "paper"
    for words in ("weights in 4 bits", "in all, at most", "tokens/s", "PeftModel"):
        assert words in said
    assert said.index("in all, at most") < said.index("tokens/s")
    weights = read(folder / "last.safetensors")["weights"]
    assert sum(t.numel() for t in weights.values()) < 20_000, "a checkpoint holds the adapters alone"
    model = adapter.load(hub.load(llama), folder / "adapter")
    made = next(iter(lora.adapters(model).values()))
    assert made.B.abs().max() > 0, "B has moved"


def test_paper_refuses_what_does_not_fit(llama, capsys):
    """One line: what it needs, what is free, and the smallest change that would fit; or that nothing does."""
    line = refused(capsys, train, *PAPER, "--model", llama, "--memory_gb", 0.0012, "--context", 128,
                   "--no-checkpointing")  # fmt: skip
    assert "it would fit with --" in line
    flags = line.split("it would fit with ")[1].split()
    config = replace(train.PRESETS["paper"], rows=8, batch_size=4, accumulate=2, context=128, rank=2,
                     checkpointing="--checkpointing" in flags)  # fmt: skip
    for name, value in pairwise(flags):
        if value.isdigit():
            config = replace(config, **{name.removeprefix("--"): int(value)})
    size = _paper.sizes(_paper.config_of(llama), _paper.their_targets(config))
    assert sum(_paper.memory(size, config).values()) <= 0.0012e9
    line = refused(capsys, train, *PAPER, "--model", llama, "--memory_gb", 1e-5)
    assert "no setting makes it fit" in line and "smaller model" in line


def test_the_smallest_change_comes_first():
    """One flag before two, the harmless before those that shorten what is read."""
    size = _paper.Sizes(coded=10**6, rest=10**5, per_rank=1000, layers=4, width=64, inside=500,
                        largest=10**5, vocabulary=1000)  # fmt: skip
    config = train.Config(method="qlora", libraries=True, batch_size=8, context=512, rank=4)
    whole = sum(_paper.memory(size, config).values())
    assert _paper.smallest_change(size, config, whole - 1) == "--checkpointing"
    ready = replace(config, checkpointing=True)
    left = sum(_paper.memory(size, ready).values())
    assert _paper.smallest_change(size, ready, left - 1) == "--optimizer adamw8bit"
    eighth = replace(ready, accumulate=8)
    assert _paper.smallest_change(size, ready, sum(_paper.memory(size, eighth).values())) == "--accumulate 8"
    both = sum(_paper.memory(size, replace(eighth, context=64)).values())
    assert _paper.smallest_change(size, ready, both) == "--accumulate 8 --context 64"
    assert _paper.smallest_change(size, ready, 1000) is None


def test_a_7b_takes_what_qlora_says(llama):
    """Llama 2 7B: 6.5 of its 6.7 billion weights in 4 bits are 3.3 GB; rank 16 trains 40 million."""
    transformers, _ = _paper.libraries()
    theirs = transformers.LlamaConfig(vocab_size=32000, hidden_size=4096, intermediate_size=11008,
                                      num_hidden_layers=32, num_attention_heads=32)  # fmt: skip
    size = _paper.sizes(theirs, _paper.their_targets(train.PRESETS["paper"]))
    assert size.coded == 6_476_005_376 and size.coded + size.rest == 6_738_415_616
    needed = _paper.memory(size, train.PRESETS["paper"])
    assert needed["weights in 4 bits"] == pytest.approx(3.34e9, rel=1e-3)
    assert 16 * size.per_rank == 39_976_960
    assert sum(needed.values()) < 8e9, "a 7B fits 8 GB"


def test_theirs_is_the_loss_over_all_logits(llama):
    """The head on the answers only, mean over them: what transformers gives for the same labels."""
    model = _paper.load(llama, train.PRESETS["paper"], torch.device("cpu"))
    messages = [{"role": "user", "content": "Where?"}, {"role": "assistant", "content": "At the inn."}]
    tokenizer = tokenizers.load(llama)
    made = _paper.example(messages, tokenizer, 128)
    said = [token for token, counts in zip(*made, strict=True) if counts]
    assert tokenizer.decode(said) == "At the inn.<|im_end|>\n"
    batch = _paper.pad([made, made], 0)
    objective = _paper.Theirs(model)
    objective.eval()
    with torch.no_grad():
        logits = model(input_ids=batch.tokens).logits.float()
        want = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten())
        close(objective(batch), want, "loss", rtol=0, atol=2e-3)


# ---- what is refused ----


@pytest.mark.parametrize("arguments, words", [
    (("--rank", 0), "rank is 0"),
    (("--rows", 0), "rows is 0"),
    (("--epochs", 0), "epochs"),
    (("--context", 4), "context is 4"),
    (("--alpha", 0), "alpha is 0"),
    (("--targets", "embed"), "targets"),
    (("--batch_size", 8, "--accumulate", 3), "cannot be cut into 3"),
    (("--libraries",), "4 bits"),
    (("--libraries", "--method", "qlora", "--targets", "wq", "head"), "no adapter on the head"),
    (("--method", "full", "--frozen", "bfloat16"), "lost in bfloat16"),
    (("--model", "nowhere/at all"), "there is no folder"),
    (("--rank", 17), "rank 17 for a matrix of rank"),
], ids=lambda x: " ".join(map(str, x)) if isinstance(x, tuple) else "")  # fmt: skip
def test_mistakes_end_in_one_line(arguments, words, base, capsys):
    assert words in refused(capsys, train, "smoke", "--model", base, *TINY, *arguments)


@pytest.mark.parametrize("package, arguments", [
    ("bitsandbytes", ("smoke", "--optimizer", "adamw8bit")),
    ("bitsandbytes", ("paper",)), ("peft", ("paper",)), ("transformers", ("paper",)),
])  # fmt: skip
def test_a_missing_package_is_named(package, arguments, base, capsys, monkeypatch):
    """The line names the package and the extra, and what runs without it."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name.split(".")[0] == package:
            raise ImportError(f"No module named {package!r}", name=package)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    given = (*arguments, "--model", base, *(TINY if arguments[0] == "smoke" else ()))
    line = refused(capsys, train, *given)
    assert package in line and "extra finetune" in line


def test_strange_architectures_are_named(home):
    """A model that is not shaped like Llama or Qwen."""
    transformers, _ = _paper.libraries()
    with pytest.raises(UserError, match="'gpt2' is not shaped like"):
        _paper.sizes(transformers.GPT2Config(n_layer=1), {"c_attn"})


# ---- the lesson ----


def test_smoke_of_explore(home, base, capsys):
    """Every experiment once, in small: what each found, and its pictures."""
    run(explore, "smoke", "--model", base)
    said = capsys.readouterr().out
    for name in explore.EXPERIMENTS:
        assert f"\n{name}: " in said
    for name in ("rank.png", "spectrum.png", "memory.png"):
        assert (home / "runs/project05_lora/explore-smoke" / name).read_bytes().startswith(b"\x89PNG")


def test_smoke_of_bench(home, base, capsys, monkeypatch):
    """Every claim once, in small, on a base model that is there; memory without new processes."""
    monkeypatch.setattr(_memory, "fresh", _memory.measure)
    (home / "models").mkdir()
    shutil.copytree(base, home / "models" / "base")
    run_bench(bench.main, argv=["smoke"])
    said = capsys.readouterr().out
    for name in ("quality", "124m-full", "124m-peft", "124m-transformers", "small-qlora", "memory-qlora"):
        assert f"\n{name}: " in said
    assert "no models/base" not in said and "not run: it takes a GPU" in said


def test_smoke_of_the_7b_shape(home):
    """Both sides of what a GPU measures run at a tiny size, and give a loss of the same size."""
    pytest.importorskip("peft"), pytest.importorskip("bitsandbytes")
    trial = _memory.Trial(method="qlora", checkpointing=True, n_layer=1, d_model=64, d_ff=128, n_head=2,
                          vocab_size=300, rows=1, context=16)  # fmt: skip
    device, losses = torch.device("cpu"), []
    for make in (_seven.ours, _seven.theirs):
        torch.manual_seed(0)
        step = make(trial, device)
        losses.append([step().item() for _ in range(3)])
    assert all(row[0] > row[-1] for row in losses) and abs(losses[0][0] - losses[1][0]) < 0.3, losses
    b = Bench(home, "smoke", device)
    names = ("seven-speed", "seven-memory", "seven-fits")
    claim = {"unit": "tok/s", "better": "higher", "goal": (">=", 0.0)}
    _seven.compare_seven(b, dict.fromkeys(names, claim), trial)
    assert {made.id for made in b.claims} == set(names) and all(made.ours.value > 0 for made in b.claims)


def test_commands_of_the_lesson_exist():
    """Every `./thirty run 5 …` and `explore 5 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 8


def test_snippet_of_the_lesson_runs(home, llama):
    """What stands under "In production" is true."""
    (snippet,) = re.findall(r"```python\n(.*?)```", LESSON.read_text(encoding="utf-8"), flags=re.S)
    exec(compile(snippet.replace("data/models/base", str(llama)), "README.md", "exec"), {})
