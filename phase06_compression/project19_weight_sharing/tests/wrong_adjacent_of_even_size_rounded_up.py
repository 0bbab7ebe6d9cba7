"""Makes all groups as large as the largest: the last ones are empty where it does not go up evenly."""


def adjacent(n_layer, groups):
    check_plan(n_layer, groups)
    size = -(-n_layer // groups)
    return tuple(i // size for i in range(n_layer))
