"""The direction of imports, and imports that would break something quietly."""

import ast
import pathlib
from typing import Iterator, Tuple

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "soka_tf"

# A room imports only from rooms that stand left of it, and from itself.
ROOMS = (
    "stack",
    "errors",
    "tool_commands",
    "kinds",
    "atomic",
    "processes",
    "task_rows",
    "task_definitions",
    "tasks",
    "data",
    "networks",
    "teachers",
    "soka",
    "evaluation",
    "serving",
    "runs",
)
# Beside the rooms: the start-up shared by the commands, and the commands.
COMMANDS = ("__main__", "train", "evaluate", "export", "predict", "serve", "list")
WITHOUT_TENSORFLOW = (
    "__init__.py",
    "__main__.py",
    "list.py",
    "stack.py",
    "errors.py",
    "tool_commands.py",
    "kinds.py",
    "atomic.py",
    "processes.py",
    "task_rows.py",
    "task_definitions.py",
    "tasks.py",
    "cli.py",
    "data/encodings.py",
    "runs/advice.py",
    "runs/config.py",
    "runs/declared.py",
    "runs/gin_text.py",
)

FILES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def imported_names(tree: ast.AST) -> Iterator[Tuple[str, ast.AST]]:
    """Yields every imported dotted name, wherever the import stands."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node


def tree_of(path: pathlib.Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def room_of(file: str) -> str:
    return file.split("/")[0].replace(".py", "")


def wrong_imports(file: str, tree: ast.AST) -> list:
    """Returns what `file` imports and must not, by its place among the rooms."""
    room = room_of(file)
    if room in COMMANDS:
        allowed = {*ROOMS, "cli"}
    elif room == "api":
        allowed = {*ROOMS}
    elif room == "cli":
        allowed = {"stack", "errors", "tool_commands"}
    elif room == "__init__":
        allowed = {"stack"}
    else:
        allowed = set(ROOMS[: ROOMS.index(room) + 1])
    wrong = []
    for name, _ in imported_names(tree):
        top, _, rest = name.partition(".")
        if top in ("tools", "tests"):
            wrong.append(name)
        # The package itself, for its version, is everybody's.
        if top == "soka_tf" and rest.split(".")[0] not in {*allowed, "", "__version__"}:
            wrong.append(name)
    return wrong


def at_module_level(tree: ast.Module) -> Iterator[str]:
    """Yields the names imported when the module itself is imported."""
    inside = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for child in ast.walk(node)
    }
    for name, node in imported_names(tree):
        if id(node) not in inside:
            yield name


@pytest.mark.parametrize("file", FILES)
def test_imports_of_each_file_come_from_the_left(file):
    assert wrong_imports(file, tree_of(PACKAGE / file)) == []


@pytest.mark.parametrize(
    "file, line, wrong",
    [
        ("data/x.py", "from soka_tf.networks import encoder", True),
        ("data/x.py", "import soka_tf.tasks", False),
        ("soka/x.py", "from soka_tf import cli", True),
        ("tasks.py", "def f():\n    from soka_tf.soka import model", True),
        ("train.py", "from soka_tf import cli", False),
        ("serving/x.py", "from tools import convert", True),
    ],
)
def test_wrong_imports_on_examples_sees_them(file, line, wrong):
    assert bool(wrong_imports(file, ast.parse(line))) == wrong


@pytest.mark.parametrize("file", FILES)
def test_private_parts_of_keras_and_gin_are_not_imported(file):
    for name, _ in imported_names(tree_of(PACKAGE / file)):
        assert not name.startswith(("keras", "gin.tf", "tensorflow.python")), name
    text = (PACKAGE / file).read_text(encoding="utf-8")
    assert "tf.keras.src" not in text and "tensorflow.keras" not in text


def test_tensorflow_addons_is_imported_in_one_module_and_lazily():
    users = []
    for file in FILES:
        tree = tree_of(PACKAGE / file)
        if any(n.startswith("tensorflow_addons") for n, _ in imported_names(tree)):
            users.append(file)
            for name in at_module_level(tree):
                assert not name.startswith("tensorflow_addons"), file
    assert len(users) <= 1, users


@pytest.mark.parametrize("file", FILES)
def test_flags_and_gin_queries_stay_out_of_the_library(file):
    if room_of(file) in (*COMMANDS, "cli"):
        pytest.skip("commands read flags")
    tree = tree_of(PACKAGE / file)
    for name, _ in imported_names(tree):
        assert not name.startswith("absl.flags"), name
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    asked = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    assert "FLAGS" not in used
    assert not asked & {"query_parameter", "get_bindings", "parse_config_file"}
    if file not in ("runs/config.py", "runs/gin_text.py"):  # read gin text
        assert not asked & {"parse_config", "config_parser"}


@pytest.mark.parametrize("file", WITHOUT_TENSORFLOW)
def test_light_modules_do_not_import_tensorflow_at_their_top(file):
    for name in at_module_level(tree_of(PACKAGE / file)):
        assert not name.startswith("tensorflow"), name


@pytest.mark.parametrize("file", [f"{name}.py" for name in COMMANDS])
def test_commands_do_not_import_tensorflow_before_cli_has_silenced_it(file):
    if not (PACKAGE / file).exists():
        pytest.skip(f"{file} does not exist")
    names = list(at_module_level(tree_of(PACKAGE / file)))
    assert "soka_tf.cli" in names
    for name in names[: names.index("soka_tf.cli")]:
        assert not name.startswith(("tensorflow", "soka_tf.")), name


def test_gin_folder_holds_only_gin_files():
    # With a Python file in it, the folder would hide gin-config.
    others = [p for p in (ROOT / "gin").rglob("*") if p.is_file()]
    assert [p.name for p in others if p.suffix != ".gin"] == []
