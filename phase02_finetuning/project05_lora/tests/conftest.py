"""What the tests of this project share: a place of its own, with a tiny untrained model in it."""

import pytest

from common.trial import model_folder


@pytest.fixture
def base(home):
    """A tiny model folder, as the chain has them."""
    return model_folder(home / "base", n_layer=1, d_model=16, d_ff=24, n_head=2, n_kv_head=1, max_seq_len=128)
