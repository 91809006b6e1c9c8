r"""Turns a published Taskonomy network into a teacher: one file, weights and manifest.

From a TensorFlow 1 checkpoint of the taskbank,

    python tools/convert_teacher.py --task=depth_zbuffer \
        --taskbank_checkpoint=runs/published/rgb2depth/model.permanent-ckpt \
        --out=runs/teachers/depth_zbuffer.safetensors

or from the PyTorch files of visual-prior (the decoder's only where there is one):

    python tools/convert_teacher.py --task=depth_zbuffer \
        --visual_prior_encoder=runs/published/depth_zbuffer_encoder-{sha256}.pth \
        --visual_prior_decoder=runs/published/depth_zbuffer_decoder-{sha256}.pth \
        --out=runs/teachers/depth_zbuffer.safetensors

PyTorch files need torch 2.10 or later: python -m pip install -e ".[convert]".
`python tools/write_teacher_files.py` writes such files to try this with. A folder of
<task>.safetensors is what the binding teachers_dir of a run takes. Nothing in a weight
file is executed.

With --check=FOLDER the teacher in --out, converted now or before, is compared layer by
layer with the reference data in FOLDER; the exit code is 1 where one differs by more
than it may. That holds for weights of `python tools/write_teacher_files.py` only,
without --salt.
"""

import os
from typing import Any, Dict, Sequence

from absl import flags, logging

from soka_tf import cli
from soka_tf.errors import UserError

FLAGS = flags.FlagValues()
_TASK = flags.DEFINE_string(
    "task", None, "the task, by any of its names", flag_values=FLAGS
)
_TASKBANK = flags.DEFINE_string(
    "taskbank_checkpoint",
    None,
    "prefix of a TensorFlow 1 checkpoint, or a folder with just one",
    flag_values=FLAGS,
)
_ENCODER = flags.DEFINE_string(
    "visual_prior_encoder", None, "PyTorch file of the encoder", flag_values=FLAGS
)
_DECODER = flags.DEFINE_string(
    "visual_prior_decoder", None, "PyTorch file of the decoder", flag_values=FLAGS
)
_OUT = flags.DEFINE_string(
    "out",
    None,
    "the teacher's file, or a folder: <task>.safetensors in it",
    required=True,
    flag_values=FLAGS,
)
_CHECK = flags.DEFINE_string(
    "check",
    None,
    "folder of reference data to compare the teacher with",
    flag_values=FLAGS,
)


def main() -> int:
    """Converts, or checks, or both."""
    converts = bool(_TASKBANK.value or _ENCODER.value or _DECODER.value)
    _check_flags(converts)
    out = _out_file()
    if converts:
        out = convert(out)
    return report(out) if _CHECK.value else 0


def _check_flags(converts: bool) -> None:
    if not converts and not _CHECK.value:
        raise UserError(
            "nothing to convert: --taskbank_checkpoint or --visual_prior_encoder is "
            "required (--help has examples)"
        )
    if converts and not _TASK.value:
        raise UserError("--task is required: the file does not have it")
    if _TASKBANK.value and (_ENCODER.value or _DECODER.value):
        raise UserError(
            "--taskbank_checkpoint and --visual_prior_... name the same network in two "
            "formats; give one of them"
        )
    if _DECODER.value and not _ENCODER.value:
        raise UserError("--visual_prior_decoder needs --visual_prior_encoder beside it")


def _out_file() -> str:
    """The teacher's file; within a folder it is called <task>.safetensors."""
    from soka_tf.tasks import get_task

    out = os.path.expanduser(_OUT.value)
    if not out:
        raise UserError("--out is empty; name the teacher's file")
    if os.path.isdir(out) or out.endswith(os.sep):
        if not _TASK.value:
            raise UserError(
                f"--out={out} is a folder: --task is required, to name the file in it"
            )
        out = os.path.join(out, f"{get_task(_TASK.value).name}.safetensors")
    return out


