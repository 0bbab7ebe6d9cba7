"""One model on every stack that is installed, behind one door: `begin()`, then `step(id, at) -> logits (V,)`.

Each stack is driven alike, token by token from an empty cache, each with the form of cache it likes best:
project 8's static one, tensors that go in and come out, or its own. So latency, memory and drift of the
logits can be set side by side. A stack that is not there is named, with the reason (`present`).

Seam: the contract; files of exporters.py.
"""

from pathlib import Path

import torch

from common import hub
from common.errors import UserError, demand
from phase03_core_inference.project08_kv_cache.kv_cache import StaticCache, caches_for

from . import jax_step
from .exporters import names_of_past, needed, no_past, to_aotinductor, to_gguf, to_int8, to_onnx, to_openvino
from .optimise import Optimised


class Stack:
    """A model somewhere: made from the model, a folder for files, and the tokens that its cache holds."""

    def __init__(self, model, folder, size):
        self.model, self.folder, self.size = model, Path(folder), size
        self.begin()

    def begin(self):
        """Forget everything."""

    def step(self, token, at):
        """Feed one id at position `at` (one more than last time): logits (V,), valid until the next step."""
        raise NotImplementedError


class Eager(Stack):
    """The plain step of project 8, static cache: what it holds is overwritten, so `begin` has no work."""

    def __init__(self, model, folder, size):
        self.caches = caches_for(model, StaticCache, 1, size)
        self.call = self.made(model)
        super().__init__(model, folder, size)

    def made(self, model):
        return model

    @torch.no_grad()
    def step(self, token, at):
        tokens, positions = torch.tensor([[token]]), torch.tensor([[at]])
        return self.call(tokens, positions=positions, caches=self.caches)[0, -1]


class Ours(Eager):
    """The passes and the plan of this project."""

    def made(self, model):
        return Optimised(model, self.caches)


class Compiled(Eager):
    """torch.compile, one graph, as it comes."""

    def made(self, model):
        return torch.compile(model, fullgraph=True, dynamic=False)


class AOTInductor(Stack):
    """The same compiler, ahead of time, without Python in the step."""

    def __init__(self, model, folder, size):
        path = to_aotinductor(model, caches_for(model, StaticCache, 1, size), Path(folder) / "step.pt2")
        self.call = torch._inductor.aoti_load_package(str(path))
        super().__init__(model, folder, size)

    @torch.no_grad()
    def step(self, token, at):
        return self.call(torch.tensor([[token]]), torch.tensor([[at]]))[0, -1]


class OnnxRuntime(Stack):
    """ONNX Runtime in floats: caches in and out, that never leave it (`OrtValue`)."""

    def __init__(self, model, folder, size):
        self.runtime = needed("onnxruntime")
        path = Path(folder) / "model.onnx"
        path = self.file(path if path.exists() else to_onnx(model, path))
        options = self.runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self.session = self.runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.names = names_of_past(model)
        super().__init__(model, folder, size)

    def file(self, path):
        return path

    def begin(self):
        wrap = self.runtime.OrtValue.ortvalue_from_numpy
        self.past = [wrap(x.numpy()) for x in no_past(self.model)]

    def step(self, token, at):
        tokens = self.runtime.OrtValue.ortvalue_from_numpy(torch.tensor([[token]]).numpy())
        feed = dict(zip(self.names, self.past, strict=True))
        logits, *self.past = self.session.run_with_ort_values(None, {"tokens": tokens, **feed})
        return torch.from_numpy(logits.numpy())[0, -1]


class OnnxRuntimeInt8(OnnxRuntime):
    """The same with 8-bit weights and inputs rounded as they come."""

    def file(self, path):
        small = path.with_name("model.int8.onnx")
        return small if small.exists() else to_int8(path, small)


