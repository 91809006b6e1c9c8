"""What --gin_param of tools/reproduce.py may bind."""

from typing import Sequence

from soka_tf.errors import UserError
from soka_tf.runs.gin_text import read_gin
from tools.studies.study import Study
from tools.studies.training import Setting


def check(params: Sequence[str], studies: Sequence[Study], setting: Setting) -> None:
    """Refuses bindings that would make the rows of a study alike.

    Args:
      params: values of --gin_param.
      studies: chosen.
      setting: of their runs.

    Raises:
      UserError: naming them, or what is no binding.
    """
    own = {"tasks", "max_steps", "seed", "run.tasks", "run.max_steps", "run.seed"}
    for study in studies:
        for training in study.trainings:
            own |= set(map(_short, setting.names_of(training)))
    given = [_name_of(param) for param in params]
    taken = [name for name in given if _short(name) in own]
    if taken:
        raise UserError(
            f"--gin_param: {', '.join(taken)} is bound by the chosen studies "
            "themselves (--steps and --seeds set length and seeds). Others are free."
        )


def _name_of(param: str) -> str:
    """The name that a binding binds."""
    try:
        names = list(read_gin((), [param]))
    except UserError as error:
        raise UserError(f"--gin_param must be 'name = value'. {error}.") from error
    if len(names) != 1:
        raise UserError(f"--gin_param must be 'name = value'. Received: {param!r}.")
    (name,) = names
    flag = name.split(".")[-1]
    if flag in ("teachers_dir", "taskonomy_dir"):
        raise UserError(f"--gin_param: {param!r} would not be seen. Give --{flag}.")
    return name


def _short(name: str) -> str:
    """A binding's name as our gin files have it, without module."""
    return ".".join(name.split(".")[-2:])
