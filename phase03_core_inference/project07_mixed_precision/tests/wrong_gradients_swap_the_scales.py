"""Takes the scale of x off where the weight's belongs, and the other way round."""


def gradients(dy, x8, weight8, scale_x, scale_weight, history, types):
    scale = delayed_scale(dy, history, E5M2)
    dy8 = to_fp8(dy, scale, E5M2)
    dx = multiply(dy8, weight8.T, scale, scale_x, types[0])
    dweight = multiply(dy8.T, x8.T, scale, scale_weight, types[1])
    return dx, dweight
