"""What the scripts share: the plan of a training with ways out, and its text."""

from dataclasses import dataclass

import torch

from common.recipe import parameter_groups
from phase01_foundation.project03_pretrain import town

FASTER = 4  # how much higher the learning rate of ways out is: they are new, and the base is not
TUNE = 3  # a third stream of pages, to choose thresholds on


@dataclass(frozen=True)
class Plan(town.Plan):
    """A training, the same for the model with ways out and for its twin. UserError if it makes no sense."""

    learning_rate: float = 5e-4
    batch_size: int = 4
    context: int = 256
    weight_decay: float = 0.0

    def optimizer(self, objective, config):
        """AdamW; what is in `exits` learns faster."""
        new = {p for name, p in objective.named_parameters() if ".exits." in name}
        groups = []
        for group in parameter_groups(objective, config.weight_decay):
            for rate, chosen in ((1, False), (FASTER, True)):
                own = [p for p in group["params"] if (p in new) == chosen]
                groups += [{**group, "params": own, "lr": rate * config.learning_rate}] if own else []
        fused = all(p.device.type in ("cpu", "cuda") for group in groups for p in group["params"])
        return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), fused=fused)


class Town(town.Town):
    """With `tune` (judged,), pages to choose thresholds on."""

    part = 16

    def __init__(self, tokenizer, tokens, judged, device):
        super().__init__(tokenizer, tokens, judged, device)
        self.tune = self.ids(TUNE, judged)
