"""QLoRA through the libraries: transformers loads a model in 4 bits, bitsandbytes multiplies, peft adapts.

What memory it will take is worked out from config.json, before anything is loaded, or fetched.
"""

from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import torch
from torch import nn

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain
from common.device import peak_memory, reset_peak, seed_all
from common.errors import UserError, demand
from common.training import train
from phase01_foundation.project03_pretrain.objectives import IGNORE, token_loss
from phase02_finetuning.project04_sft.sft import Example, pad, truncate

from . import _build, adapter

BITS = 4 + 8 / 64 + 32 / (64 * 256)  # NF4 with double quantisation
FAMILIES = ("llama", "qwen2", "qwen3", "mistral")
SHORTEST = 64  # tokens of context below which it proposes nothing


def libraries():
    """(transformers, peft); UserError where one of the three is not here."""
    try:
        import bitsandbytes  # noqa: F401 - transformers asks for it
        import peft
        import transformers
    except ImportError as error:
        how = "pip install transformers peft bitsandbytes, or the extra finetune; without them: preset gpu"
        raise UserError(f"--libraries takes {error.name}, which is not here: {how}") from None
    return transformers, peft


# ---- the memory it will need ----


@dataclass(frozen=True)
class Sizes:
    """Of a model, in numbers: weights that go into 4 bits, all others, and what one token passes through."""

    coded: int
    rest: int
    per_rank: int  # weights of the adapters for each unit of rank
    layers: int
    width: int  # d_model
    inside: int  # outputs of all matrices of one block, together
    largest: int  # weights of the largest of its matrices
    vocabulary: int


def sizes(theirs, targets):
    """The Sizes of a transformers config, from a model on the meta device."""
    transformers, _ = libraries()
    known = theirs.model_type in FAMILIES
    demand(known, f"a {theirs.model_type!r} is not shaped like Llama or Qwen: {', '.join(FAMILIES)} are")
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(theirs)
    linear = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    inner = {name: m for name, m in linear.items() if "lm_head" not in name}
    coded = sum(m.weight.numel() for m in inner.values())
    block = [m for name, m in inner.items() if ".layers.0." in name]
    chosen = [m for name, m in inner.items() if name.rpartition(".")[2] in targets]
    demand(chosen, f"this model has none of the matrices {sorted(targets)}")
    return Sizes(
        coded=coded,
        rest=sum(p.numel() for p in model.parameters()) - coded,
        per_rank=sum(m.in_features + m.out_features for m in chosen),
        layers=theirs.num_hidden_layers,
        width=theirs.hidden_size,
        inside=sum(m.out_features for m in block),
        largest=max(m.weight.numel() for m in block),
        vocabulary=theirs.vocab_size,
    )


def memory(size, config):
    """{part: bytes} that training will hold at once, at most.

    A block keeps, for each token, its input, two norms, what each matrix gives and the gate's product, in
    bfloat16; with checkpointing its input only, and one block at a time the rest. The logits are those of
    the answers: never more than all.
    """
    tokens = config.batch_size // config.accumulate * config.context
    trained = size.per_rank * config.rank
    block = tokens * (4 * size.width + 2 * size.inside) * 2
    inputs = tokens * size.width * 2
    kept = inputs * size.layers + block if config.checkpointing else block * size.layers
    return {
        "weights in 4 bits": size.coded * BITS / 8,
        "embedding, head, norms": size.rest * 2,
        "adapters and gradients": trained * 8,
        "optimiser": trained * (8 if config.optimizer == "adamw" else 2),
        "activations": kept,
        "logits": tokens * size.vocabulary * (2 + 4 + 4),
        "a matrix made whole": size.largest * 2 * 2,
    }


def smallest_change(size, config, free):
    """The fewest flags that make it fit into `free` bytes, the most harmless first; None: nothing does."""
    one = config.batch_size
    changes = [] if config.checkpointing else [("--checkpointing", {"checkpointing": True})]
    if config.optimizer == "adamw":
        changes += [("--optimizer adamw8bit", {"optimizer": "adamw8bit"})]
    if config.accumulate < one:
        changes += [(f"--accumulate {one}", {"accumulate": one})]
    context = config.context // 2
    while context >= SHORTEST:
        changes += [(f"--context {context}", {"context": context})]
        context //= 2
    for n in range(1, 5):
        for chosen in combinations(changes, n):
            if len({key for _, change in chosen for key in change}) < n:
                continue  # two of them set the same field
            changed = replace(config, **{key: v for _, change in chosen for key, v in change.items()})
            if sum(memory(size, changed).values()) <= free:
                return " ".join(flag for flag, _ in chosen)
    return None


def free_memory(config, device):
    """Bytes that may be used: as the config says, or what the device has free now."""
    if config.memory_gb:
        return config.memory_gb * 1e9
    if device.type == "cuda":  # pragma: no cover - gpu
        return torch.cuda.mem_get_info(device)[0]
    status = Path("/proc/meminfo")
    demand(status.exists(), "this system does not say how much memory is free: add --memory_gb")
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024


