"""PyTorch files: read as torch wrote them, or refused in one line and not executed."""

import builtins
import os
import sys
import types

import numpy as np
import pytest

from soka_tf.errors import UserError
from soka_tf.teachers.torch_file import read_torch_file

LAYOUTS = ("zip", "legacy")


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="needs torch, of the extra 'convert'")


@pytest.fixture
def save(torch, tmp_path):
    """Returns a function that has torch write a file of either format."""

    def write(content, layout="zip"):
        path = tmp_path / f"{layout}.pth"
        torch.save(content, path, _use_new_zipfile_serialization=layout == "zip")
        return path

    return write


def assert_refused(path, *words):
    with pytest.raises(UserError) as error:
        read_torch_file(path)
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert message.isprintable() and len(message) < 1000
    # What torch advises: to load the file unsafely.
    assert "weights_only=False" not in message and "trust" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_state_dict_is_read_bit_for_bit_in_its_order(torch, save, layout):
    kernel = torch.arange(24.0).reshape(2, 3, 4)
    tensors = {
        "kernel": kernel,
        "a view": kernel.transpose(0, 2)[1:],
        "half": kernel.half(),
        "parameter": torch.nn.Parameter(kernel + 1),
        "steps": torch.tensor(7),
        "empty": torch.zeros(0, 3),
    }
    arrays = read_torch_file(save({"state_dict": tensors, "epoch": 3}, layout))
    assert list(arrays) == list(tensors)
    for name, tensor in tensors.items():
        expected = tensor.detach().numpy()
        assert arrays[name].dtype == expected.dtype
        np.testing.assert_array_equal(arrays[name], expected)


def test_bare_state_dict_of_a_parallel_module_is_read_without_its_prefix(torch, save):
    path = save({"module.weight": torch.ones(2), "module.bias": torch.zeros(1)})
    assert list(read_torch_file(path)) == ["weight", "bias"]


class Command:
    """Unpickled, it runs a command that leaves a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pickle_that_runs_a_command_is_refused_by_name_and_not_run(
    save, tmp_path, layout
):
    marker = tmp_path / "executed"
    path = save({"state_dict": Command(marker)}, layout)
    assert_refused(path, "it refers to", "system")
    assert not marker.exists()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_file_cut_off_is_refused(torch, save, layout, share):
    path = save({"state_dict": {"kernel": torch.ones(1000)}}, layout)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert_refused(path, "refuses it", "Fetch it again")


@pytest.mark.parametrize(
    "content",
    [b"<!DOCTYPE html>\n<html>404</html>", b"not weights", b"PK\x03\x04" + bytes(300)],
    ids=["html", "text", "zip_header"],
)
def test_file_of_something_else_is_refused(torch, tmp_path, content):
    path = tmp_path / "encoder.pth"
    path.write_bytes(content)
    assert_refused(path, "refuses it", "Fetch it again")


def test_file_without_a_state_dict_of_dense_tensors_is_refused(torch, save):
    contents = [
        [torch.ones(1)],
        {},
        {"state_dict": {"epoch": 3}},
        {"state_dict": {0: torch.ones(1)}},
        {"state_dict": {"bias": torch.ones(1, dtype=torch.bfloat16)}},
        {"state_dict": {"bias": torch.eye(2).to_sparse()}},
    ]
    for content in contents:
        assert_refused(save(content), "holds no state dict of dense tensors")


def test_missing_torch_is_one_error_that_names_the_extra(monkeypatch, tmp_path):
    imported = builtins.__import__

    def fail(name, *arguments, **options):
        if name == "torch":
            raise ImportError("No module named 'torch'")
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", fail)
    words = (
        "the extra 'convert'. Received: No module named 'torch'.*pip install 'torch>"
    )
    with pytest.raises(UserError, match=words):
        read_torch_file(tmp_path / "encoder.pth")


def test_torch_that_may_execute_a_file_is_refused(monkeypatch, tmp_path):
    before = types.SimpleNamespace(__version__="2.9.1+cpu")
    monkeypatch.setitem(sys.modules, "torch", before)
    with pytest.raises(UserError, match=r"2\.10 or later.* Received: torch 2\.9\.1"):
        read_torch_file(tmp_path / "encoder.pth")
