"""Teachers from disk, whichever kind of file or folder they are."""

import os
from typing import Optional

from soka_tf.atomic import PathLike
from soka_tf.teachers.saved_model import manifest
from soka_tf.teachers.saved_model.network import SavedModelTeacher
from soka_tf.teachers.taskonomy import teacher_file
from soka_tf.teachers.teacher import Teacher


def load_teacher(
    teacher: PathLike,
    expected_sha256: Optional[str] = None,
    trust_saved_model: bool = False,
) -> Teacher:
    """Loads a frozen teacher.

    Args:
      teacher: a folder with a teacher.json and a SavedModel, or that teacher.json
        (docs/teachers.md has its fields); or a <task>.safetensors file of soka_tf. "~"
        is expanded.
      expected_sha256: the sha256 that a safetensors file must have, None to skip the
        check.
      trust_saved_model: whether a SavedModel may do more than compute, such as read
        files. One that does is refused otherwise, before it is loaded.

    Returns:
      A teacher: called on float32 [B, S, S, 3] in [-1, 1] it returns a dict with
      "prediction", float32 [B, S, S, C], and its layers by name, [B, h, w, c]. The
      prediction of a folder is in the range that its `prediction.range` names; that of
      a file in the range of the task's encoding.

    Raises:
      UserError: if it is missing, damaged, or not what its manifest says.
    """
    path = os.path.expanduser(os.fspath(teacher))
    if os.path.isdir(path) or path.endswith(".json"):
        return SavedModelTeacher(manifest.read_manifest(path), trust_saved_model)
    return teacher_file.load_teacher(path, expected_sha256)
