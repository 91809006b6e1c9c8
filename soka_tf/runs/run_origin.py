"""What a run's student comes from, noted for the model cards of its exports."""

from typing import Any, Dict

from soka_tf.data.filesystem import sha256_of
from soka_tf.runs.build_run import Run
from soka_tf.serving.origin import SHIPPED_LICENSE, Origin, without_folders
from soka_tf.teachers.finding import SHIPPED_DIR
from soka_tf.teachers.saved_model.network import SavedModelTeacher
from soka_tf.teachers.teacher import Teacher


def origin_of(run: Run) -> Origin:
    """Teachers and images of a run that is built."""
    pool, files = run.model.teachers, run.teacher_files
    paths = {**files.targets, **files.auxiliaries}
    roles = {"target": pool.targets, "auxiliary": pool.auxiliaries}
    images = {
        "source": without_folders(run.data.source),
        "train": len(run.data.train),
        "validation": len(run.data.validation),
    }
    if run.data.validation_source:
        images["validation_source"] = without_folders(run.data.validation_source)
    return Origin(
        supervision=run.settings.supervision,
        teachers=[
            {"task": name, "role": role, **_described(teacher, paths[name])}
            for role, teachers in roles.items()
            for name, teacher in teachers.items()
        ],
        images=images,
    )


def _described(teacher: Teacher, path: Any) -> Dict[str, Any]:
    is_folder = isinstance(teacher, SavedModelTeacher)
    shipped = path.parent.resolve() == SHIPPED_DIR.resolve()
    licence = teacher.manifest.license if isinstance(teacher, SavedModelTeacher) else ""
    return {
        "file": path.parent.resolve().name if is_folder else path.name,
        "sha256": sha256_of(path) if path.is_file() and not is_folder else None,
        "fingerprint": teacher.fingerprint if is_folder else None,
        "license": (SHIPPED_LICENSE if shipped else licence) or None,
        "shipped": shipped,
        "image_size": teacher.image_size,
        "parameters": teacher.count_parameters(),
    }
