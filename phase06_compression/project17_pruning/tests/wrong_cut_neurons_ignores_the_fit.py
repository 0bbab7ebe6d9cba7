"""Does not use the weights that were fitted anew."""


def cut_neurons(block, keep, w_down=None):
    ffn = block.ffn
    ffn.w_gate, ffn.w_up = part_of(ffn.w_gate, keep), part_of(ffn.w_up, keep)
    ffn.w_down = part_of(ffn.w_down, columns=keep)
