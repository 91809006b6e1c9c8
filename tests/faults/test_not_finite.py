"""NaN and infinities: named, never saved, and gone once their cause is."""

import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from soka_tf.errors import UserError
from soka_tf.runs.checkpoint_folder import CheckpointFolder
from soka_tf.runs.training_loop import train as train_run
from soka_tf.teachers.pool import TeacherPool
from tests.faults.faulty_runs import After, assert_same_run, build, train

GOES_ON = "The last good checkpoint is that of step 2: the same command goes on from"


@pytest.mark.slow
def test_teacher_that_answers_some_images_with_nan_is_named_with_one_of_them(
    tiny, whole, tmp_path
):
    """From step 3 on, on images whose first pixel is red."""
    wrong = []

    def answer(self, task, images, layers=None, real=TeacherPool.run):
        outputs = real(self, task, images, layers)
        if wrong and task == "edge_texture":
            red = images[:, :1, :1, :1] > 0
            outputs["prediction"] = tf.where(red, np.nan, outputs["prediction"])
        return outputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TeacherPool, "run", answer)
        with pytest.raises(UserError) as stopped:
            train(tiny, tmp_path, after={2: lambda: wrong.append(True)})
    named = re.fullmatch(
        "Training stopped: in step 3, phase competition, term loss/competition of task "
        r"edge_texture was NaN or infinite. The teacher of edge_texture \((.*)\) "
        "predicts NaN or infinite values on 1 of the step's 2 images, such as "
        f"(.*png). {GOES_ON} there. Replace that teacher's file first.",
        str(stopped.value),
    )
    assert named, stopped.value
    assert named[1] == str(tiny.teachers / "edge_texture.safetensors")
    assert np.asarray(Image.open(named[2]))[0, 0, 0] > 127
    train(tiny, tmp_path)
    assert_same_run(tmp_path, whole)


def test_infinite_weights_are_named_and_never_saved(tiny, tmp_path):
    run = build(tiny, tmp_path)
    weights = run.model.student.encoder.last_shared_kernel
    spoil = After({4: lambda: weights.assign(weights * np.inf)})
    message = (
        "in step 4, phase collaboration, the weights of encoder was NaN or infinite. "
        f"{GOES_ON} there. No teacher's output is broken"
    )
    with pytest.raises(UserError, match=message):
        train_run(run, str(tmp_path), [spoil])
    assert not list(tmp_path.glob("checkpoints/ckpt-4*"))
    last = CheckpointFolder(str(tmp_path / "checkpoints")).last()
    reader = tf.train.load_checkpoint(last)
    for name, dtype in reader.get_variable_to_dtype_map().items():
        assert not dtype.is_floating or np.isfinite(reader.get_tensor(name)).all()
