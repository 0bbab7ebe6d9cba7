"""A larger logit comes, and what was summed with the old maximum stays as it was."""


def log_sum(row, V, BLOCK: constexpr):
    largest, total = float("-inf"), 0.0
    for start in range(0, V, BLOCK):
        c = start + tl.arange(0, BLOCK)
        values = tl.load(row + c, mask=c < V, other=float("-inf")).to(tl.float32)
        largest = tl.maximum(largest, tl_max(values, 0))
        total = total + tl_sum(tl.exp(values - largest), 0)
    return largest + tl.log(total)
