"""The scripts as a user runs them, the lesson's commands and snippet, and the proofs."""

import json
from pathlib import Path

import pytest
import torch

from common import hub
from common.cli.bench import bench as run_bench
from common.model import GPT
from common.proofs import prove
from common.recipe import TrainConfig
from common.testing import tiny
from common.trial import commands, metrics, model_folder, refused, run, snippets, unplugged
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase05_quantization.project14_ptq import rtn
from phase05_quantization.project16_qat import _tune, bench, explore, fake_quant, qat, train

LESSON = Path(train.__file__).parent / "README.md"


@pytest.fixture(autouse=True)
def base(home):
    """As models/base a tiny model, to which a wrong weight matters."""
    return model_folder(home / "models" / "base", n_layer=1, loud=6)


def test_smoke_train(home, capsys):
    """Both trainings, the table, the recovery by its formula, texts, a folder that loads, a picture."""
    run(train, "smoke", "--out", home / "out", "--save")
    said, found = capsys.readouterr().out, metrics(home / "out")
    for words in ("to the last bit", "recovery = 1 - (trained - control)", "trained writes:", "saved,"):
        assert words in said
    loss = {name.removesuffix(": loss"): value for name, value in found.items() if name.endswith("loss")}
    assert list(loss) == ["float", "rounded, absmax", "rounded, zero point", "control",
                          "control, rounded, absmax", "control, rounded, zero point", "trained"]  # fmt: skip
    damage = min(loss["rounded, absmax"], loss["rounded, zero point"]) - loss["float"]
    assert found["recovery"] == pytest.approx(1 - (loss["trained"] - loss["control"]) / damage)
    model = hub.load(home / "models" / "qat", restore={"project14_ptq": rtn.restore})
    assert {m.bits for m in model.modules() if isinstance(m, rtn.QuantLinear)} == {3}
    assert (home / "out" / "qat.png").read_bytes().startswith(b"\x89PNG")


def test_smoke_train_with_coded_inputs(home):
    """8-bit inputs with observers: the folder is this project's own."""
    run(train, "smoke", "--out", home / "out", "--inputs", "static", "--bits", "8", "--group", "8",
        "--scales", "observed", "--asked", "0")  # fmt: skip
    found = metrics(home / "out")
    assert abs(found["trained: loss"] - found["control: loss"]) < 0.1 and "float: knows" not in found
    model = hub.load(home / "out" / "model", restore={"project16_qat": qat.restore})
    assert sum(isinstance(m, qat.IntegerLinear) for m in model.modules()) == 7


def test_is_on_in_the_script(home):
    """A rounding that raises makes the script fail: it really uses what the learner wrote."""
    with unplugged(fake_quant.gradients):
        run(train, "smoke", "--asked", "0")


def test_smoke_explore(home):
    """Every experiment in small; what must hold holds, and the breaks break."""
    run(explore, "smoke", "--out", home / "out")
    found = metrics(home / "out")
    assert {path.stem for path in (home / "out").glob("*.png")} == set(explore.EXPERIMENTS)
    assert found["staircase: step"] == 3 and 0.6 < found["staircase: through"] < 0.7
    assert found["zero: true slope, moved"] == 0 < found["zero: straight through, moved"]
    for way in ("rounded", "GPTQ"):
        fine, coarse = (abs(found[f"bits: {way}, {n}"] - found["bits: float"]) for n in (8, 2))
        assert fine < coarse, way
    assert abs(found["bits: trained, 8"] - found["bits: control"]) < 0.02
    assert found["ranges: widest so far"] >= found["ranges: average, a tenth of the way"]
    for name in ("a step for each token", "observed, then frozen"):
        assert found[f"batch: {name}, logits"] < 1e-4 < found["batch: a step for the batch, logits"]
    assert found["rate: 100 x, flips"] > found["rate: 1 x, flips"]


def test_smoke_bench(home):
    """Every claim is made; the export is exact; what needs a GPU says that it was not run."""
    run_bench(bench.main, bench.profiled, ["smoke", "--device", "cpu", "--out", str(home)])
    claims = {claim["id"]: claim for claim in json.loads((home / "cpu.json").read_text())["claims"]}
    assert list(claims) == ["recovery-4", "recovery-3", "recovery-2", "gptq-4", "tie-8", "exact", "step",
                            "step-observed", "step-inputs", "gpu-step", "gpu-recovery", "torchao"]
    assert claims["exact"]["verdict"] == "met" and len(claims["exact"]["settings"]["differ"]) == 24
    assert all(claims[id]["verdict"] is None for id in ("gpu-step", "gpu-recovery", "torchao"))
    assert claims["step"]["prediction"] > 1


def test_bad_input(home, capsys):
    assert "do not divide" in refused(capsys, train, "smoke", "--group", 5)
    assert "at least 1" in refused(capsys, train, "smoke", "--steps", 0)
    assert "longer than the 64 tokens" in refused(capsys, train, "smoke", "--context", 100)
    assert "more tokens than one context" in refused(capsys, train, "smoke", "--judged", 10)
    assert "step_rate is -1" in refused(capsys, train, "smoke", "--step_rate", -1)
    assert "bits are some of" in refused(capsys, explore, "smoke", "--bits", 5)
    assert "no part is called film" in refused(capsys, explore, "smoke", "--parts", "film")


def test_recovery_by_hand():
    """PTQ costs 0.4, training with the rounding 0.1 beside its control: three quarters are recovered."""
    assert _tune.recovery(ptq=1.5, fp=1.1, trained=1.0, control=0.9) == pytest.approx(0.75)


@pytest.mark.parametrize("change", [
    lambda model: model, lambda model: rtn.apply(model, 4), lambda model: qat.apply(model, qat.QATConfig(3)),
])  # fmt: skip
def test_what_is_judged_computes_the_same_from_whole_numbers(change):
    model, tokens = change(GPT(tiny()).eval()), torch.randint(97, (1, 9))
    made = _tune.dense(model)
    assert type(made.blocks[0].attn.wq) is torch.nn.Linear and made is not model
    assert torch.equal(made(tokens), model(tokens))


def test_steps_have_a_rate_of_their_own():
    """A share of their mean size, without decay; every other parameter as in the recipe, and each once."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = qat.apply(GPT(tiny()), qat.QATConfig(4))
    plan = _tune.Plan(learning_rate=1e-3, step_rate=0.01)
    groups = plan.optimizer(CausalLM(model), TrainConfig(learning_rate=1e-3)).param_groups
    steps = [p for name, p in model.named_parameters() if name.endswith(".step")]
    (own,) = [group for group in groups if any(p is steps[0] for p in group["params"])]
    mean = torch.cat([p.detach().flatten() for p in steps]).mean().item()
    assert own["lr"] == pytest.approx(0.01 * mean) and own["weight_decay"] == 0
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    same = zip(own["params"], steps, strict=True)  # in the model's order: a run goes on in another process
    assert all(p is step for p, step in same) and all(g["lr"] == 1e-3 for g in groups if g is not own)


# ---- the lesson ----


def test_smoke_commands_of_the_lesson():
    """Every `./thirty run 16 …` and `explore 16 …` of the README is read as the command line reads it."""
    assert len(commands(LESSON)) >= 6


def test_snippet_of_the_lesson_runs():
    """What stands under "In production" is true: torch's kernel gives what ours gives."""
    (left,) = snippets(LESSON)
    assert torch.equal(left["ours"], left["theirs"])


def test_wrong_solutions_are_caught():
    """Every exercise: the stub fails, the reference passes, each wrong solution is caught."""
    prove(__file__)
