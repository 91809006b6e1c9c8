"""The documents: their commands, what they name, and the pages made of them."""

import argparse
import importlib.util
import os
import re
import subprocess
import sys

import pytest
import tensorflow as tf

from soka_tf import cli, tasks
from soka_tf.errors import UserError
from soka_tf.runs.config import parse_gin
from soka_tf.runs.gin_text import read_gin
from soka_tf.tasks import register_task
from tests.documented_commands import DOCUMENTS, README, ROOT, code_in, commands_of
from tests.tools import load_tool, run_command, run_tool
from tools.teachers.settings import read_settings

COMMANDS = [command for document in DOCUMENTS for command in commands_of(document)]
needs_mkdocs = pytest.mark.skipif(
    importlib.util.find_spec("mkdocstrings") is None,
    reason="pages need mkdocstrings, which needs Python 3.10",
)


def test_readme_is_short_and_has_the_two_commands():
    lines = (ROOT / README).read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert {"    make demo", "    make test"} <= set(lines)


# What documents name


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_named_by_a_document_are_there(document):
    for code in code_in(document):
        if re.match(r"(soka_tf|tests|tools|gin|docs|examples)/[\w./*]+$", code):
            assert list(ROOT.glob(code)), code


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if "CHANGELOG" not in d])
def test_bindings_named_by_a_document_are_in_base(document):
    known = set(read_gin(["gin/base.gin"]))
    scopes = {name.split(".")[0] for name in known if "." in name}
    for code in code_in(document):
        name = re.match(r"([A-Za-z]\w*)\.[a-z]\w*(?= = |$)", code)
        is_binding = name and name[1] in scopes and "paper_map" not in document
        if is_binding and not name[0].endswith((".py", ".json")):
            assert name[0] in known, code


def test_every_gin_file_of_methods_and_rooms_is_in_the_table_of_commands():
    named = " ".join(code_in("docs/commands.md"))
    for folder in ("methods", "rooms"):
        for path in (ROOT / "gin" / folder).glob("*.gin"):
            assert re.search(rf"(^|[ /]){path.name}", named), path.name


# Commands


def test_commands_of_the_documents_are_found():
    names = {command.name for command in COMMANDS}
    tools = {p.stem for p in (ROOT / "tools").glob("*.py")} - {"__init__"}
    assert names >= {f"soka_tf.{n}" for n in ("train", "evaluate", "export", "predict")}
    assert names >= tools
    assert sum(command.whole for command in COMMANDS) > 40


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_flags_of_a_documents_command_exist(command, monkeypatch):
    if command.name == "xla_step":  # argparse's
        tool, arguments = load_tool(command.name), ["xla_step.py", *command.arguments]
        monkeypatch.setattr(sys, "argv", arguments)
        parsed = argparse.ArgumentParser.parse_args

        def stop(self):
            raise InterruptedError(parsed(self))

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop)
        with pytest.raises(InterruptedError):
            tool.main()
        return
    _flags_of(command)


