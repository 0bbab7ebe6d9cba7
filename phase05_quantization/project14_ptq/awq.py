"""AWQ: make the weights that matter larger before they are rounded, and their inputs smaller by as much.

Before: GPTQ moves weights about to make up for errors. New here: no weight is moved, only measured with
another unit. An input that is large on the average makes errors in its column dear. Multiply that column by
s > 1 and divide the input by s, and nothing changes:

    w x = (w · s) (x / s)

in floats. On a grid it does: the step of a group depends on its largest weight, which mostly stays what it
was, so the column is now rounded s times more finely, and its error counts s times less. s too large, and
the step grows for all others. So s = (mean |x|)^α, and α is the best of 20, by the error of the layer; α = 0
is round to nearest.

Dividing the input costs nothing: whoever made it is scaled instead, the gain of a norm, or the rows of the
matrix before. Such a model computes what it did, and is then rounded to nearest. Seam: weights in place, then
`swap`. Lin, Tang, Tang, Yang et al. 2024, 2306.00978 (MLSys).
"""

from torch import Tensor

from common.exercise import exercise

from . import rtn
from .calibration import Moments, layer_error, walk

POINTS = 20  # values of α, from 0 to 1 less one step
# The first matrix of a stage -> the module that makes its input, up to a product with something else.
MAKERS = {
    "attn.wq": "norm_attn", "attn.wo": "attn.wv", "ffn.w_gate": "norm_ffn", "ffn.w_up": "norm_ffn",
    "ffn.w_down": "ffn.w_up"}  # fmt: skip


@exercise
def unit(size: Tensor, alpha: float) -> Tensor:
    """The scale of each input, (in,): size^alpha, so divided that the largest times the smallest is 1.

    size (in,) is the mean of |x|; what is below 1e-4 counts as 1e-4.
    """
    s = size.clamp(min=1e-4) ** alpha
    return s / (s.max() * s.min()).sqrt()


def rounded(w: Tensor, s: Tensor, bits, group, symmetric) -> Tensor:
    """What w (out, in) becomes if it is rounded in units of s (in,): (out, in)."""
    grid = rtn.grid_of(w * s, bits, group, symmetric)
    return rtn.dequantize(rtn.quantize(w * s, grid, bits), grid) / s


@exercise
def search(weights: list[Tensor], moments: Moments, bits, group=None, symmetric=True, size=None) -> Tensor:
    """The unit (in,), out of POINTS values of α = 0, 1 / POINTS, …, with the lowest error of all weights.

    weights: matrices (out, in) that share their input, whose layer_error's are added up. size: in place of
    moments.size where inputs must be scaled alike.
    """
    H, size = moments.hessian, moments.size if size is None else size
    best, least = None, float("inf")
    for i in range(POINTS):
        s = unit(size, i / POINTS)
        error = sum(layer_error(w, rounded(w, s, bits, group, symmetric), H).sum().item() for w in weights)
        if error < least:
            best, least = s, error
    return best


@exercise
def fold(maker, readers: list, s: Tensor, rows: Tensor | None = None) -> None:
    """Multiply the columns of the readers by s (in,), and divide what `maker` puts out by `rows`, in place.

    maker: a norm, whose weight (C,) is a gain, or a linear layer, whose weight (out, in) has a row for each
    output; where it has a bias, that is put out as well. rows: s, unless readers read an output twice.
    """
    rows = s if rows is None else rows
    maker.weight /= rows.view(-1, *[1] * (maker.weight.dim() - 1))
    if getattr(maker, "bias", None) is not None:
        maker.bias /= rows
    for reader in readers:
        reader.weight *= s


def balance(model, batches, bits=4, group=None, symmetric=True, leave=lambda block: None):
    """Scale all matrices of the blocks, each stage after the other; the model computes what it did.

    Values are read by all query heads of a group: their columns of wo get one scale, by the mean of their
    sizes. A stage that nothing here makes (GPT-2's down projection, behind a GELU) is left as it is.
    """
    K, D = model.config.n_kv_head, model.config.head_dim

    def visit(block, names, moments):
        if names[0] == "ffn.w_down" and not hasattr(block.ffn, "w_gate"):
            return
        readers, size, rows = [block.get_submodule(name) for name in names], moments.size, None
        if names[0] == "attn.wo":
            heads = size.view(K, -1, D)  # (K, H / K, D): the query heads that read one value
            size = heads.mean(1, keepdim=True).expand_as(heads).flatten()
        weights = [reader.weight.detach() for reader in readers]
        s = search(weights, moments, bits, group, symmetric, size)
        if names[0] == "attn.wo":
            rows = s.view(K, -1, D)[:, 0].flatten()  # (K · D,)
        fold(block.get_submodule(MAKERS[names[0]]), readers, s, rows)

    return walk(model, batches, visit, leave)


def apply(model, batches, bits=4, group=None, symmetric=True):
    """Balance the blocks and round them to nearest, block by block; the model is changed and returned."""
    return balance(model, batches, bits, group, symmetric,
                   lambda block: rtn.apply(block, bits, group, symmetric))  # fmt: skip
