"""Takes the last rows of the gate, whichever neurons were asked for."""


def cut_neurons(block, keep, w_down=None):
    ffn = block.ffn
    ffn.w_gate, ffn.w_up = part_of(ffn.w_gate, slice(-len(keep), None)), part_of(ffn.w_up, keep)
    ffn.w_down = part_of(ffn.w_down, columns=keep, weight=w_down)
