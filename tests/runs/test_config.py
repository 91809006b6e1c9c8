"""gin text: files found, parsed and refused, read back and compared."""

import importlib.util
import os
import pathlib
import sys
import types

import gin
import pytest

from soka_tf.errors import UserError
from soka_tf.runs import config, gin_text


@gin.configurable(module="config_test")
def brew(minutes=3, kind="green", *, cup=None):
    return minutes, kind, cup


@gin.register(module="config_test", denylist=["owner"])
class Kettle:
    def __init__(self, litres=1.0, owner=None):
        self.litres = litres


@pytest.fixture(autouse=True)
def clean_gin():
    gin.clear_config()
    yield
    gin.clear_config()


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """A folder of shipped files, and a working folder without any."""
    root = tmp_path / "installed" / "gin"
    (root / "rooms").mkdir(parents=True)
    (root / "base.gin").write_text("brew.minutes = 4\nsize = 64\nbrew.cup = %size\n")
    (root / "rooms" / "demo.gin").write_text(
        "# a comment\ninclude 'gin/base.gin'\n\nbrew.kind = 'black'\n"
    )
    (root / "rooms" / "soka.gin").write_text('include "gin/rooms/demo.gin"  # more\n')
    monkeypatch.setattr(gin_text, "config_root", lambda: root)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    return root


def write(folder, text, name="my.gin"):
    path = pathlib.Path(folder) / name
    path.write_text(text)
    return str(path)


