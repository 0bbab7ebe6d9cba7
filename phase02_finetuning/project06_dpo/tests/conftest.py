"""What the tests of this project share: a place of their own, and a tiny untrained model to tune."""

import pytest

from common.trial import model_folder


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A model folder with bytes for tokens and room for a question and its answers."""
    return model_folder(tmp_path_factory.mktemp("tiny") / "m", n_layer=1, max_seq_len=256)
