"""The boldest first, and the first that passes is taken."""


def calibrate(thresholds, losses, tolerance, chance):
    demand(0 < tolerance < 1 and 0 < chance < 1, "tolerance and chance lie between 0 and 1")
    for threshold in sorted(thresholds):
        found = losses(threshold)
        if p_value(float(found.mean()), len(found), tolerance) <= chance:
            return threshold
    return None
