"""The model as an ONNX graph, and what ONNX Runtime fuses in it: nodes before and after."""

import logging
import warnings
from collections import Counter
from contextlib import redirect_stdout
from io import StringIO

import torch
from torch import nn


class Logits(nn.Module):
    """The model as a function of tokens alone."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        return self.model(tokens)


def export(model, path, T=16):
    """Write the model for one row of T tokens."""
    with warnings.catch_warnings(), redirect_stdout(StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        torch.onnx.export(Logits(model), (torch.zeros(1, T, dtype=torch.long),), str(path), dynamo=True,
                          input_names=["tokens"], output_names=["logits"], verbose=False)  # fmt: skip


def optimised(path, level, out):
    """ONNX Runtime at a level ("DISABLE_ALL", "BASIC", "EXTENDED"); its graph is written to `out`."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{level}")
    options.optimized_model_filepath, options.log_severity_level = str(out), 4
    options.intra_op_num_threads = torch.get_num_threads()
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def nodes(path):
    """{kind of node: how many} of a graph on disk; those that only hold a number are left out."""
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return Counter(node.op_type for node in graph.node if node.op_type != "Constant")


def by_hand_written_patterns(path, model):
    """{kind: how many} after onnxruntime.transformers.optimizer, which knows the patterns of transformers."""
    from onnxruntime.transformers import optimizer

    logging.getLogger("onnxruntime.transformers").setLevel(logging.ERROR)
    found = optimizer.optimize_model(str(path), model_type="gpt2", num_heads=model.config.n_head,
                                     hidden_size=model.config.d_model, opt_level=0)  # fmt: skip
    return Counter(node.op_type for node in found.model.graph.node if node.op_type != "Constant")


def fusion(model, folder, T=16):
    """({level: {kind: how many}}, {level: largest error of its logits}) of a model on the CPU."""
    path, tokens = folder / "model.onnx", torch.arange(T)[None] % model.config.vocab_size
    export(model, path, T)
    with torch.no_grad():
        want = model(tokens)
    counts, errors = {"exported": nodes(path)}, {}
    for level in ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED"):
        out = folder / f"{level.lower()}.onnx"
        got = optimised(path, level, out).run(None, {"tokens": tokens.numpy()})[0]
        name = level.removeprefix("ENABLE_").lower()
        errors[name] = (torch.from_numpy(got) - want).abs().max().item()
        if level != "DISABLE_ALL":
            counts[name] = nodes(out)
    counts["transformers"] = by_hand_written_patterns(path, model)
    return counts, errors
