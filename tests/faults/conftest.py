"""The run that nothing happens to, and what a machine that dies leaves of it."""

import shutil

import pytest

from tests.faults import faulty_runs


@pytest.fixture(autouse=True)
def _fresh(fresh_gin):
    """Every test here binds anew."""


@pytest.fixture(scope="session")
def _runs(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("faults")
    whole, cut = folder / "whole", folder / "cut"
    faulty_runs.train(tiny, whole, after={5: lambda: shutil.copytree(whole, cut)})
    return whole, cut


@pytest.fixture
def whole(_runs):
    """The folder of the undisturbed run. Not to be changed."""
    return _runs[0]


@pytest.fixture
def cut(_runs, tmp_path):
    """A copy of that folder as it was in step 5: checkpoints 2 and 4, five rows."""
    return shutil.copytree(_runs[1], tmp_path / "cut")