def convert(out: str) -> str:
    """Writes the teacher, whole or not at all; returns its path."""
    from soka_tf.tasks import get_task
    from soka_tf.teachers.taskonomy.taskbank import load_taskbank
    from soka_tf.teachers.taskonomy.teacher_file import save_teacher
    from soka_tf.teachers.taskonomy.visual_prior import load_visual_prior

    task = get_task(_TASK.value)
    _check_folder_of(out)
    _keep_inputs(out)
    if _TASKBANK.value:
        teacher, source = load_taskbank(task.name, _TASKBANK.value)
    else:
        teacher, source = load_visual_prior(task.name, _ENCODER.value, _DECODER.value)
    _warn_of_source(task, teacher, source["source"])
    digest = save_teacher(teacher, out, details=source)
    if os.path.basename(out) != f"{task.name}.safetensors":
        logging.warning(
            "A run looks for %s.safetensors in its teachers_dir.", task.name
        )
    parts = "encoder and decoder" if teacher.decoder else "encoder"
    logging.info(
        "Wrote %s: %s of %s (%s), %s parameters, sha256 %s.",
        out,
        parts,
        task.name,
        task.role,
        f"{teacher.count_parameters():,}",
        digest,
    )
    return out


def _check_folder_of(out: str) -> None:
    """Refuses, before the work, a place where nothing can be written."""
    folder = os.path.dirname(os.path.abspath(out))
    while not os.path.lexists(folder):
        folder = os.path.dirname(folder)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        kind = "cannot be written to" if os.path.isdir(folder) else "is not a folder"
        raise UserError(f"--out={out}: {folder} {kind}. Name another place.")


def _keep_inputs(out: str) -> None:
    """Refuses to write over what is read."""
    from soka_tf.teachers.taskonomy.taskbank import checkpoint_files, find_prefix

    inputs = [_ENCODER.value, _DECODER.value]
    if _TASKBANK.value:
        inputs = checkpoint_files(find_prefix(_TASKBANK.value))
    for path in filter(None, inputs):
        path = os.path.expanduser(path)
        if os.path.exists(path) and os.path.realpath(path) == os.path.realpath(out):
            raise UserError(f"--out={out} is one of the files to read. Name another.")


def _warn_of_source(task: Any, teacher: Any, source: Dict[str, Any]) -> None:
    if task.role == "target" and teacher.decoder is None:
        logging.warning(
            "Without --visual_prior_decoder this teacher can be an auxiliary only."
        )
    if not source.get("names_verified", True):
        logging.warning(
            "No sha256 stands in the name of a file, so that it could not be verified. "
            "Published files are named {task}_{encoder|decoder}-{sha256}.pth."
        )


def report(path: str) -> int:
    """Prints the comparison; returns the exit code."""
    from soka_tf.teachers.taskonomy.parity import check
    from soka_tf.teachers.taskonomy.teacher_file import load_teacher

    rows = check(load_teacher(path), os.path.expanduser(_CHECK.value))
    print(format_report(rows))
    failed = [row for row in rows if not row.passed]
    if failed:
        first = failed[0]
        print(
            f"FAILED: {len(failed)} of {len(rows)} comparisons differ by more than "
            f"they may; the first is {first.layer} ({first.runtime})."
        )
        return 1
    for runtime in dict.fromkeys(row.runtime for row in rows):
        ends = [
            f"{row.absolute:.1e} in {row.layer}"
            for row in rows
            if row.runtime == runtime and row.layer.endswith("_output")
            if row.array != "statistics"
        ]
        print(f"passed against {runtime}: largest difference {', '.join(ends)}")
    return 0


def format_report(rows: Sequence[Any]) -> str:
    """The comparisons as a table, a line for each array of a layer."""
    from tabulate import tabulate

    runtimes = list(dict.fromkeys(row.runtime for row in rows))
    lines: Dict[Any, Dict[str, Any]] = {}
    for row in rows:
        lines.setdefault((row.layer, row.array), {})[row.runtime] = row
    table = [["layer", "array"]]
    for runtime in runtimes:
        table[0] += [f"{runtime} abs", "rel", ""]
    for (layer, array), compared in lines.items():
        line = [layer, array]
        for runtime in runtimes:
            row = compared.get(runtime)
            numbers = (
                [f"{row.absolute:.1e}", f"{row.relative:.1e}"] if row else ["", ""]
            )
            line += [*numbers, "" if row is None or row.passed else "TOO FAR"]
        table.append(line)
    return tabulate(table, headers="firstrow", tablefmt="simple", disable_numparse=True)


if __name__ == "__main__":
    cli.run(main, FLAGS)
