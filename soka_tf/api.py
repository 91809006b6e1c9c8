"""What a notebook needs: a run trained, networks loaded and asked.

`soka_tf` has these names itself, and imports TensorFlow when one is first used. The
function that trains is `train_student`, for `soka_tf.train` is the command's module.
"""

import os
from typing import Sequence, Union

import gin

from soka_tf.atomic import PathLike
from soka_tf.runs.start import bind_run, train_run


def train_student(
    gin_files: Union[str, Sequence[str]] = (),
    bindings: Union[str, Sequence[str]] = (),
    *,
    model_dir: PathLike,
) -> str:
    """Trains a student, measures and exports it, as `python -m soka_tf.train`.

    What gin had bound before is forgotten. Called again with the same folder, it goes
    on where it was stopped.

    Args:
      gin_files: names or paths of gin files, later ones win, such as
        "gin/rooms/demo.gin"; gin/base.gin is read first.
      bindings: single ones, such as "max_steps = 500".
      model_dir: folder of the run, made if need be.

    Returns:
      The table of its evaluation and where everything is, as text; the numbers are in
      evaluation.json of the folder.

    Raises:
      UserError: for whatever the command refuses.
    """
    gin.clear_config()
    folder = os.path.expanduser(os.fspath(model_dir))
    bind_run(folder, _listed(gin_files), _listed(bindings))
    return train_run(folder)


def _listed(values: Union[str, Sequence[str]]) -> Sequence[str]:
    return [values] if isinstance(values, str) else list(values)
