"""The same as transformers and TRL: the template, who counts, and the loss of every update."""

from itertools import islice
from pathlib import Path

import pytest
import torch

from common import hub
from common import tokenizer as tokenizers
from common.trial import model_folder, snippets
from data.tinytown import TinyTown
from phase02_finetuning.project04_sft.sft import IGNORE, AnswerLoss, encode, pad, prompt

LESSON = Path(__file__).resolve().parents[1] / "README.md"
# ChatML once more, with the marks by which transformers knows what the assistant said.
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)
UPDATES, ROWS, RATE = 12, 8, 1e-2


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("oracle") / "m", max_seq_len=512)


@pytest.fixture(scope="module")
def rows():
    return [{"messages": row["messages"]} for row in islice(TinyTown().instructions(kind="knowledge"), 48)]


def test_matches_apply_chat_template(folder, rows):
    """transformers, reading the folder's own template, makes the same ids of the same conversations."""
    transformers = pytest.importorskip("transformers")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), tokenizers.load(folder)
    for row in rows:
        whole, asked = row["messages"], row["messages"][:-1]
        assert theirs.apply_chat_template(whole, return_dict=False) == encode(whole, ours).tokens
        opened = theirs.apply_chat_template(asked, add_generation_prompt=True, return_dict=False)
        assert opened == prompt(asked, ours)


def trl_losses(folder, rows, out):
    """The loss of each update of TRL's trainer, rows in the order given, and its labels."""
    datasets, transformers = pytest.importorskip("datasets"), pytest.importorskip("transformers")
    trl = pytest.importorskip("trl")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    theirs.chat_template = MARKED
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    settings = trl.SFTConfig(
        output_dir=str(out), per_device_train_batch_size=ROWS, max_steps=UPDATES, learning_rate=RATE,
        lr_scheduler_type="constant", logging_steps=1, assistant_only_loss=True, max_length=512,
        train_sampling_strategy="sequential", use_cpu=True, report_to="none", save_strategy="no",
        adam_beta2=0.95, weight_decay=0.0, max_grad_norm=1.0, gradient_checkpointing=False, bf16=False,
        disable_tqdm=True)  # fmt: skip
    trainer = trl.SFTTrainer(model=model, args=settings, processing_class=theirs,
                             train_dataset=datasets.Dataset.from_list(rows))  # fmt: skip
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry], trainer.train_dataset


def test_matches_trl(folder, rows, tmp_path):
    """At equal data order every update has TRL's loss, within 0.5 %; and the same tokens count."""
    theirs, seen = trl_losses(folder, rows, tmp_path)
    tokenizer, model = tokenizers.load(folder), hub.load(folder)
    examples = [encode(row["messages"], tokenizer) for row in rows]
    for example, their in zip(examples, seen, strict=True):
        assert their["input_ids"] == example.tokens
        ours = [token if counts else IGNORE for token, counts in zip(*example, strict=True)]
        assert their["labels"] == ours
    objective = AnswerLoss(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for update in range(UPDATES):
        first = update * ROWS % len(examples)
        loss = objective(pad(examples[first : first + ROWS], tokenizer.pad_id))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert len(theirs) == UPDATES and losses[-1] < 0.75 * losses[0]
    assert losses == pytest.approx(theirs, rel=0.005)


def test_snippet_of_the_lesson_runs(tmp_path, monkeypatch):
    """What stands under "In production" is true."""
    pytest.importorskip("trl")
    monkeypatch.chdir(tmp_path)
    assert len(snippets(LESSON, folder=str(model_folder(tmp_path / "m")))) == 1
