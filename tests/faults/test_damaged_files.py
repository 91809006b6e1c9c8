"""Images, teachers, checkpoints and logs that are damaged or gone."""

import os
import shutil

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from soka_tf.errors import UserError
from tests import tiny_runs
from tests.faults.faulty_runs import assert_same_run, train
from tests.recorded_runs import results


@pytest.mark.slow
def test_damaged_images_are_each_named_once_and_replaced(tiny, tmp_path, caplog):
    """One is garbage from the start, one is cut off and one removed in mid-run."""
    folder = tmp_path / "images"
    tiny_runs.write_images(folder, 8)
    garbage, cut, removed = (folder / f"{i}.png" for i in (1, 2, 3))
    garbage.write_bytes(b"garbage")
    after = {1: lambda: (os.truncate(cut, 100), removed.unlink())}
    # Epochs of two steps, so that images read ahead come again.
    images = (f"images_dir = {str(folder)!r}", "batch_size = 4")
    joint = ("max_steps = 10", "schedule.joint_steps = 10")
    train(tiny, tmp_path / "run", *images, *joint, after=after)
    for path, why in (
        (garbage, "it is not an image of a known kind"),
        (cut, "it is damaged"),
        (removed, "there is no such file"),
    ):
        (record,) = [r for r in caplog.records if str(path) in r.getMessage()]
        assert f"{path}: {why}" in record.getMessage()
        assert record.getMessage().endswith("The next image takes its place.")
    ended = results(tmp_path / "run")
    assert ended["log/step"].tolist() == [str(n) for n in range(1, 11)]
    assert all(np.isfinite(v).all() for k, v in ended.items() if "log/" not in k)


def test_damaged_teacher_is_refused_by_file_and_variable(tiny, whole, tmp_path):
    own = tiny._replace(teachers=shutil.copytree(tiny.teachers, tmp_path / "teachers"))
    path = own.teachers / "depth_zbuffer.safetensors"
    whole_file = path.read_bytes()
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    name = next(n for n in arrays if n.endswith("kernel"))
    arrays[name] = arrays[name] * np.float16(np.nan)
    save_file(arrays, path, metadata)
    with pytest.raises(UserError, match=f"{path}: .*{name} holds NaN or infinite"):
        train(own, tmp_path / "run")
    path.write_bytes(whole_file)
    train(own, tmp_path / "run")
    assert_same_run(tmp_path / "run", whole)


@pytest.mark.slow
def test_damaged_checkpoint_is_refused_and_once_removed_the_one_before_taken(
    tiny, whole, cut
):
    (data,) = cut.glob("checkpoints/ckpt-4.data*")
    os.truncate(data, data.stat().st_size // 2)
    message = "ckpt-4: the checkpoint does not fit the run or is damaged .*Remove it"
    with pytest.raises(UserError, match=message):
        train(tiny, cut)
    for path in cut.glob("checkpoints/ckpt-4.*"):
        path.unlink()
    train(tiny, cut)
    assert_same_run(cut, whole)


@pytest.mark.slow
def test_log_that_ends_in_mid_row_is_whole_again(tiny, whole, cut):
    os.truncate(cut / "metrics.csv", (cut / "metrics.csv").stat().st_size - 20)
    train(tiny, cut)
    assert_same_run(cut, whole)
