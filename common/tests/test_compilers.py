"""The core under torch.export and torch.compile: one graph, no break, the same logits."""

import pytest
import torch
import torch.nn as nn

from common.model import GPT
from common.testing import close, tiny


@pytest.fixture
def model():
    torch.manual_seed(0)
    return GPT(tiny()).eval()


@pytest.fixture
def tokens():
    return torch.randint(97, (2, 12), generator=torch.Generator().manual_seed(1))


def test_export(model, tokens):
    class Logits(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, tokens):
            return self.model(tokens)

    length = torch.export.Dim("T", min=2, max=64)
    program = torch.export.export(Logits(), (tokens,), dynamic_shapes={"tokens": {1: length}})
    close(program.module()(tokens[:, :7]), model(tokens[:, :7]), "exported, at another length")


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile_in_one_graph(model, tokens, backend):
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    close(compiled(tokens), model(tokens), backend, rtol=1e-4, atol=1e-4)  # fused kernels round elsewhere
    compiled(tokens).sum().backward()
    assert model.embed.weight.grad is not None
