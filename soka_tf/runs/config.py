"""Bindings: files, single ones and stored configurations are bound and checked.

Files and bindings that a user gives may import modules; a configuration stored with a
run holds bindings and runs nothing. TensorFlow is not imported.
"""

import re
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
)

from soka_tf.errors import UserError, did_you_mean
from soka_tf.runs.gin_text import (
    Placed,
    bindings_in,
    bindings_of,
    in_words,
    name_of,
    of_files,
    of_params,
    parse,
    read_gin,
    read_text,
)

import gin  # isort: skip (its absence is told by gin_text)
from gin import config_parser  # isort: skip

from soka_tf.runs import own_tasks
from soka_tf.runs.declared import check_bound, followed, parameters_named

# What nobody's stored configuration may grant; see SECURITY.md.
_NEVER_STORED = ("trust_saved_model",)
_OF_TEACHERS = ("find_teachers.teachers_dir", "find_teachers.folders")
# The bindings that `parse_gin` found in files.
_in_files: Dict[str, Any] = {}
# The modules that given files and bindings have imported.
_imported: Set[str] = set()
_STORED_HINT = "; give the --gin_file that imports its module"


def parse_gin(
    gin_files: Sequence[str],
    gin_params: Sequence[str],
    base: Optional[str] = "gin/base.gin",
    stored: Optional[str] = None,
) -> None:
    """Binds base, the stored file, the files and single bindings; later ones win.

    Parsing is strict and leaves the configuration open, so that gin's operative
    configuration can be read, or another file parsed, afterwards. The modules whose
    configurables are bound must have been imported before.

    Args:
      gin_files: names for `find_gin_file`; what they import is imported first.
      gin_params: bindings such as "run.seed = 1" or "images_dir = 'photos'".
      base: the file of defaults, None for none.
      stored: path of a run's operative_config.gin, to continue or use the run. It may
        hold bindings only, and refer to what is registered once the files' modules
        are imported.

    Raises:
      UserError: for anything gin does not accept; names the file or the flag, the
        binding, and near names.
    """
    files = import_modules(gin_files)
    defaults = list(of_files([base] if base else []))
    for place, statement in defaults:
        _bind(place, statement)
    for place, statement in _of_stored(stored) if stored else ():
        _bind(place, statement, _STORED_HINT)
    for place, statement in files:
        _bind(place, statement)
    _in_files.clear()
    _in_files.update(bound_values())
    single = list(of_params(gin_params))
    for place, statement in single:
        _bind(place, statement)
    try:
        # Runs gin's checks of macros and required values without staying locked.
        with gin.unlock_config():
            gin.finalize()
    except ValueError as error:
        raise UserError(_describe_unset(str(error))) from error
    _refuse_unread([*defaults, *files, *single])
    own_tasks.register_bound(bound_values())
    if stored is None:  # a run's own configuration has the tasks; teachers may be gone
        _register_tasks_of_teachers(bound_values())
    for name, value in check_bound(bound_values()).items():
        gin.parse_config(f"{name} = {value!r}")
    if stored and not base:
        _refuse_incomplete(stored)
    _keep_definitions()


def _keep_definitions() -> None:
    """Has the configuration of whatever is built define its tasks, too."""
    definitions = own_tasks.named_definitions(bound_values())
    if definitions:
        gin.parse_config(f"{own_tasks.DEFINITIONS} = {definitions!r}")
        own_tasks.define_tasks()


def _register_tasks_of_teachers(bound: Dict[str, Any]) -> None:
    """Has teachers' folders say which tasks there are, before bindings name these."""
    values = {name: followed(name, bound.get(name), bound)[1] for name in _OF_TEACHERS}
    try:
        check_bound(values)
    except UserError:
        return  # to be refused with the place where it is bound
    if any(values.values()):
        from soka_tf.teachers.finding import teacher_folders  # with it comes TensorFlow

        teacher_folders(*values.values())


def _refuse_incomplete(stored: str) -> None:
    """A whole stored configuration binds all that has no default in the code."""
    bound = bound_values()
    needed = (name for name in read_gin(["gin/base.gin"]) if "." in name)
    missing = [name for name in needed if name not in bound and _has_no_default(name)]
    if missing:
        raise UserError(
            f"{stored} is not whole: it does not bind {', '.join(missing)}. Put back "
            "the run's own file"
        )


def _has_no_default(name: str) -> bool:
    selector, _, parameter = name.rpartition(".")
    try:
        declared = parameters_named(selector)[parameter]
    except (KeyError, ValueError):  # of a part that this command does without
        return False
    return declared.default is declared.empty


def _refuse_unread(placed: Sequence[Placed]) -> None:
    """A misspelt `images_dir = ...` would set a macro that is never read."""
    values = [repr(getattr(statement, "value", "")) for _, statement in placed]
    read = set(re.findall(r"%([\w/.]+)", "\n".join([gin.config_str(), *values])))
    for place, statement in placed:
        for name in _macros(bindings_in([(place, statement)])) - read:
            near = did_you_mean(name, read)
            raise UserError(f"{place}: no gin file uses %{name}{near}")