def _flags_of(command):
    """The command's flags, parsed."""
    if command.name.startswith("soka_tf."):
        spec = importlib.util.find_spec(command.name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = load_tool(command.name)
    argv = [command.name, *command.arguments]
    if hasattr(module, "BENCHMARKS"):
        cli._take_command(argv, module.BENCHMARKS)
    try:
        cli._parse_flags(module.FLAGS, argv)
    except UserError as error:
        if command.whole or not re.match(r"--\w+ is required", str(error)):
            raise
    return module.FLAGS


CONFIGURED = [c for c in COMMANDS if any("--gin_" in a for a in c.arguments)]


@pytest.fixture
def tasks_of_teachers():
    """Knows the tasks that come with the folders of teachers, which are not here."""
    names = ("edges", "hed_edges")
    for name in names:
        register_task(name, {"kind": "probability", "title": "edges"})
    yield
    for name in names:
        del tasks.TASKS[name], tasks._BY_ANY_NAME[name]


@pytest.mark.parametrize("command", CONFIGURED, ids=str)
def test_gin_files_and_bindings_of_a_documents_command_parse(
    command, fresh_gin, tasks_of_teachers
):
    flags = _flags_of(command)
    files = flags.gin_file if "gin_file" in flags else []
    if command.name == "train_teachers":
        read_settings(files, flags.gin_param)
        return
    parse_gin(files, flags.gin_param)


# The README's commands, one after another


@pytest.fixture
def give(tmp_path, monkeypatch, capsys, fresh_gin, tiny):
    """Gives a command of the README in a folder that has what it names.

    Returns a function of the command's name and of further arguments, which make it
    tiny, that runs the first such command and returns what it printed.
    """
    (tmp_path / "path" / "to").mkdir(parents=True)
    (tmp_path / "path" / "to" / "photos").symlink_to(tiny.images)
    for name in ("gin", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)

    def run(name, *further):
        command = next(c for c in commands_of(README) if c.name == name and c.whole)
        arguments = [*command.arguments, *further]
        if name.startswith("soka_tf."):
            name = name.split(".")[1]
            done = run_command(name, *arguments, capsys=capsys, monkeypatch=monkeypatch)
        else:
            done = run_tool(name, *arguments, capsys=capsys)
        assert done.code == 0, done.err
        return done.out

    return run


def test_readmes_commands_on_your_images_and_teachers_work(give, tiny, tmp_path):
    bindings = [p for p in tiny.params() if not p.startswith("images_dir")]
    bindings += ["max_steps = 1", "schedule.joint_steps = 1"]
    # Graphs take time to trace, not to run.
    bindings += ["auxiliary = 'none'", "build_amalgamation.variant = None"]
    give("soka_tf.train", *(f"--gin_param={binding}" for binding in bindings))
    give("soka_tf.predict")
    maps = {path.name for path in (tmp_path / "runs" / "photos_maps").iterdir()}
    assert {"0.png", "5_domain_depth_zbuffer.png"} <= maps

    module = tf.Module()
    shape = tf.TensorSpec([None, 16, 16, 3], tf.float32)
    edges = tf.function(lambda images: {"edges": images[..., :1]}, [shape])
    tf.saved_model.save(module, "path/to/saved_model", signatures=edges)
    give("wrap_teacher", "--image_size=16")
    files = {path.name for path in (tmp_path / "runs" / "teachers" / "edges").iterdir()}
    assert files == {"saved_model", "teacher.json", "panel.png"}


@pytest.mark.slow
def test_readmes_command_for_the_papers_ablation_works(give, tiny, tmp_path):
    bindings = [
        f"rooms.dir = {str(tmp_path / 'rooms')!r}",
        *("rooms.count = 2", "rooms.train_views = 2", "rooms.validation_count = 2"),
        *("rooms.validation_views = 1", "run.export = False"),
    ]
    given = ("teachers_dir", "images_dir")  # by flags
    bindings += [p for p in tiny.params() if not p.startswith(given)]
    tiny_flags = [f"--teachers_dir={tiny.teachers}", "--steps=2", "--jobs=1"]
    give("reproduce", *tiny_flags, *(f"--gin_param={binding}" for binding in bindings))
    page = (tmp_path / "runs" / "study" / "table5.md").read_text(encoding="utf-8")
    rows = re.findall(r"(?m)^\| (KD|KD \+ MIA|KD \+ MIA \+ ACCT) +\|.*\d\.\d", page)
    assert len(set(rows)) == 3


# Pages


def _build(config, site_dir):
    """What a strict build of the pages ends with and says."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", f"--config-file={config}"]
        + ["--strict", f"--site-dir={site_dir}"],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


@needs_mkdocs
def test_pages_build_without_a_warning_and_ask_no_other_host(tmp_path):
    code, said = _build(ROOT / "mkdocs.yml", tmp_path)
    assert code == 0, said
    pages = {p.relative_to(tmp_path).as_posix(): p for p in tmp_path.rglob("*.html")}
    documents = {path.stem for path in (ROOT / "docs").glob("*.md")}
    assert {f"{name}.html" for name in documents} | {"index.html"} <= set(pages)
    for name, page in pages.items():
        text = page.read_text(encoding="utf-8")
        asked = re.findall(r'<(?:script|link|img)[^>]* (?:src|href)="?(https?:)', text)
        assert not asked, name
    interface = pages["api.html"].read_text(encoding="utf-8")
    assert "soka_tf.teachers.load_teacher" in interface
    assert "or a &lt;task&gt;.safetensors file" in interface  # of a docstring


@needs_mkdocs
def test_links_of_a_page_lead_to_pages_or_files_and_broken_ones_fail(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "code.py").write_text("")
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "try.ipynb").write_text("{}")
    (tmp_path / "examples" / "README.md").write_text("# Try\n\n[it](try.ipynb)\n")
    (tmp_path / "README.md").write_text("# Read\n\n[docs/a.md](docs/a.md#here)\n")
    page = tmp_path / "docs" / "a.md"
    good = (
        "# Title of a\n\n[`code.py`](../code.py), [this](../code.py), "
        "[../README.md](../README.md), `[no](link.py)`\n\n## Here\n\n"
        "    [neither](this.py)\n"
    )
    page.write_text(good)
    config = tmp_path / "mkdocs.yml"
    config.write_text(
        "site_name: test\n"
        "theme: {name: mkdocs, highlightjs: false}\n"
        "plugins: []\n"
        f"hooks: [{ROOT / 'tools' / 'documents' / 'repository_links.py'}]\n"
        "use_directory_urls: false\n"
        "validation: {links: {anchors: warn}}\n"
        "extra:\n"
        "  repository_pages: {README.md: index.md, examples/README.md: try.md}\n"
    )
    code, said = _build(config, tmp_path / "site")
    assert code == 0, said
    text = (tmp_path / "site" / "a.html").read_text()
    assert "<code>code.py</code>, this (<code>code.py</code>), " in text
    assert '<a href="index.html">Read</a>, <code>[no](link.py)</code>' in text
    assert "[neither](this.py)" in text
    start = (tmp_path / "site" / "index.html").read_text()
    assert '<a href="a.html#here">Title of a</a>' in start
    assert '<a href="try.ipynb">it</a>' in (tmp_path / "site" / "try.html").read_text()
    assert (tmp_path / "site" / "try.ipynb").is_file()

    page.write_text(good.replace("../code.py), [", "../gone.py), [", 1))
    code, said = _build(config, tmp_path / "site")
    assert code == 1 and "docs/a.md links to gone.py, which does not exist" in said
    page.write_text(good.replace("## Here", "## There"))
    code, said = _build(config, tmp_path / "site")
    assert code == 1 and "#here" in said
