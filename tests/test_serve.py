"""The command that serves the page: what it prints, refuses and leaves."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import numpy as np
import pytest

from soka_tf.evaluation import image_grid
from soka_tf.serving import server
from soka_tf.tool_commands import extra_command
from tests import tiny_export
from tests.tiny_runs import ROOT
from tests.tools import run_command


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    pytest.importorskip("waitress")
    folder = tmp_path_factory.mktemp("run")
    tiny_export.write(folder / "saved_model", tiny_export.TASKS[:1])
    return folder


def ask(address, path="", data=None):
    request = urllib.request.Request(address + path, data)
    request.add_header("Content-Type", "application/octet-stream")
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


@pytest.fixture
def ctrl_c():
    """A shell ignores Ctrl-C in what runs in its background; children then do, too."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c")
def test_command_prints_an_address_answers_and_ends_with_ctrl_c(export, tmp_path):
    command = [sys.executable, "-m", "soka_tf.serve", f"--saved_model={export}"]
    command += ["--port=0", "--most_upload_mb=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # the tests' own
    with subprocess.Popen(
        command,
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said = process.stdout.readline()
            address = re.fullmatch(r"Open (http://127\.0\.0\.1:\d+/) .*\n", said)[1]
            assert b"Try a student" in ask(address)[1]
            noise = np.random.default_rng(0).integers(0, 256, (500, 600, 3), np.uint8)
            content = image_grid.encoded(noise)
            # More than waitress would keep in memory of itself.
            assert 1 << 19 < len(content) < 1 << 20
            status, answer = ask(address, "predict", content)
            assert status == 200
            (drawn,) = json.loads(answer)["students"][0]["maps"]
            status, raw = ask(address, drawn["raw"])
            assert status == 200 and raw.startswith(b"\x89PNG")
            status, answer = ask(address, "predict", bytes((1 << 20) + 1))
            assert status == 413 and "at most 1 MiB" in json.loads(answer)["error"]
            assert os.listdir(tmp_path) == []
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=120)
        finally:
            process.kill()
    assert (process.returncode, out) == (0, "Stopped.\n"), err
    assert err == f"Loading {export}/saved_model ...\n"


@pytest.fixture
def refused(capsys, monkeypatch):
    """Returns a function that runs the command here and expects one line of error."""

    def run(*flags, said):
        done = run_command("serve", *flags, capsys=capsys, monkeypatch=monkeypatch)
        assert done.code == 2 and done.out == "", done.err
        last = done.err.strip().splitlines()[-1]
        assert last.startswith("soka_tf.serve: error: ") and said in last, done.err
        assert "Traceback" not in done.err
        return done.err

    return run


def test_command_without_an_export_says_what_it_looked_for(refused, tmp_path):
    refused(f"--saved_model={tmp_path}", said=f"{tmp_path}/saved_model/saved_model.pb")


def test_command_without_its_packages_says_how_to_get_them(
    refused, export, monkeypatch, tmp_path
):
    monkeypatch.setitem(sys.modules, "flask", None)
    monkeypatch.setattr(server, "bind", None)  # not even asked
    refused(f"--saved_model={export}", said='`pip install -e ".[serve]"`')
    installed = extra_command("serve", tmp_path / "soka_tf")
    assert installed == '`pip install "soka_tf[serve]"`'


def test_command_on_a_taken_port_is_refused_before_anything_is_loaded(refused, export):
    with server.bind("127.0.0.1", 0) as other:
        port = other.getsockname()[1]
        err = refused(
            f"--saved_model={export}", f"--port={port}", said=f"--port {port}"
        )
    assert "Loading" not in err


@pytest.mark.parametrize(
    "flag", ["port=65536", "port=-1", "most_upload_mb=0", "most_megapixels=90"]
)
def test_command_flags_out_of_range_are_refused(refused, export, flag):
    name, value = flag.split("=")
    refused(f"--saved_model={export}", f"--{flag}", said=f"--{name}={value}")


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_command_on_an_address_that_is_not_its_own_is_refused(refused, export, host):
    said = f"Cannot listen on --host '{host}'"
    refused(f"--saved_model={export}", f"--host={host}", "--port=0", said=said)
