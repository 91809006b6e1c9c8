"""The processes of TF_CONFIG that train together. TensorFlow is not imported."""

import os
from typing import List, NamedTuple

from soka_tf.data.documents import parse_json
from soka_tf.errors import UserError

EXAMPLE = (
    '{"cluster": {"worker": ["host1:12345", "host2:12345"]}, '
    '"task": {"type": "worker", "index": 0}}'
)
_SHAPE = {"cluster": {str: [str]}, "task": {"type": str, "index": int}}


class Cluster(NamedTuple):
    """Who trains together.

    Attributes:
      addresses: "host:port" of each worker, the chief's first; none without TF_CONFIG.
      number: of this process among them.
    """

    addresses: List[str] = []
    number: int = 0

    def name(self, number: int) -> str:
        """A worker, for messages."""
        return f"worker {number} ({self.addresses[number]})"


def read_cluster() -> Cluster:
    """The workers that TF_CONFIG names.

    Raises:
      UserError: if it is not as TensorFlow wants it, or names others than workers.
    """
    text = os.environ.get("TF_CONFIG")
    if not text:
        return Cluster()
    wrong = f"TF_CONFIG must look like {EXAMPLE}, "
    try:
        config = parse_json(text, _SHAPE)
        cluster, task = config["cluster"], config["task"]
        kinds = set(cluster)
        own = cluster[task["type"]]
        there = 0 <= task["index"] < len(own)
        # A "chief", where the cluster has one, comes before all workers.
        chiefs, workers = cluster.get("chief", []), cluster.get("worker", [])
        before = len(chiefs) if task["type"] == "worker" else 0
        found = Cluster([*chiefs, *workers], before + task["index"])
        there &= all(a.rpartition(":")[2].isdigit() for a in found.addresses)
    except (ValueError, KeyError) as error:
        raise UserError(f"{wrong}and be JSON. Received: {text[:200]!r}.") from error
    if kinds - {"worker", "chief"} or not there:
        raise UserError(
            f"{wrong}with workers only, each host:port, and an index among them. "
            f"Received: {text[:200]!r}."
        )
    return found


def in_cluster() -> bool:
    """Whether this process is one of several workers."""
    return len(read_cluster().addresses) > 1


def is_chief() -> bool:
    """Whether this process writes the results: it trains alone, or is worker 0."""
    return read_cluster().number == 0
