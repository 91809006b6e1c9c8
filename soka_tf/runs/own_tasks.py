"""Tasks of one's own among the bindings, so that a run's folder says what they are.

TensorFlow is not imported.
"""

from typing import Annotated, Any, Dict, Iterator, Mapping, Optional

import gin

from soka_tf.kinds import Kind, checked
from soka_tf.runs.declared import followed
from soka_tf.task_definitions import task_of
from soka_tf.tasks import TASKS, register_task

DEFINITIONS = "define_tasks.definitions"


def _are_definitions(value: Any) -> bool:
    return isinstance(value, Mapping) and all(task_of(*item) for item in value.items())


Definitions = Annotated[
    Optional[Mapping[str, Mapping[str, Any]]],
    Kind("a dictionary {name of a task: its definition}", _are_definitions),
]


@gin.configurable
def define_tasks(definitions: Definitions = None) -> None:
    """Registers tasks of one's own.

    Args:
      definitions: name -> definition, see `soka_tf.tasks.register_task`.

    Raises:
      UserError: if one is wrong, or another task has its name.
    """
    given = checked(DEFINITIONS, Definitions, definitions) or {}
    for name, definition in given.items():
        register_task(name, definition)


def register_bound(bound: Mapping[str, Any]) -> None:
    """Registers the tasks that bindings define, before others name them.

    Args:
      bound: of `soka_tf.runs.config.bound_values`.

    Raises:
      UserError: as `define_tasks`.
    """
    define_tasks.__wrapped__(followed(DEFINITIONS, bound.get(DEFINITIONS), bound)[1])


def named_definitions(bound: Mapping[str, Any]) -> Dict[str, Any]:
    """The definitions of all tasks of one's own that bindings name, from anywhere.

    Args:
      bound: of `soka_tf.runs.config.bound_values`.
    """
    named = {text.lower().replace("-", "_") for text in _texts(dict(bound))}
    return {
        name: task.definition
        for name, task in TASKS.items()
        if task.definition is not None and name in named
    }


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part)
