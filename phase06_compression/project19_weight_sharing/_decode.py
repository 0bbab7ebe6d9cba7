"""One token after another with a model whose layers share, and with its copy whose layers do not."""

import torch

from common.model import GPT, Cache, ModelConfig
from common.profiling import shortest

from .layer_sharing import share, unshared

HELD = 64  # tokens in the caches


class Step:
    """One decode step at batch 1. Every call is the same step: the caches are wound back."""

    def __init__(self, model, device):
        self.model, self.token = model.to(device).eval(), torch.zeros(1, 1, dtype=torch.long, device=device)
        self.caches = [Cache() for _ in model.blocks]
        with torch.inference_mode():
            model(torch.arange(HELD, device=device)[None] % model.config.vocab_size, caches=self.caches)

    def __call__(self):
        for cache in self.caches:
            cache.length = HELD
        with torch.inference_mode():
            return self.model(self.token, caches=self.caches)


def sides(b, plan, d_model, d_ff, dtype=torch.float32):
    """{"own": the layers' own weights, "shared"}: equal weights, equal FLOPs, other addresses."""
    torch.manual_seed(0)
    heads = max(1, d_model // 64)
    config = ModelConfig(vocab_size=256, n_layer=len(plan), n_head=heads, n_kv_head=heads, d_model=d_model,
                         d_ff=d_ff, max_seq_len=2 * HELD)  # fmt: skip
    model = share(GPT(config).to(dtype), plan)
    return {"own": Step(unshared(model), b.device), "shared": Step(model, b.device)}


def block_bytes(step):
    return sum(p.nbytes for p in step.model.blocks[0].parameters())


def reading(b, nbytes):
    """Bytes a second where as many bytes are read again and again: from the cache, if they fit."""
    x = torch.ones(nbytes // 4, device=b.device)
    return x.nbytes / shortest(x.sum, b.device, b.pick(smoke=0.01, quick=0.2, full=1.0))


def predicted(b, plan, nbytes):
    """How many times faster: memory for the first use of a block and for every return to it, the cache for a
    use right after its own. Reading alone; what is between the products takes its time on both sides."""
    again = sum(now == before for now, before in zip(plan[1:], plan, strict=False))
    slow, fast = 1 / b.ceilings.read, 1 / max(reading(b, nbytes), b.ceilings.read)
    return len(plan) * slow / ((len(plan) - again) * slow + again * fast)
