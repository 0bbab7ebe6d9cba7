"""trl beside ours on equal terms: the same weights, pairs, optimiser and precision."""

import contextlib
import io
import tempfile
import warnings
from pathlib import Path

import torch
from torch import nn

from common import hub

from .dpo import Pair, PreferenceLoss, naive_logprobs


@contextlib.contextmanager
def quiet():
    """Neither progress bars nor warnings: a bench prints figures."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def theirs(model, folder: Path):
    """transformers' model with our weights."""
    from transformers import AutoModelForCausalLM

    hub.save(model, folder, card={})
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def config(folder, device, **settings):
    """DPOConfig with nothing that would make the comparison one of something else."""
    from trl import DPOConfig

    cpu = device.type == "cpu"
    return DPOConfig(output_dir=str(folder / "out"), report_to=[], use_cpu=cpu, bf16=False,
                     gradient_checkpointing=False, disable_tqdm=True, save_strategy="no",
                     **settings)  # fmt: skip


def dataset(pairs: list[Pair]):
    """Pairs of ids as the rows that trl's collator takes; no text is encoded again."""
    from datasets import Dataset

    keys = ("prompt_ids", "chosen_ids", "rejected_ids")
    return Dataset.from_list([dict(zip(keys, pair, strict=True)) for pair in pairs])


def trainer(model, reference, pairs, tokenizer_folder, folder, device, **settings):
    """DPOTrainer on pairs that are ids already, in the order given."""
    from torch.utils.data import SequentialSampler
    from transformers import AutoTokenizer
    from trl import DPOTrainer

    class InOrder(DPOTrainer):
        def _prepare_dataset(self, dataset, *_):
            return dataset

        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

    with quiet():
        return InOrder(model=model, ref_model=reference, args=config(folder, device, **settings),
                       processing_class=AutoTokenizer.from_pretrained(tokenizer_folder),
                       train_dataset=dataset(pairs))  # fmt: skip


def update(parameters, loss_of):
    """A function that makes one update with fused AdamW, and returns the loss before the first one."""
    parameters = list(parameters)
    optimizer, first = torch.optim.AdamW(parameters, lr=1e-6, fused=True), []

    def step():
        loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        first.append(loss.detach()) if not first else None
        return first[0]

    return step


def sides(model, reference, pairs, layouts, tokenizer_folder, device, beta=0.1):
    """{name: one update} of trl as it ships, of trl with the reference known before, and of each layout.

    layouts: {name: a function of pairs}. All start from copies of `model`.
    """
    import copy

    from trl.trainer.dpo_trainer import DataCollatorForPreference

    folder = Path(tempfile.mkdtemp(prefix="thirty-trl-"))
    keys = ("prompt_ids", "chosen_ids", "rejected_ids")
    rows = [dict(zip(keys, pair, strict=True)) for pair in pairs]
    with torch.no_grad():
        known = torch.stack([naive_logprobs(reference, pair) for pair in pairs], 1).to(device)  # (2, B)
    made = {}
    for name, before in (("trl", False), ("trl, reference known", True)):
        batch = dict(DataCollatorForPreference(pad_token_id=0)(rows))
        if before:
            batch |= {"ref_chosen_logps": known[0], "ref_rejected_logps": known[1]}
        mine = trainer(theirs(model, folder / name), theirs(reference, folder / "reference"), pairs,
                       tokenizer_folder, folder, device, beta=beta)  # fmt: skip
        mine.precompute_ref_logps = before
        batch = {key: value.to(device) for key, value in batch.items()}
        made[name] = update(mine.model.parameters(),
                            lambda t=mine, b=batch: t.compute_loss(t.model.train(), b))  # fmt: skip
    for name, layout in layouts.items():
        objective = PreferenceLoss(copy.deepcopy(model), beta=beta).to(device)
        batch = layout(pairs)._replace(reference=known).to(device)
        made[name] = update(objective.parameters(), lambda o=objective, b=batch: o(b))
    return made


def trained(sft, pairs, config, folder, tokenizer_folder, device, *, steps, rate, beta):
    """Our GPT with what DPOTrainer made of it: `steps` updates on the pairs in the order given."""
    settings = {"per_device_train_batch_size": config.batch_size, "max_steps": steps, "learning_rate": rate,
                "lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr_rate": 0.1},
                "warmup_steps": steps // 10, "adam_beta2": 0.95, "weight_decay": 0.0, "max_grad_norm": 1.0,
                "beta": beta, "seed": config.seed, "logging_strategy": "no"}  # fmt: skip
    mine = trainer(theirs(sft, folder / "start"), theirs(sft, folder / "reference"), pairs, tokenizer_folder,
                   folder, device, **settings)  # fmt: skip
    with quiet():
        mine.train()
        mine.model.save_pretrained(folder / "made")
    return hub.load(folder / "made", device=device)
