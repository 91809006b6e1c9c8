"""What is built and installed: metadata, gin files and teachers in the wheel."""

import ast
import email
import importlib.util
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import soka_tf
from soka_tf.tool_commands import tool_command
from tests.test_imports import imported_names

OF_CHECKOUT = ("tools", "tests")
ROOT = pathlib.Path(__file__).resolve().parents[1]
TOOLS = ast.literal_eval(
    re.search(r"^TOOLS = (\(.*?\n\))", (ROOT / "setup.py").read_text(), re.M | re.S)[1]
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from a copy: a build leaves files in its folder."""
    if importlib.util.find_spec("wheel") is None:
        pytest.skip("building a wheel offline needs the packages wheel and setuptools")
    source = tmp_path_factory.mktemp("a source")
    ignore = shutil.ignore_patterns("__pycache__")
    for name in ("soka_tf", "gin", "tools"):
        shutil.copytree(ROOT / name, source / name, ignore=ignore)
    for name in ("setup.py", "pyproject.toml", "requirements.txt", "LICENSE"):
        shutil.copy(ROOT / name, source)
    # Present in every build, so that the test does not depend on what is shipped.
    deep = source / "gin" / "deep" / "deeper"
    deep.mkdir(parents=True)
    (deep / "x.gin").write_text("# data\n")
    weights = source / "soka_tf" / "teachers" / "weights"
    weights.mkdir(exist_ok=True)
    (weights / "probe.safetensors").write_bytes(b"data")
    (weights / "manifest.json").write_text("{}")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--quiet", "-w", str(source / "dist"), "."]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = (source / "dist").glob("*.whl")
    return path


def test_wheel_carries_every_gin_file_inside_the_package(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    for path in (ROOT / "gin").rglob("*.gin"):
        inside = path.relative_to(ROOT / "gin").as_posix()
        assert f"soka_tf/configs/gin/{inside}" in names
    assert "soka_tf/configs/gin/deep/deeper/x.gin" in names


def test_wheel_carries_the_teachers(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("probe.safetensors", "manifest.json"):
        assert f"soka_tf/teachers/weights/{name}" in names
    assert "soka_tf/teachers/taskonomy/visual_prior_files.txt" in names


def test_wheel_carries_the_template_of_the_page(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    assert "soka_tf/evaluation/report.html.jinja" in names


def test_wheel_carries_the_page(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("templates/page.html", "static/page.css", "static/page.js"):
        assert f"soka_tf/serving/{name}" in names


def test_wheel_installs_nothing_at_the_top_but_the_package(wheel):
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert tops == {"soka_tf", f"soka_tf-{soka_tf.__version__}.dist-info"}


def test_wheel_metadata_tells_version_pythons_and_requirements(wheel):
    archive = zipfile.ZipFile(wheel)
    (name,) = [n for n in archive.namelist() if n.endswith("/METADATA")]
    metadata = email.message_from_bytes(archive.read(name))
    assert metadata["Version"] == soka_tf.__version__
    assert set(metadata["Requires-Python"].split(",")) == {">=3.9", "<3.14"}
    # Setuptools before 77 writes a hyphen.
    requirements = metadata.get_all("Requires-Dist")
    requirements = [line.replace("tf-keras", "tf_keras") for line in requirements]
    for requirement in ("tensorflow==2.15.1", "tensorflow-addons==0.23.0"):
        assert f'{requirement}; python_version < "3.12"' in requirements
    for requirement in ("tensorflow==2.21.0", "tf_keras==2.21.0"):
        assert f'{requirement}; python_version >= "3.12"' in requirements
    extras = {"convert", "docs", "gpu", "onnx", "serve", "video"}
    assert set(metadata.get_all("Provides-Extra")) == extras
    with_cuda = [line for line in requirements if line.startswith("tensorflow[and-")]
    assert [line.split(";")[0].strip() for line in with_cuda] == [
        f"tensorflow[and-cuda]=={version}" for version in ("2.15.1", "2.21.0")
    ]


def test_wheel_carries_the_tools_that_need_no_checkout_and_no_others(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tools = [name for name in names if name.startswith("soka_tf/tools/")]
    wanted = ("__init__", *TOOLS)
    assert sorted(tools) == [f"soka_tf/tools/{name}.py" for name in wanted]
    assert "wrap_teacher" in TOOLS and "convert_teacher" in TOOLS


@pytest.mark.parametrize("name", TOOLS)
def test_tool_of_the_wheel_imports_no_other_module_of_the_checkout(name):
    tree = ast.parse((ROOT / "tools" / f"{name}.py").read_text(encoding="utf-8"))
    assert not [n for n, _ in imported_names(tree) if n.split(".")[0] in OF_CHECKOUT]


def told(tree):
    """The parts of strings that are no docstrings."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    documented = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, kinds) and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in documented:
                yield node.value


@pytest.mark.parametrize(
    "path",
    [
        *sorted((ROOT / "soka_tf").rglob("*.py")),
        *(ROOT / "tools" / f"{name}.py" for name in TOOLS),
    ],
    ids=lambda path: path.relative_to(ROOT).as_posix(),
)
def test_messages_of_the_wheel_name_tools_by_the_command_that_works(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    named = [text for text in told(tree) if re.search(r"tools/\w+\.py", text)]
    assert not named, "say tool_command(...) of soka_tf.tool_commands"


def test_installed_tools_are_explained_and_named_as_installed(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=tmp_path,
            env=dict(os.environ, PYTHONPATH=str(site)),
            capture_output=True,
            text=True,
        )
        assert (done.returncode, done.stderr) == (0, ""), arguments
        return done.stdout

    commands = run("soka_tf")
    for name in TOOLS:
        assert f"python -m soka_tf.tools.{name} " in commands
        text = run(f"soka_tf.tools.{name}", "--help")
        assert f"python -m soka_tf.tools.{name}" in text
        assert "python tools/" not in text and "Flags:" in text
    assert "tools/" not in commands
    for package, named in (
        (site / "soka_tf", "`python -m soka_tf.tools.wrap_teacher`"),
        (ROOT / "soka_tf", "`python tools/wrap_teacher.py`"),
    ):
        assert tool_command("wrap_teacher", package) == named
    missing = tool_command("train_teachers", site / "soka_tf")
    assert missing == "tools/train_teachers.py of a checkout"


def test_installed_wheel_outside_the_repository_finds_its_gin_files(wheel, tmp_path):
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    (site / "soka_tf" / "configs" / "gin" / "base.gin").touch()
    code = (
        "import gin; gin.configurable\n"
        "from soka_tf.runs import gin_text\n"
        "print(gin_text.config_root())\n"
        "print(gin_text.find_gin_file('gin/deep/deeper/x.gin'))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=dict(os.environ, PYTHONPATH=str(site)),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    root = site / "soka_tf" / "configs" / "gin"
    assert done.stdout.split("\n")[:2] == [str(root), str(root / "deep/deeper/x.gin")]


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_requirements_are_bounded_and_each_has_its_reason(file):
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
    previous = ""
    for line in lines:
        if line and not line.startswith("#"):
            assert re.search(r"==|<", line), f"{line} has no upper bound"
            assert previous.startswith("#"), f"{line} has no reason above it"
        previous = line


def test_ci_run_is_executable_and_calls_make_test():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")
