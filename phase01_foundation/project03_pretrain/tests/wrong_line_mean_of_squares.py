"""Returns the mean of the squares instead of their sum."""


def fit_line(x, y):
    slope = ((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum()
    intercept = y.mean() - slope * x.mean()
    return slope, intercept, ((y - slope * x - intercept) ** 2).mean()
