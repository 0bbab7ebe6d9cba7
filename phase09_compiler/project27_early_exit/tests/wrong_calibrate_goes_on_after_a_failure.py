"""The lowest of all that pass: with many tries one passes by luck."""


def calibrate(thresholds, losses, tolerance, chance):
    demand(0 < tolerance < 1 and 0 < chance < 1, "tolerance and chance lie between 0 and 1")
    certified = None
    for threshold in sorted(thresholds, reverse=True):
        found = losses(threshold)
        if p_value(float(found.mean()), len(found), tolerance) <= chance:
            certified = threshold
    return certified
