"""Beyond the last logit zeros are loaded, and exp of zero is counted."""


def log_sum(row, V, BLOCK: constexpr):
    largest, total = float("-inf"), 0.0
    for start in range(0, V, BLOCK):
        c = start + tl.arange(0, BLOCK)
        values = tl.load(row + c, mask=c < V, other=0.0).to(tl.float32)
        new = tl.maximum(largest, tl_max(values, 0))
        total = total * tl.exp(largest - new) + tl_sum(tl.exp(values - new), 0)
        largest = new
    return largest + tl.log(total)
