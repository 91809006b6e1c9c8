"""Reads PyTorch weight files with torch, which is an optional dependency."""

import pickle
import re
import zipfile
from types import ModuleType
from typing import Dict

import numpy as np

from soka_tf.atomic import PathLike
from soka_tf.errors import UserError, one_line, short

_PARALLEL = "module."  # what torch.nn.DataParallel writes before every name


def import_torch() -> ModuleType:
    """Imports torch.

    Raises:
      UserError: if it is absent, or older than 2.10, in which weights_only=True can be
        made to execute code (CVE-2026-24747).
    """
    try:
        import torch

        found = f"torch {torch.__version__}"
        if tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 10):
            return torch
    except (ImportError, OSError) as error:  # OSError: a library that it links to
        found = one_line(error)
    raise UserError(
        "PyTorch files need torch 2.10 or later, of the extra 'convert'. Received: "
        f"{found}. On Python 3.10 or later: python -m pip install 'torch>=2.10,<3'"
    )


def read_torch_file(path: PathLike) -> Dict[str, np.ndarray]:
    """Reads the state dict of a file written by torch.save, executing nothing.

    Args:
      path: an existing file that holds {"state_dict": {name: tensor}} or a bare
        {name: tensor}, in either of torch's two formats.

    Returns:
      Name -> array of the tensor's own shape and type, in the file's order. Where all
      names begin with "module.", they are given without it.

    Raises:
      UserError: if torch is absent, if it refuses the file, or if the file holds no
        state dict.
    """
    torch = import_torch()
    try:
        content = torch.load(
            path,
            map_location="cpu",
            weights_only=True,
            mmap=zipfile.is_zipfile(path),  # the legacy format cannot be mapped
        )
        state = content.get("state_dict", content)
        arrays = {name: tensor.numpy(force=True) for name, tensor in state.items()}
        if not arrays or not all(isinstance(name, str) for name in arrays):
            raise TypeError(f"its names are {short(list(arrays))}")
    except (AttributeError, TypeError) as error:
        raise UserError(
            f"{path}: holds no state dict of dense tensors ({one_line(error)}). Save "
            "{'state_dict': module.state_dict()} with torch.save."
        ) from error
    except Exception as error:  # torch raises nearly any on a damaged file
        raise UserError(
            f"{path}: torch.load(weights_only=True) refuses it: {_reason(error)}. It "
            "is damaged, or holds something else than tensors. Fetch it again, or save "
            "the state_dict() alone."
        ) from error
    if all(name.startswith(_PARALLEL) for name in arrays):
        return {name[len(_PARALLEL) :]: array for name, array in arrays.items()}
    return arrays


def _reason(error: Exception) -> str:
    """What torch found, without its advice to load the file unsafely."""
    text = str(error)
    named = re.search(r"GLOBAL (\S+)", text)
    if isinstance(error, pickle.UnpicklingError) and named:
        return f"it refers to {one_line(named[1])}"
    return one_line(re.split(r"\.\s", text)[0]) or type(error).__name__