def message_of(*args, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        config.parse_gin(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# find_gin_file


@pytest.mark.parametrize("name", ["gin/rooms/demo.gin", "rooms/demo.gin"])
def test_find_gin_file_shipped_name_from_any_folder_finds_it(shipped, name):
    assert gin_text.find_gin_file(name) == str(shipped / "rooms" / "demo.gin")


def test_find_gin_file_file_here_wins_over_shipped(shipped):
    os.makedirs("rooms")
    write("rooms", "", "demo.gin")
    assert gin_text.find_gin_file("rooms/demo.gin") == "rooms/demo.gin"


def test_find_gin_file_misspelt_names_the_nearest(shipped):
    with pytest.raises(UserError, match="did you mean gin/rooms/demo.gin"):
        gin_text.find_gin_file("gin/rooms/demos.gin")


def test_find_gin_file_folder_says_so(shipped, tmp_path):
    with pytest.raises(UserError, match="is a folder, not a gin file"):
        gin_text.find_gin_file(str(tmp_path))


def test_config_root_in_the_repository_holds_base_gin():
    assert (gin_text.config_root() / "base.gin").is_file()


# parse_gin: what holds


def test_parse_gin_order_base_then_files_then_params(shipped, tmp_path):
    stored = write(tmp_path, "brew.minutes = 5\nbrew.kind = 'white'\n")
    config.parse_gin([stored, "rooms/demo.gin"], ["size = 128"])
    # demo.gin includes base.gin again, which is later than the stored file.
    assert brew() == (4, "black", 128)


def test_parse_gin_nested_includes_resolve_from_any_folder(shipped):
    config.parse_gin(["rooms/soka.gin"], [], base=None)
    assert brew() == (4, "black", 64)


def test_parse_gin_include_beside_the_users_file_is_found(shipped, tmp_path):
    write(tmp_path, "brew.minutes = 9\n", "common.gin")
    mine = write(tmp_path, "include 'common.gin'\ninclude 'rooms/demo.gin'\n")
    config.parse_gin([mine], ["brew.cup = None"], base=None)
    assert brew() == (4, "black", None)


def test_parse_gin_folder_gin_here_does_not_replace_shipped_includes(shipped):
    os.makedirs("gin")
    write("gin", "brew.minutes = 99\n", "base.gin")
    config.parse_gin(["rooms/demo.gin"], [], base=None)
    assert brew()[0] == 4


def test_parse_gin_leaves_the_configuration_open(shipped):
    config.parse_gin([], [])
    assert not gin.config_is_locked()
    config.parse_gin([], ["brew.minutes = 1"])
    assert brew()[0] == 1
    assert "brew.minutes = 1" in gin.operative_config_str()


# parse_gin: what is refused


def test_parse_gin_unknown_configurable_names_line_and_near_name(shipped, tmp_path):
    path = write(tmp_path, "\nbrew.minutes = 1\nbrwe.kind = 'red'\n")
    message = message_of([path], [])
    assert f"{path}, line 3: brwe.kind = 'red'" in message
    assert "did you mean brew?" in message


def test_parse_gin_line_after_an_include_is_numbered_truly(shipped, tmp_path):
    path = write(tmp_path, "include 'gin/base.gin'\n\nbrew.x = 1\n")
    assert f"{path}, line 3:" in message_of([path], [])


def test_parse_gin_unknown_parameter_names_flag_and_near_name(shipped):
    message = message_of([], ["brew.minuts = 1"])
    assert "--gin_param 'brew.minuts = 1'" in message
    assert "did you mean minutes?" in message


def test_parse_gin_parameter_of_another_configurable_is_shown_there(shipped):
    for former in ("teapot.cup = 1", "Kettle.cup = 1"):
        assert message_of([], [former]).endswith("; there is brew.cup")


def test_parse_gin_unknown_parameter_of_a_class_lists_its_parameters(shipped):
    assert "it has litres, owner" in message_of([], ["Kettle.colour = 1"])


def test_parse_gin_denied_parameter_is_refused(shipped):
    assert "Kettle.owner" in message_of([], ["Kettle.owner = 1"])


@pytest.mark.parametrize(
    "text, part",
    [
        ("brew.kind = green", "a text needs quotes"),
        ("brew.kind 'green'", "a binding is written"),
        ("brew.minutes = [1, 2", "my.gin"),
        ("brew.minutes = (1", "my.gin"),
        ("  $%", "my.gin"),
        ("brew.kind = @Kettel", "did you mean Kettle?"),
        ("import no_such_module_xyz", "no_such_module_xyz"),
    ],
)
def test_parse_gin_bad_text_becomes_one_line(shipped, tmp_path, text, part):
    config.parse_gin([], ["Kettle.litres = 2.0"])
    path = write(tmp_path, text + "\n")
    message = message_of([path], [])
    assert path in message and part in message


def test_parse_gin_missing_include_names_file_line_and_near_name(shipped, tmp_path):
    path = write(tmp_path, "\ninclude 'gin/rooms/dem.gin'\n")
    message = message_of([path], [])
    assert f"{path}, line 2" in message
    assert "did you mean gin/rooms/demo.gin" in message


def test_parse_gin_include_cycle_is_named(shipped, tmp_path):
    first = write(tmp_path, "include 'second.gin'\n", "first.gin")
    write(tmp_path, "include 'first.gin'\n", "second.gin")
    assert "includes itself" in message_of([first], [])


def test_parse_gin_macro_never_set_is_named_with_near_name(shipped, tmp_path):
    path = write(tmp_path, "brew.cup = %sise\n")
    message = message_of([path], [])
    assert "%sise, which nothing sets" in message
    assert "did you mean %size?" in message
    assert not gin.config_is_locked()


def test_parse_gin_param_that_no_file_reads_is_refused(shipped):
    assert "did you mean size?" in message_of([], ["sizes = 3"])


def test_parse_gin_binary_file_is_refused(shipped, tmp_path):
    path = tmp_path / "model.gin"
    path.write_bytes(b"\x89PNG\xff\xfe\x00")
    assert "cannot read the gin file" in message_of([str(path)], [])


def test_parse_gin_required_value_never_given_is_named(shipped, tmp_path):
    path = write(tmp_path, "brew.cup = %gin.REQUIRED\n")
    assert "brew.cup" in message_of([path], [])


def test_import_without_gin_config_says_what_to_install(monkeypatch):
    empty = types.ModuleType("gin")
    empty.__path__ = ["somewhere/gin"]
    monkeypatch.setitem(sys.modules, "gin", empty)
    monkeypatch.delitem(sys.modules, "gin.config_parser")
    spec = importlib.util.spec_from_file_location("a_copy", gin_text.__file__)
    with pytest.raises(UserError, match="pip install gin-config"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# unused_bindings


def test_unused_bindings_after_build_lists_only_what_nobody_read(shipped):
    config.parse_gin(
        [], ["Kettle.litres = 2.0", "a/brew.minutes = 8", "b/brew.kind=''"]
    )
    with gin.config_scope("a"):
        brew()
    assert config.unused_bindings() == ["Kettle.litres", "b/brew.kind"]


def test_unused_bindings_includes_macros(shipped):
    config.parse_gin([], ["brew.cup = 1"])
    brew()
    assert config.unused_bindings() == ["size"]


def test_unused_bindings_of_a_part_that_is_not_built_are_those_of_no_file(
    shipped, tmp_path
):
    base, own = shipped / "base.gin", tmp_path / "own.gin"
    base.write_text(base.read_text() + "Kettle.litres = 1.5\n")
    own.write_text("Kettle.litres = 1.0\n")
    config.parse_gin([str(own)], [])
    brew()
    assert config.unused_bindings() == []
    config.parse_gin([], ["Kettle.litres = 2.0"])
    assert config.unused_bindings() == ["Kettle.litres"]


# Reading back


def test_differing_bindings_read_folded_values_and_missing_ones():
    stored = "# a comment\na.b = \\\n    ['x',\n     'y']\nrun.tasks = 1\nmax = 3\n"
    current = "a.b = ['x', 'y']\nrun.tasks = 2\nmin = 4\n"
    assert gin_text.differing_bindings(stored, current) == [
        "max: 3 -> not bound",
        "min: not bound -> 4",
        "run.tasks: 1 -> 2",
    ]
    both = gin_text.differing_bindings(stored, current, of_both=True)
    assert both == ["run.tasks: 1 -> 2"]


def test_differing_bindings_of_what_is_no_gin_text_names_the_line():
    with pytest.raises(UserError, match="the stored configuration, line 2: b 2: Could"):
        gin_text.differing_bindings("a = 1\nb 2\n", "a = 1\n")


def test_differing_bindings_tell_references_from_texts_and_leave_out_free_ones():
    stored, current = "a.b = %c\nc = 1\n", "a.b = '%c'\nc = 2\n"
    found = gin_text.differing_bindings(stored, current, free=["c"])
    assert found == ["a.b: %c -> '%c'"]


def test_read_gin_binds_nothing_and_is_written_as_it_was_read(shipped, tmp_path):
    text = (
        "include 'rooms/demo.gin'\nnowhere.known = [\n    @a/b(),  # why\n    %size]\n"
        "brew:\n    minutes = 7\n    kind = 'a' 'b#'\n"
    )
    read = gin_text.read_gin([write(tmp_path, text)], ["x/brew.cup = {'a': (1,)}"])
    assert gin_text.format_gin(read) == (
        "brew.cup = %size\nbrew.kind = 'ab#'\nbrew.minutes = 7\n"
        "nowhere.known = [@a/b(), %size]\nsize = 64\nx/brew.cup = {'a': (1,)}\n"
    )
    assert gin_text.read_gin([write(tmp_path, gin_text.format_gin(read))]) == read
    assert brew() == (3, "green", None)


# A stored configuration comes with weights, from anywhere: it is data.


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that leaves a file where it is imported, and registers `Steep`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(config, "_imported", set())
    name = f"of_the_user_{tmp_path.name}"
    ran = tmp_path / "ran"
    write(
        tmp_path,
        "import gin, pathlib\n"
        f"pathlib.Path({str(ran)!r}).write_text('ran')\n"
        f"@gin.register('Steep', module={name!r})\n"
        "class Steep: pass\n",
        f"{name}.py",
    )
    return types.SimpleNamespace(name=name, ran=ran)


@pytest.mark.parametrize(
    "line",
    [
        "import {module}",
        "from {module} import Steep",
        "import {module} as brew",
        "import json",
        "from __gin__ import dynamic_registration",
        "include 'other.gin'",
    ],
)
def test_stored_configuration_with_more_than_bindings_is_refused(
    shipped, tmp_path, module, line
):
    write(tmp_path, f"import {module.name}\n", "other.gin")
    line = line.format(module=module.name)
    stored = write(tmp_path, f"brew.kind = 'black'\n{line}\n")
    message = message_of([], [], base=None, stored=stored)
    assert message.startswith(f"{stored}, line 2: {line}: a stored configuration")
    assert "--gin_file" in message
    assert not module.ran.exists() and module.name not in sys.modules


@pytest.mark.parametrize("value", ["@Steep", "@Steep()", "@os.system('true')"])
def test_stored_reference_to_what_nobody_imported_says_what_to_do(
    shipped, tmp_path, module, value
):
    stored = write(tmp_path, f"\nbrew.kind = {value}\n")
    message = message_of([], [], base=None, stored=stored)
    assert message.startswith(f"{stored}, line 2")
    assert "give the --gin_file that imports" in message or "(" in value
    assert not module.ran.exists()


def test_stored_reference_to_what_the_users_gin_file_imports_is_bound(
    shipped, tmp_path, module
):
    mine = write(tmp_path, f"import {module.name}\nbrew.kind = 'black'\n", "mine.gin")
    # The import is that of a version which stored imports, too.
    text = f"import {module.name}\nbrew.minutes = 7\nbrew.cup = @Steep\n"
    stored = write(tmp_path, text, "stored.gin")
    config.import_modules([mine])
    config.parse_gin([], [], base=None, stored=stored)
    assert brew()[:2] == (7, "green") and brew()[2].__name__ == "Steep"
    gin.clear_config()
    config.parse_gin([mine], [], base=None, stored=stored)
    assert brew()[:2] == (7, "black")
    kept = config.operative_config()
    assert "import" not in kept and "brew.cup = @" in kept
    config.parse_gin([], [], base=None, stored=write(tmp_path, kept, "kept.gin"))
