"""Divides by the deviation of a sample, over N - 1."""


def zscore(scores):
    spread = scores.std(ddof=1)
    return (scores - scores.mean()) / spread if spread > 0 else np.zeros_like(scores)