def import_modules(gin_files: Sequence[str]) -> List[Placed]:
    """Imports the modules that gin files import, and binds nothing.

    For commands that take a run's bindings from its stored configuration.

    Args:
      gin_files: names for `find_gin_file`.

    Returns:
      The other statements, each with its place.

    Raises:
      UserError: as `parse_gin`.
    """
    bindings = []
    for place, statement in of_files(gin_files):
        if isinstance(statement, config_parser.ImportStatement):
            _bind(place, statement)
        else:
            bindings.append((place, statement))
    return bindings


def _of_stored(path: str) -> Iterator[Placed]:
    """Parses a stored configuration, which comes with weights: it is data."""
    for place, statement in parse(read_text(path), path):
        if isinstance(statement, config_parser.BindingStatement):
            if statement.arg_name not in _NEVER_STORED:
                yield place, statement
        elif getattr(statement, "module", None) in _imported:
            continue  # of a version that stored imports, and imported by the user
        elif not isinstance(statement, config_parser.BlockDeclaration):
            raise UserError(
                f"{place}: a stored configuration may hold bindings only. Give the "
                "--gin_file that imports the module, if you trust that module, or "
                "remove the line"
            )


def operative_config() -> str:
    """Returns what the build has used: gin's operative configuration, bindings only."""
    return re.sub(r"(?m)\A((import|from) .*\n)+\n*", "", gin.operative_config_str())


def bound_values() -> Dict[str, Any]:
    """Returns what is bound now, as `read_gin` returns what it read."""
    return bindings_of(gin.config_str(), "the bound configuration")


def bound_value(name: str) -> Any:
    """What a binding is at last, all macros replaced; None where nothing binds it."""
    bound = bound_values()
    return followed(name, bound.get(name), bound)[1]


def unused_bindings() -> List[str]:
    """Lists bindings that were parsed and that nothing built so far has used.

    To be called after the build. Returns "scope/name.parameter" (macros: "name"),
    sorted; a binding overridden by an explicit argument counts as unused. Left out are
    the files' values of parts that this run does without, such as a rule not chosen.
    """
    used: Set[str] = set()
    for key in bindings_of(gin.operative_config_str(), "operative configuration"):
        # A call inside scope a/b also reads the bindings of a, and those of no scope.
        *scopes, name = key.split("/")
        used.update("/".join([*scopes[:n], name]) for n in range(len(scopes) + 1))
    built = {key.rpartition(".")[0] for key in used} | {""}  # "": macros
    return sorted(
        key
        for key, value in bound_values().items()
        if key not in used
        and (key.rpartition(".")[0] in built or _in_files.get(key) != value)
    )


def _macros(names: Iterable[str]) -> Set[str]:
    return {name for name in names if "." not in name}


def _bind(place: str, statement: Any, hint: str = "") -> None:
    if isinstance(statement, config_parser.ImportStatement):
        text = statement.format()
    else:
        text = f"{name_of(statement)} = {statement.value!r}"
    try:
        gin.parse_config(text)
    except Exception as error:  # gin raises nearly every built-in exception
        message = in_words(str(error).split("\n  In ")[0])
        near = _near_names(message, getattr(statement, "arg_name", None))
        near += hint if message.startswith("No configurable matching") else ""
        raise UserError(f"{place}: {message}{near}") from error
    if isinstance(statement, config_parser.ImportStatement):
        _imported.add(statement.module)


def _near_names(message: str, bound: Optional[str]) -> str:
    """Near names for gin's commonest complaints, of whoever binds such a parameter."""
    unknown = re.match(r"No configurable matching (reference )?'@?([^'()]+)", message)
    elsewhere = [key for key in bound_values() if key.endswith(f".{bound}")]
    there = f"; there is {' and '.join(elsewhere)}" if elsewhere else ""
    if unknown:
        there = "" if unknown[1] else there  # a reference, of whatever is bound to it
        keys = elsewhere if there else bound_values()
        names = {key.split("/")[-1].rpartition(".")[0] for key in keys} - {""}
        return did_you_mean(unknown[2], names) or there
    parameter = re.match(
        r"Configurable '(.+)' doesn't have a parameter named '(.+)'", message
    )
    if parameter:
        known = sorted(parameters_named(parameter[1]))
        near = did_you_mean(parameter[2], known)
        return near or there or f"; it has {', '.join(known) or 'none'}"
    return ""


def _describe_unset(message: str) -> str:
    macro = re.match(r"No bindings specified for '(.+)/gin\.macro'", message)
    if not macro:
        return message.splitlines()[0]
    name = macro[1]
    near = did_you_mean(name, _macros(bound_values()), show=lambda n: f"%{n}")
    return (
        f"the gin files use %{name}, which nothing sets{near}; "
        f'set it with --gin_param="{name} = ..."'
    )


def or_user_error(binding: str, build: Callable[[], Any]) -> Any:
    """What `build` returns; a ValueError as a UserError that begins with `binding`."""
    try:
        return build()
    except ValueError as error:
        text = str(error).removeprefix(binding)  # networks begin with their own name
        raise UserError(binding + text) from error


def made_by(binding: str, reference: Any, *arguments: Any, **keywords: Any) -> Any:
    """What a bound configurable makes; what is bound itself where it is none.

    Args:
      binding: names it in errors where it has no name of its own.
      reference: what is bound.
      *arguments: of the call, as `keywords`.
      **keywords: of the call.
    """
    if not callable(reference):
        return reference
    name = getattr(reference, "__name__", binding)
    return or_user_error(f"{name}: ", lambda: reference(*arguments, **keywords))