class OpenVino(Stack):
    """OpenVINO on the same ONNX file."""

    def __init__(self, model, folder, size):
        path = Path(folder) / "model.onnx"
        self.call = to_openvino(path if path.exists() else to_onnx(model, path)).create_infer_request()
        self.names = names_of_past(model)
        super().__init__(model, folder, size)

    def begin(self):
        self.past = [x.numpy() for x in no_past(self.model)]

    def step(self, token, at):
        found = self.call.infer({"tokens": torch.tensor([[token]]).numpy(),
                                 **dict(zip(self.names, self.past, strict=True))})  # fmt: skip
        logits, *self.past = found.values()
        self.past = [x.copy() for x in self.past]  # what comes out is overwritten by the next call
        return torch.from_numpy(logits.copy())[0, -1]


class Jax(Stack):
    """XLA, from the model written in JAX."""

    def __init__(self, model, folder, size):
        self.jax = needed("jax")
        self.weights, self.call = jax_step.weights_of(model), jax_step.compiled(model.config)
        super().__init__(model, folder, size)

    def begin(self):
        self.caches = jax_step.empty(self.model.config, self.size)

    def step(self, token, at):
        self.caches, logits = self.call(self.weights, self.caches, token, at)
        return torch.from_dlpack(logits)


class Transformers(Stack):
    """`transformers`, with its own cache."""

    def __init__(self, model, folder, size):
        auto = needed("transformers", "hub").AutoModelForCausalLM
        hub.save(model, Path(folder) / "hf")
        self.call = auto.from_pretrained(Path(folder) / "hf").eval()
        super().__init__(model, folder, size)

    def begin(self):
        self.past = None

    @torch.no_grad()
    def step(self, token, at):
        found = self.call(torch.tensor([[token]]), past_key_values=self.past, use_cache=True)
        self.past = found.past_key_values
        return found.logits[0, -1]


class LlamaCpp(Stack):
    """llama.cpp on the GGUF file, in floats."""

    def __init__(self, model, folder, size):
        llama = needed("llama_cpp")
        path = to_gguf(model, Path(folder) / "model.gguf", hub_folder(folder))
        self.call = llama.Llama(str(path), n_ctx=size, n_threads=torch.get_num_threads(), verbose=False,
                                logits_all=True)  # fmt: skip
        super().__init__(model, folder, size)

    def begin(self):
        self.call.reset()

    def step(self, token, at):
        self.call.eval([token])
        return torch.from_numpy(self.call.scores[at].copy())


def hub_folder(folder):
    """The folder with the words of a tokenizer that llama.cpp asks for, where the lab has put one."""
    place = Path(folder) / "words"
    there = (place / "tokenizer.json").is_file()
    demand(there, f"llama.cpp loads no model without words: put a tokenizer.json into {place}")
    return place


STACKS = {
    "eager": Eager, "our passes": Ours, "torch.compile": Compiled, "AOTInductor": AOTInductor,
    "ONNX Runtime": OnnxRuntime, "ONNX Runtime, int8": OnnxRuntimeInt8, "OpenVINO": OpenVino, "JAX": Jax,
    "transformers": Transformers, "llama.cpp": LlamaCpp}  # fmt: skip
NEVER = {  # not on this kind of machine; each with its reason
    "TensorRT": "it compiles for NVIDIA GPUs only",
    "vLLM": "its wheels are built for CUDA and pin another PyTorch",
}


def make(name, model, folder, size):
    """A stack by name; UserError with the reason where it is not there."""
    demand(name in STACKS, f"no stack is called {name}: there are {', '.join(STACKS)}")
    return STACKS[name](model, folder, size)


def present(model, folder, size, names=tuple(STACKS)):
    """({name: Stack}, {name: why it is absent}) of these stacks, made now, for up to half a minute each."""
    made, absent = {}, {}
    for name in names:
        try:
            made[name] = make(name, model, folder, size)
        except UserError as error:
            absent[name] = str(error)
    return made, absent | NEVER


@torch.no_grad()
def drift(logits, model, ids):
    """(largest difference, share of other likeliest tokens) of logits (n, V) from the model in float64."""
    with torch.random.fork_rng(devices=[]):
        exact = type(model)(model.config).double().eval()
    exact.load_state_dict({name: value.double() for name, value in model.state_dict().items()})
    truth = exact(torch.tensor([ids]))[0]  # (n, V)
    other = (logits.argmax(-1) != truth.argmax(-1)).double().mean()
    return (logits - truth).abs().max().item(), other.item()
