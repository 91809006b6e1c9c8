"""Fixtures for every test."""

import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# XLA's programs run a few times here: what it computes is tested, not LLVM's speed.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import pytest  # noqa: E402

import soka_tf  # noqa: E402, F401 (before TensorFlow, for which it chooses Keras 2)

ROOT = pathlib.Path(__file__).resolve().parents[1]
# The longest files come first, by their seconds in `make test-full --durations=0`, so
# that no processor waits for one of them at the end.
_LONG = (
    *("test_replicas.py", "test_workers.py", "test_paper_run.py", "test_convert.py"),
    *("test_run.py", "test_cycle.py", "test_reproduce.py", "test_jit_compile.py"),
    *("test_gin_files.py", "test_benchmark.py", "test_kill.py", "test_commands.py"),
    *("test_hostile_teachers.py", "test_formats.py", "test_model.py"),
    *("test_xla_step.py", "test_similarity.py", "test_benchmark_inference.py"),
    *("test_loss_scale.py", "test_documents.py", "test_notebooks.py"),
)


def pytest_collection_modifyitems(items):
    """Sorts the tests' files, not what is in them."""
    items.sort(key=lambda i: _LONG.index(i.path.name) if i.path.name in _LONG else 99)


def pytest_collection_finish():
    """Leaves what is imported by now out of all garbage collections: 0.3 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module", autouse=True)
def repeatable():
    """Random numbers of a file's tests do not depend on what ran before."""
    import tensorflow as tf

    tf.keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def shared_folder() -> pathlib.Path:
    """The folder of reference data beside the repository; users do not have it."""
    folder = ROOT.parent / "shared"
    if not (folder / "golden").is_dir():
        pytest.skip("needs the reference data in ../shared, which is not there")
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """Teachers and images for runs of seconds, see tests/tiny_runs.py."""
    from tests import tiny_runs

    return tiny_runs.write(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def browser():
    """A headless browser, see tests/browser.py; skips where there is none."""
    from tests.browser import open_browser

    with open_browser() as opened:
        yield opened


@pytest.fixture
def fresh_gin():
    """No binding before, none left after; teachers are read once a process."""
    import gin

    from soka_tf.teachers import finding
    from tests import tiny_runs

    gin.clear_config()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finding, "load_teacher", tiny_runs.load_teacher_once)
        yield
    gin.clear_config()


@pytest.fixture(autouse=True)
def built_in_tasks():
    """Leaves no task that a test has registered."""
    from soka_tf import tasks

    tables = (tasks.TASKS, tasks._BY_ANY_NAME)
    before = [dict(table) for table in tables]
    yield
    for table, rows in zip(tables, before):
        for name in [name for name in table if name not in rows]:
            del table[name]
