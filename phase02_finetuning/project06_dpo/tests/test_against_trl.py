"""Losses and gradients of a tiny Llama, ours and trl's on the same weights and the same batch."""

import copy
import warnings

import pytest
import torch

from common import hub
from common.hub_names import FAMILIES
from common.testing import close
from common.trial import model_folder
from phase02_finetuning.project06_dpo import dpo, grpo, reward_model
from phase02_finetuning.project06_dpo.ppo import Rollout

pytest.importorskip("trl")
transformers = pytest.importorskip("transformers")
Dataset = pytest.importorskip("datasets").Dataset

EXACT = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("trl") / "m", d_model=32)


@pytest.fixture
def moved(folder):
    """(reference, policy a little away from it): ours; and the policy's folder."""
    reference = hub.load(folder)
    policy = copy.deepcopy(reference)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in policy.parameters():
            weight += 0.02 * torch.randn_like(weight)
    return reference, policy


def pairs(B=4):
    draw = torch.Generator().manual_seed(2)

    def ids(low, high):
        n = int(torch.randint(low, high, (1,), generator=draw))
        return torch.randint(256, (n,), generator=draw).tolist()

    return [dpo.Pair(ids(3, 9), ids(2, 9), ids(2, 9)) for _ in range(B)]


def trained_by(config, folder, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return config(output_dir=str(folder / "out"), report_to=[], use_cpu=True, bf16=False,
                      gradient_checkpointing=False, disable_tqdm=True, **settings)


def load(kind, model, folder, **settings):
    """transformers' model with our weights."""
    hub.save(model, folder / "theirs", card={})
    return kind.from_pretrained(folder / "theirs", **settings)


def gradients_agree(ours, theirs):
    theirs = FAMILIES["llama"].to_ours({name: p.grad for name, p in theirs.named_parameters()})
    for name, parameter in ours.named_parameters():
        close(parameter.grad, theirs[name], f"gradient of {name}", **EXACT)
    assert max(p.grad.abs().max() for p in ours.parameters()) > 1e-4, "gradients of nothing prove nothing"


def as_trl(rows):
    """The same pairs as trl's collator gives them."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    keys = ("prompt_ids", "chosen_ids", "rejected_ids")
    return DataCollatorForPreference(pad_token_id=259)([dict(zip(keys, row, strict=True)) for row in rows])


@pytest.mark.parametrize("layout", [dpo.side_by_side, dpo.shared])
@pytest.mark.parametrize("method, theirs, beta", [("dpo", "sigmoid", 0.3), ("ipo", "ipo", 0.2)])
def test_matches_trl_dpo_and_ipo(folder, moved, tmp_path, layout, method, theirs, beta):
    """Loss, gradients and implied rewards of DPOTrainer, for both layouts of a batch."""
    from trl import DPOConfig, DPOTrainer

    (reference, policy), rows = moved, pairs()
    kind, tokenizer = transformers.AutoModelForCausalLM, transformers.AutoTokenizer.from_pretrained(folder)
    model = load(kind, policy, tmp_path)
    trainer = DPOTrainer(
        model=model, ref_model=kind.from_pretrained(folder), processing_class=tokenizer,
        args=trained_by(DPOConfig, tmp_path, beta=beta, loss_type=[theirs]),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]))  # fmt: skip
    expected = trainer.compute_loss(trainer.model.train(), as_trl(rows))
    expected.backward()

    objective = dpo.PreferenceLoss(policy, method, beta=beta, chunk=7)
    batch = dpo.with_reference(reference, layout(rows))
    loss = objective(batch)
    loss.backward()
    close(loss, expected, "loss", **EXACT)
    gradients_agree(policy, model)
    chosen, rejected = dpo.rewards(objective.logprobs, batch.reference, beta).mean(1)
    logged = trainer._metrics["train"]
    assert float(chosen) == pytest.approx(logged["rewards/chosen"][0], abs=1e-5)
    assert float(rejected) == pytest.approx(logged["rewards/rejected"][0], abs=1e-5)


def test_matches_trl_simpo(folder, moved, tmp_path):
    """Loss and gradients of CPOTrainer in its SimPO form."""
    cpo = pytest.importorskip("trl.experimental.cpo")
    (_, policy), rows = moved, pairs()
    model = load(transformers.AutoModelForCausalLM, policy, tmp_path)
    trainer = cpo.CPOTrainer(
        model=model, processing_class=transformers.AutoTokenizer.from_pretrained(folder),
        args=trained_by(cpo.CPOConfig, tmp_path, beta=2.0, simpo_gamma=0.5, loss_type="simpo", cpo_alpha=0.0,
                        remove_unused_columns=False),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]))  # fmt: skip
    batch = as_trl(rows)
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)
    wholes = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "labels": labels}
    found = {f"{name}_{kind}": part for kind, whole in wholes.items()
             for name, part in zip(("chosen", "rejected"), whole.chunk(2), strict=True)}  # fmt: skip
    expected = trainer.compute_loss(trainer.model.train(), found)
    expected.backward()
    loss = dpo.PreferenceLoss(policy, "simpo", beta=2.0, gamma=0.5)(dpo.shared(rows))
    loss.backward()
    close(loss, expected, "loss", **EXACT)
    gradients_agree(policy, model)


def test_matches_trl_reward(folder, moved, tmp_path):
    """Loss and gradients of RewardTrainer, whose model pools the last token that is no padding."""
    from trl import RewardConfig, RewardTrainer

    (_, policy), rows = moved, pairs()
    model = load(transformers.AutoModelForSequenceClassification, policy, tmp_path, num_labels=1)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model.config.pad_token_id = tokenizer.pad_token_id
    trainer = RewardTrainer(
        model=model, processing_class=tokenizer,
        args=trained_by(RewardConfig, tmp_path, center_rewards_coefficient=0.1),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]))  # fmt: skip
    batch = as_trl(rows)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    expected = trainer.compute_loss(trainer.model.train(), inputs)
    expected.backward()

    reward = reward_model.RewardModel(policy)
    with torch.no_grad():
        reward.score.weight.copy_(model.score.weight)
    loss = reward_model.RewardLoss(reward, centre=0.1)(dpo.shared(rows, pad=259))
    loss.backward()
    close(loss, expected, "loss", **EXACT)
    close(reward.score.weight.grad, model.score.weight.grad, "gradient of the score", **EXACT)
    body = {name.removeprefix("model."): p for name, p in reward.named_parameters() if "score" not in name}
    head = {"lm_head.weight": torch.zeros(0)}
    named = {name: p.grad for name, p in model.named_parameters() if "score" not in name}
    theirs = FAMILIES["llama"].to_ours({**named, **head})
    for name, parameter in body.items():
        if name != "head.weight":
            close(parameter.grad, theirs[name], f"gradient of {name}", **EXACT)


@pytest.fixture
def grpo_trainer(folder, moved, tmp_path):
    from trl import GRPOConfig, GRPOTrainer

    model = load(transformers.AutoModelForCausalLM, moved[1], tmp_path)
    scores = [1.0, 0.5, -1.5, 1.0, 0.0, 0.0, 0.0, 0.0]
    return GRPOTrainer(
        model=model, processing_class=transformers.AutoTokenizer.from_pretrained(folder),
        reward_funcs=lambda completions, **_: scores,
        args=trained_by(GRPOConfig, tmp_path, beta=0.04, epsilon=0.2, loss_type="grpo", num_generations=4,
                        per_device_train_batch_size=8, max_completion_length=6),
        train_dataset=Dataset.from_list([{"prompt": "a"}])), torch.tensor(scores)  # fmt: skip


def test_matches_trl_grpo(grpo_trainer, moved):
    """Loss and gradients of GRPOTrainer, with old log-probabilities so far off that clipping bites."""
    (trainer, _), (_, policy) = grpo_trainer, moved
    draw, B, P, L = torch.Generator().manual_seed(3), 6, 4, 7
    prompt, answer = (torch.randint(256, (B, n), generator=draw) for n in (P, L))
    lengths = torch.tensor([7, 5, 3, 1, 6, 2])
    kept = torch.arange(L) < lengths[:, None]
    old, reference = (-5.5 + 0.4 * torch.randn(B, L, generator=draw) for _ in range(2))
    advantages = torch.randn(B, generator=draw)
    trainer.current_gradient_accumulation_steps = 1
    expected = trainer.compute_loss(trainer.model.train(), {
        "prompt_ids": prompt, "prompt_mask": torch.ones_like(prompt), "completion_ids": answer,
        "completion_mask": kept.long(), "advantages": advantages, "old_per_token_logps": old,
        "ref_per_token_logps": reference})  # fmt: skip
    expected.backward()

    def placed(x):
        return torch.cat((torch.zeros(B, P - 1).to(x), x), 1)  # (B, P + L - 1)

    mask = placed(kept)
    none = torch.zeros(mask.shape)
    rollout = Rollout(torch.cat((prompt, answer), 1), mask, placed(old), placed(reference),
                      advantages[:, None], none, none)  # fmt: skip
    loss = grpo.GRPOLoss(policy, clip=0.2, beta=0.04)(rollout)
    loss.backward()
    close(loss, expected, "loss", **EXACT)
    gradients_agree(policy, trainer.model)
    clipped = trainer._metrics["train"]["clip_ratio/region_mean"][0]
    assert 0.05 < clipped < 0.95, f"the case should clip some tokens, not {clipped:.0%}"


def test_matches_trl_advantages(grpo_trainer):
    """What GRPOTrainer makes of the rewards of two groups, one of which teaches nothing."""
    trainer, scores = grpo_trainer
    trainer.model.train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = trainer._generate_and_score_completions([{"prompt": "ab"}] * 4 + [{"prompt": "cde"}] * 4)
    close(grpo.group_advantages(scores.view(2, 4)).flatten(), made["advantages"], "advantages", **EXACT)