def announce(size, config, device, say):
    """Print what it will need; UserError with the smallest change that would fit where it does not."""
    needed, free = memory(size, config), free_memory(config, device)
    for name, nbytes in needed.items():
        say(f"{name:24} {nbytes / 1e9:8.3f} GB")
    total = sum(needed.values())
    say(f"{'in all, at most':24} {total / 1e9:8.3f} GB of {free / 1e9:.3f} GB that are free")
    if total <= free:
        return
    change, least = smallest_change(size, config, free), size.coded * BITS / 8 + size.rest * 2
    cure = f"no setting makes it fit, as weights alone take {least / 1e9:.2f} GB: take a smaller model"
    cure = f"it would fit with {change}" if change else cure
    raise UserError(f"this needs {total / 1e9:.2f} GB and {free / 1e9:.2f} GB are free: {cure}")


# ---- rows in the model's own template ----


def example(messages, tokenizer, context):
    """A conversation whose last turn is an answer, in the template that came with the tokenizer."""
    given = tokenizer.chat_ids(messages[:-1], add_generation_prompt=True)
    tokens = tokenizer.chat_ids(messages)
    alike = [a == b for a, b in zip(given, tokens, strict=False)]
    first = alike.index(False) if False in alike else len(given)  # of the answer
    return truncate(Example(tokens, [i >= first for i in range(len(tokens))]), context)


# ---- the run ----


class Theirs(nn.Module):
    """Batch -> mean surprise over the answers, of a peft model. Checkpoints hold the adapters alone."""

    def __init__(self, model):
        super().__init__()
        self.model = (model,)  # in a tuple, so that its frozen weights are no part of a checkpoint
        self.trained = nn.ParameterList(p for p in model.parameters() if p.requires_grad)

    def train(self, mode=True):
        self.model[0].train(mode)
        return super().train(mode)

    def forward(self, batch):
        """As AnswerLoss: the head reads only the places whose target counts."""
        whole, counts = self.model[0].get_base_model(), batch.targets != IGNORE
        hidden = whole.model(input_ids=batch.tokens, use_cache=False).last_hidden_state
        return token_loss(whole.lm_head(hidden[counts])[None], batch.targets[counts][None])


def load(folder, config, device):
    """A model in 4 bits with fresh adapters, as bitsandbytes and peft make it."""
    transformers, peft = libraries()
    codes = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16)  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=codes, dtype=torch.bfloat16, device_map={"": str(device)})  # fmt: skip
    if config.checkpointing:
        old, new = model.gradient_checkpointing_enable, "activation_checkpointing_enable"
        getattr(model, new, old)({"use_reentrant": False})
    wanted = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, use_rslora=config.rslora,
        use_dora=config.dora, task_type="CAUSAL_LM", target_modules=sorted(their_targets(config)),
    )  # fmt: skip
    return peft.get_peft_model(model, wanted)


def their_targets(config):
    """q_proj for wq, and so on."""
    parts = {"wq": "attn", "wk": "attn", "wv": "attn", "wo": "attn"}
    names = (f"blocks.0.{parts.get(name, 'ffn')}.{name}" for name in config.targets if name != "head")
    return {adapter.their_name(name).rpartition(".")[2] for name in names}


def config_of(name):
    """The transformers config of a folder or name: one small file, without the weights."""
    transformers, _ = libraries()
    try:
        return transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        why = str(error).strip().splitlines()[0]
        raise UserError(f"no model {name} here or on the hub: {why}; give --model a folder") from None


def main(config, run):
    """Say what it needs, load, train, save the adapter."""
    libraries()
    name = config.model or str(chain.find("base", say=run.say))
    announce(sizes(config_of(name), their_targets(config)), config, run.device, run.say)
    folder = hub.find(name)
    tokenizer = tokenizers.load(folder)
    reset_peak(run.device)
    model = load(folder, config, run.device)
    table = [example(row["messages"], tokenizer, config.context)
             for row in _build.rows("train", config.rows, config.seed)]  # fmt: skip
    size, pad_id = config.batch_size // config.accumulate, tokenizer.pad_id or 0

    def join(part):
        return pad(part, pad_id).to(run.device)

    seed_all(config.seed)
    objective = Theirs(model)
    objective.train()
    history = train(objective, _build.batches(table, join, size=size, seed=config.seed),
                    config.train_config(run.device), folder=run.folder, say=run.say, resume=run.resumed,
                    optimizer=_build.OPTIMIZERS[config.optimizer])  # fmt: skip
    last = history.train[-1]
    model.save_pretrained(run.folder / "adapter")
    run.say(f"adapter: {run.folder / 'adapter'}; peft.PeftModel.from_pretrained puts it on {name}")
    peak = peak_memory(run.device)
    run.say(f"{last['tokens'] / last['seconds']:,.0f} tokens/s, {peak / 1e9:.2f} GB at most")
    run.finish({"loss": last["loss"], "tokens_per_s": last["tokens"] / last["seconds"],
                "peak_memory_bytes": peak}, corpus="tinytown")  # fmt: skip
