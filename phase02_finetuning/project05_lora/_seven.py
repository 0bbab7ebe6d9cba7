"""A 7B shape in 4 bits, random weights, beside peft over bitsandbytes: memory and tokens/s on a GPU."""

import gc

import torch
import torch.nn.functional as F

from common.benchmark import values
from common.device import peak_memory, reset_peak, synchronize
from common.profiling import shortest
from common.recipe import TrainConfig, adamw

from . import _memory

SEVEN = {"n_layer": 32, "d_model": 4096, "d_ff": 11_008, "n_head": 32, "vocab_size": 32_000}
SENTENCES = {
    "seven-speed": "A 7B shape trains in 4 bits at least 1.3 times as fast as with peft over bitsandbytes",
    "seven-memory": "… in at most 1.05 of its memory",
    "seven-fits": "… and in at most 16 GB",
}  # fmt: skip


def ours(trial, device):
    """(a function that makes one update, how it is called)"""
    return _memory.stepper(_memory.build(trial).train(), trial)


def theirs(trial, device):
    """The same with peft's LoRA over bitsandbytes' 4-bit layers, on transformers' Llama."""
    import bitsandbytes as bnb
    import peft
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(
            hidden_size=trial.d_model, intermediate_size=trial.d_ff, num_hidden_layers=trial.n_layer,
            num_attention_heads=trial.n_head, vocab_size=trial.vocab_size, tie_word_embeddings=True,
            max_position_embeddings=trial.context))  # fmt: skip
    for name, old in list(model.named_modules()):
        if isinstance(old, torch.nn.Linear) and name != "lm_head":
            new = bnb.nn.Linear4bit(old.in_features, old.out_features, bias=False, quant_type="nf4",
                                    compute_dtype=torch.bfloat16, device="meta")  # fmt: skip
            weight = _memory.drawn(old.weight.shape, trial).detach()
            new.weight = bnb.nn.Params4bit(weight, requires_grad=False, quant_type="nf4").to(device)
            model.set_submodule(name, new)
    rotary = model.model.rotary_emb
    model.model.rotary_emb = type(rotary)(config=model.config).to(device)
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.is_meta:
                setattr(module, name, _memory.drawn(parameter.shape, trial))
    model.tie_weights()
    if trial.checkpointing:
        getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)(
            {"use_reentrant": False}
        )
    wanted = peft.LoraConfig(r=trial.rank, lora_alpha=2 * trial.rank, target_modules="all-linear")
    model = peft.get_peft_model(model, wanted).train()
    optimizer = adamw(model, TrainConfig(learning_rate=1e-4, weight_decay=0.0))
    inputs, targets = _memory.batch_of(trial)

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=trial.bf16):
            logits = model(input_ids=inputs, use_cache=False).logits
            loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def measured(make, trial, device, seconds):
    """(tokens/s, peak bytes) of one side, alone on the device."""
    gc.collect()
    if device.type == "cuda":  # pragma: no cover - gpu
        torch.cuda.empty_cache()
    reset_peak(device)
    step = make(trial, device)
    step()
    synchronize(device)
    spent = shortest(step, device, seconds)
    return trial.rows * trial.context / spent, peak_memory(device)


def bench_seven(b):
    """One after the other, as two such models need not fit side by side; on a CPU only in a test."""
    speed = {"unit": "tok/s", "better": "higher", "goal": (">=", 1.3)}
    memory = {"unit": "bytes", "better": "lower", "goal": ("<=", 1.05)}
    fits = {"unit": "bytes", "better": "lower", "goal": ("<=", 16e9)}
    claims = dict(zip(SENTENCES, (speed, memory, fits), strict=True))
    if b.device.type != "cuda":
        for name, claim in claims.items():
            b.not_run(name, SENTENCES[name], why="it takes a GPU", **claim)
        return
    compare_seven(b, claims, _memory.Trial(**SEVEN, method="qlora", checkpointing=True, bf16=True, rows=2,
                                           context=2048, device=str(b.device)))  # pragma: no cover - gpu


def compare_seven(b, claims, trial):
    """The three claims at the size of a trial."""
    seconds = b.pick(smoke=0.1, quick=10, full=60)
    speed, peak = measured(ours, trial, b.device, seconds)
    b.claim("seven-fits", SENTENCES["seven-fits"], measured=values("ours", [peak]), **claims["seven-fits"])
    if not (b.library("peft") and b.library("bitsandbytes") and b.library("transformers")):
        for name in ("seven-speed", "seven-memory"):
            b.not_run(name, SENTENCES[name], why="peft or bitsandbytes is not here", **claims[name])
        return
    their_speed, their_peak = measured(theirs, trial, b.device, seconds)
    side = "peft, bitsandbytes"
    b.claim("seven-speed", SENTENCES["seven-speed"], **claims["seven-speed"],
            measured=values("ours", [speed], side, [their_speed]))  # fmt: skip
    b.claim("seven-memory", SENTENCES["seven-memory"], **claims["seven-memory"],
            measured=values("ours", [peak], side, [their_peak]))  # fmt: skip
