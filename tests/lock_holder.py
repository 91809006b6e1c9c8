"""A process that holds a lock, or does something else, until it is killed."""

import contextlib
import subprocess
import sys
from typing import Any, Iterator

from tests.tiny_runs import ROOT

_HOLD = """
import sys, time
from soka_tf.atomic import locked
with locked(sys.argv[1], "x"):
    print(flush=True)
    time.sleep(600)
"""


@contextlib.contextmanager
def held(path: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Another process holds the lock of this file meanwhile, and dies by SIGKILL."""
    command = [sys.executable, "-c", _HOLD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT) as holder:
        try:
            holder.stdout.readline()
            yield holder
        finally:
            holder.kill()
