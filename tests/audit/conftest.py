"""A model on disk that knows some of its rows by heart."""

import pytest
import toy

from kdlib.model import checkpoints


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "toy"
    checkpoints.save_model(toy.trained(), toy.tokenizer(), folder)
    return folder
