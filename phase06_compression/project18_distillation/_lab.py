"""What the experiments share: the teacher, its text, and short trainings of new students."""

from dataclasses import replace
from functools import cached_property

from common import hub
from common import tokenizer as tokenizers
from common.cli import chain, explore
from phase01_foundation.project03_pretrain.objectives import CausalLM
from phase01_foundation.project03_pretrain.town import Plan, demand_context

from . import _fit
from .feature_kd import MINILM, FeatureKD
from .logit_kd import LogitKD, Teacher


class Lab(explore.Album):
    """The teacher is never changed; every student begins with the same weights and reads the same batches."""

    def __init__(self, config, run):
        super().__init__(config, run)
        self.folder = chain.find("base", config.model, say=run.say)
        self.tokenizer = tokenizers.load(self.folder)
        self.teacher = hub.load(self.folder, device=run.device).eval()
        demand_context(self.teacher, config.context)
        self.plan = Plan(config.steps, config.learning_rate, config.batch_size, config.context, config.seed)
        self.sizes = _fit.Sizes(config.n_layer, config.d_model, config.n_head, config.n_kv_head, config.d_ff)
        self.town = _fit.Town(self.tokenizer, self.plan.text, config.judged, run.device)
        self.held = self.town.windows(config.context)

    def student(self):
        """A new one."""
        return self.sizes.student(self.teacher, self.config.seed)

    def taught(self, student):
        """Its objective with the teacher's states and relations."""
        return FeatureKD(student, self.teacher, MINILM, beta=self.config.beta)

    def kd(self, student, teacher=None):
        """Its objective with the logits of a teacher, by default the usual one."""
        return LogitKD(student, teacher or Teacher(self.teacher), self.config.temperature, self.config.alpha)

    def trained(self, objective, *, batches=None, every=0, on_eval=None, **changes):
        """The model of an objective, trained; changes: of the plan. on_eval(update, model), and how often."""
        plan, model = replace(self.plan, **changes), objective.model
        watch = {} if on_eval is None else {
            "on_eval": lambda step, metrics: on_eval(step, model), "evaluate": lambda: {"val_loss": 0.0},
        }  # fmt: skip
        batch_at, device = (batches or self.town.batches)(plan), self.run.device
        return _fit.fit(objective, batch_at, plan, self.training_folder(), device=device, every=every,
                        **watch)[0]  # fmt: skip

    @cached_property
    def alone(self):
        """The student that learns without a teacher."""
        return self.trained(CausalLM(self.student()))

    @cached_property
    def distilled(self):
        """The student that learns from the teacher's states and relations."""
        return self.trained(self.taught(self.student()))

    @cached_property
    def by_logits(self):
        """The student that learns from what the teacher says."""
        return self.trained(self.kd(self.student()))

    def beside(self, model, T=1.0):
        """Loss, accuracy, agreement, overlap and distance on unseen pages."""
        return _fit.beside(model, self.teacher, self.held, T)
