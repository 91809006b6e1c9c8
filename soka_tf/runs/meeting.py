"""Workers meet before TensorFlow connects them: who is awaited, and what differs.

TensorFlow waits for the other workers without a word, deaf to signals, and trains
workers that were told different things. Therefore all first tell worker 0 what they
were told, and hear from it who is missing and, at last, what everybody said. They use
the ports of TF_CONFIG, which TensorFlow opens only afterwards. A line of JSON each:

    a worker: {"number": 1, "facts": {"seed": "0", ...}}
    worker 0: {"missing": [2]}, now and then, then {"facts": [{...}, {...}, {...}]}
"""

import contextlib
import json
import select
import socket
import time
from typing import IO, Any, Dict, List, Mapping, Optional, Sequence

from absl import logging

from soka_tf.data.documents import parse_json
from soka_tf.errors import UserError, short
from soka_tf.runs.cluster import Cluster

Facts = Mapping[str, str]
_QUIET_SECONDS = 3.0  # workers are not started in the same moment
_REPEAT_SECONDS = 30.0
_SECONDS = 0.5  # between two looks
_PATIENCE = 5.0  # for an answer
_MOST_BYTES = 1 << 22
# What comes of a connection to, or from, somebody who does not speak as we do.
_NOT_OURS = (OSError, ValueError, LookupError, TypeError)


def meet(cluster: Cluster, facts: Facts) -> None:
    """Waits until all workers are there, saying for whom, and compares their facts.

    Args:
      cluster: of several workers; every one of them must call this.
      facts: names and values, the first of which to differ is told.

    Raises:
      UserError: if they differ, on all workers the same.
    """
    waiting = _Waiting(cluster)
    gather = _preside if cluster.number == 0 else _attend
    refuse_differences(cluster, gather(cluster, dict(facts), waiting))


def refuse_differences(cluster: Cluster, facts: Sequence[Facts]) -> None:
    """Refuses workers that were told different things.

    Args:
      cluster: of the workers.
      facts: of each of them.

    Raises:
      UserError: naming the first fact in which one differs from worker 0.
    """
    for name in dict.fromkeys(name for each in facts for name in each):
        values = [each.get(name, "not bound") for each in facts]
        for number, value in enumerate(values):
            if value != values[0]:
                raise UserError(
                    "all workers must train the same run. Received: "
                    f"{name} is {_cut(values[0])} for {cluster.name(0)} and "
                    f"{_cut(value)} for {cluster.name(number)}. Give the same command "
                    "on all workers, with a --model_dir and images that all see."
                )


def _cut(value: str) -> str:
    return value if len(value) <= 200 else short(value)


class _Waiting:
    """Says for whom is waited: soon, when that changes, and now and then."""

    def __init__(self, cluster: Cluster):
        self._cluster = cluster
        self._next = time.monotonic() + _QUIET_SECONDS
        self._said: Optional[List[int]] = None

    def say(self, missing: Sequence[int], why: str = "") -> None:
        now = time.monotonic()
        if self._said is not None and list(missing) != self._said:
            self._next = min(self._next, now)
        if now < self._next:
            return
        self._next, self._said = now + _REPEAT_SECONDS, list(missing)
        logging.info(
            "Waiting for %s of TF_CONFIG%s ...",
            ", ".join(map(self._cluster.name, missing)),
            f" ({why})" if why else "",
        )


def _preside(cluster: Cluster, facts: Facts, waiting: _Waiting) -> List[Facts]:
    """Worker 0: listens until all are there; returns the facts of each."""
    said: Dict[int, Facts] = {0: facts}
    guests: Dict[int, socket.socket] = {}
    everyone = range(len(cluster.addresses))
    with contextlib.ExitStack() as stack:
        with _open_port(cluster, waiting) as server:
            while missing := [number for number in everyone if number not in said]:
                waiting.say(missing)
                with contextlib.suppress(*_NOT_OURS):
                    guest = stack.enter_context(server.accept()[0])
                    guest.settimeout(_PATIENCE)
                    hello = _hear(stack.enter_context(guest.makefile("rb")))
                    number, theirs = int(hello["number"]), dict(hello["facts"])
                    if number in guests and not _is_gone(guests[number]):
                        _tell(guest, {"taken": number})
                    elif number in everyone[1:]:
                        said[number], guests[number] = theirs, guest
                for number in [n for n, guest in guests.items() if _is_gone(guest)]:
                    del said[number], guests[number]
                missing = [number for number in everyone if number not in said]
                for guest in guests.values() if missing else ():
                    with contextlib.suppress(OSError):
                        _tell(guest, {"missing": missing})
        # The port is free again: who knows all opens TensorFlow's and looks for it.
        for guest in guests.values():
            with contextlib.suppress(OSError):  # gone: TensorFlow will miss it
                _tell(guest, {"facts": [said[number] for number in everyone]})
                guest.recv(1)  # closed there first, so that the port does not linger
    return [said[number] for number in everyone]


def _open_port(cluster: Cluster, waiting: _Waiting) -> socket.socket:
    """Listens at worker 0's own port, as soon as another process has left it."""
    port = int(cluster.addresses[0].rpartition(":")[2])
    while True:
        try:
            both = socket.has_dualstack_ipv6()
            server = socket.create_server(
                ("", port),
                family=socket.AF_INET6 if both else socket.AF_INET,
                dualstack_ipv6=both,
            )
            server.settimeout(_SECONDS)
            return server
        except OSError as error:
            waiting.say([0], f"its port, which is to be opened here: {error.strerror}")
            time.sleep(_SECONDS)


def _attend(cluster: Cluster, facts: Facts, waiting: _Waiting) -> List[Facts]:
    """Other workers: look for worker 0 until it has told the facts of each."""
    host, _, port = cluster.addresses[0].rpartition(":")
    hello = {"number": cluster.number, "facts": facts}
    while True:
        # What else may answer there is no JSON: TensorFlow of a run that is ending.
        with contextlib.suppress(*_NOT_OURS):
            place = (host.strip("[]"), int(port))
            with contextlib.ExitStack() as stack:
                chief = stack.enter_context(socket.create_connection(place, _PATIENCE))
                lines = stack.enter_context(chief.makefile("rb"))
                _tell(chief, hello)
                while True:
                    heard = _hear(lines)
                    if "taken" in heard:
                        _refuse_number(cluster)
                    if "facts" in heard:
                        return heard["facts"]
                    waiting.say(heard["missing"])
        waiting.say([0])
        time.sleep(_SECONDS)


def _refuse_number(cluster: Cluster) -> None:
    raise UserError(
        f"another process is {cluster.name(cluster.number)} of TF_CONFIG already. Give "
        "each worker an index of its own."
    )


def _tell(to: socket.socket, message: Any) -> None:
    to.sendall(json.dumps(message).encode() + b"\n")


def _hear(lines: IO[bytes]) -> Any:
    """The next message; ValueError where there is none."""
    return parse_json(lines.readline(_MOST_BYTES), {})


def _is_gone(guest: socket.socket) -> bool:
    try:
        readable, _, _ = select.select([guest], [], [], 0)
        return bool(readable) and not guest.recv(1, socket.MSG_PEEK)
    except OSError:
        return True
