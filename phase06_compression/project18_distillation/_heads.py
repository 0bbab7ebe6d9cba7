"""Head and loss from two models' hidden states, for the bench: all at once, in chunks, and by Liger."""

import torch
import torch.nn.functional as F

from .logit_kd import HeadLoss, soft_loss, soften, whole

T, ALPHA = 2.0, 0.9


class Heads:
    """N places, C and D numbers of student and teacher, V ids: the loss's gradients by states and weights."""

    def __init__(self, N, C, D, V, chunk, device, dtype=torch.float32):
        draw = torch.Generator().manual_seed(0)
        made = (torch.randn(*shape, generator=draw) / 8 for shape in ((N, C), (V, C), (N, D), (V, D)))
        self.x, self.weight, self.h, self.other = (tensor.to(device, dtype) for tensor in made)
        self.ids, self.chunk = torch.randint(V, (N,), generator=draw).to(device), chunk
        self.shape = {"places": N, "ids": V, "chunk": chunk}
        self.x.requires_grad_()
        self.weight.requires_grad_()

    def loss(self, logits, rows):
        """Hard and soft part, summed, as `LogitKD` has them."""
        with torch.no_grad():
            log_p = soften(F.linear(self.h[rows], self.other), T)
        hard = F.cross_entropy(logits, self.ids[rows], reduction="sum")
        return (1 - ALPHA) * hard + ALPHA * soft_loss(logits, log_p, T)

    def at_once(self):
        return self._slopes(whole(self.x, self.weight, self.loss) / len(self.x))

    def in_chunks(self):
        return self._slopes(HeadLoss.apply(self.x, self.weight, self.loss, self.chunk) / len(self.x))

    def liger(self, compiled=True):
        """The same loss by Liger, as a call; its beta 0 is KL(p ‖ q), and it has no factor T²."""
        from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

        loss = LigerFusedLinearJSDLoss(weight_hard_loss=1 - ALPHA, weight_soft_loss=ALPHA * T**2, beta=0.0,
                                       temperature=T, compiled=compiled, chunk_size=self.chunk)  # fmt: skip
        return lambda: self._slopes(loss(self.x, self.weight, self.h, self.other, self.ids))

    def _slopes(self, total):
        return torch.autograd.grad(total, (self.x, self.weight))
