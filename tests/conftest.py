"""What tests share: offline and headless, and one finished smoke study in a copy of the project."""

import os
from pathlib import Path

import pytest
from project import copy_project, run_study

os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MPLBACKEND": "Agg",
    "TOKENIZERS_PARALLELISM": "false",
}


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def smoke_study(tmp_path_factory) -> Path:
    """A copy of the project in which the whole study ran once on smoke, with all methods."""
    project = copy_project(tmp_path_factory.mktemp("smoke") / "project")
    run_study(project)
    return project


@pytest.fixture
def drawn():
    """Everything that a test draws can be rendered."""
    import matplotlib.pyplot as plt

    yield
    for number in plt.get_fignums():
        plt.figure(number).draw_without_rendering()
    plt.close("all")


@pytest.fixture
def tokenizer():
    import toy

    return toy.tokenizer()


@pytest.fixture
def examples():
    import toy

    return toy.examples()


@pytest.fixture
def trained():
    import toy

    return toy.trained()


@pytest.fixture
def one_thread():
    """Reductions in one order: for what is compared bit by bit, or trained twice."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
