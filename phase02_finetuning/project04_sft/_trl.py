"""An update of TRL's SFTTrainer, for the bench: packing as it ships, the same weights and conversations."""

import logging
import tempfile

import torch

# ChatML with the marks by which transformers knows what the assistant said.
MARKED = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|im_end|>' }}"
    "{% endgeneration %}{{ '\n' }}{% else %}{{ message['content'] + '<|im_end|>\n' }}{% endif %}{% endfor %}"
)


def trainer_of(folder, rows, *, batch_size: int, context: int, bf16: bool, device, packing: bool = True):
    """(its trainer, its batches) for the model of a folder; rows as messages."""
    import datasets
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    for name in ("transformers", "trl", "datasets"):
        logging.getLogger(name).setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = MARKED
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="sdpa")
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=batch_size, max_length=context,
        packing=packing, assistant_only_loss=True, learning_rate=1e-4, lr_scheduler_type="constant",
        train_sampling_strategy="sequential", use_cpu=device.type == "cpu", report_to="none", bf16=bf16,
        save_strategy="no", disable_tqdm=True, gradient_checkpointing=False)  # fmt: skip
    data = datasets.Dataset.from_list([{"messages": row["messages"]} for row in rows])
    trainer = SFTTrainer(model=model, args=settings, processing_class=tokenizer, train_dataset=data)
    batches = list(trainer.get_train_dataloader())
    trainer.create_optimizer()
    trainer.model_wrapped, trainer.optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    trainer.current_gradient_accumulation_steps = 1  # what its loop would set
    return trainer, batches


def step_of(trainer, batch):
    """A function that makes one update, as its training loop does, and returns the loss."""

    counted = (batch["labels"] != -100).sum()

    def step():
        loss = trainer.training_step(trainer.model_wrapped, dict(batch), num_items_in_batch=counted)
        trainer.accelerator.clip_grad_norm_(trainer.model.parameters(), 1.0)
        trainer.optimizer.step()
        trainer.model.zero_grad()
        return loss

    return step


def examples_of(batch) -> list[tuple[list[int], list[bool]]]:
    """The conversations in one of its packed batches, as (tokens, counted), so that both sides learn the
    same."""
    tokens, labels = batch["input_ids"].flatten(), batch["labels"].flatten()
    starts = (batch["position_ids"].flatten() == 0).nonzero().flatten().tolist()
    cuts = zip(starts, [*starts[1:], len(tokens)], strict=True)
    return [(tokens[a:b].tolist(), (labels[a:b] != -100).tolist()) for a, b in cuts]
