"""What a SavedModel would run, read without loading it.

A SavedModel is a program: TensorFlow has operations that read and write files, open
connections or call Python, and loading runs some of them. Those of a network do none
of this, so a SavedModel with any other is refused unless its maker is trusted.
"""

import collections
import os
import re
from typing import Dict, Iterable, Iterator, Set

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from soka_tf.errors import UserError, one_line

GRAPH = "saved_model.pb"
# Of every SavedModel: they save and load its variables. Python's loader does that by
# itself, and never runs these.
SAVER = {"MergeV2Checkpoints", "RestoreV2", "SaveV2", "ShardedFilename"}
# Families of operations by what their names hold: files, other processes and hosts,
# Python, compiled code, and whatever of datasets, queues and devices leads there.
# tests/networks/test_untrusted.py looks for gaps among all that TensorFlow has.
_OUTSIDE = re.compile(
    r"Abort|Accumulator|Barrier|BoostedTrees|Cache|CandidateSampler|Checkpoint|"
    r"Collective|Dataset|Debug|Distributed|Dump|Event|Fdo|File|Heartbeat|Host|Infeed|"
    r"Iterator|LMDB|LoadAndRemap|Minibatch|Mutex|Nccl|Outfeed|Print|Proto|PyFunc|Queue|"
    r"Reader|Record|Recv|Remote|Restore|Save|Send|Session|Sql|Stage|Stats|Summary|"
    r"TPU|ThreadPool|Unstage|Vocab|Xla(Call|Custom|Launch|SparseCore)|"
    r"^Copy$|^ImmutableConst$|^(Ordered)?Map(Clear|IncompleteSize|Peek|Size)"
)


def refuse_programs(folder: str, remedy: str = "Export the student again.") -> None:
    """Refuses a SavedModel that does more than compute.

    Args:
      folder: of the SavedModel.
      remedy: what to do where it cannot be read, a sentence.

    Raises:
      UserError: if its graph cannot be read, is TensorFlow 1's (loading runs any of
        it), or has operations that reach outside of the network. Saving and restoring
        are allowed where nothing that is loaded can reach them.
    """
    path = os.path.join(folder, GRAPH)
    graph = _read(path, remedy)
    library = {one.signature.name: one for one in graph.graph_def.library.function}
    reached = _reached(graph, library.values())
    for name, function in library.items():
        _check(path, function.node_def, f"the function {name}", name not in reached)
    _check(path, graph.graph_def.node, "the graph", True)


def _read(path: str, remedy: str) -> "tf.compat.v1.MetaGraphDef":
    content = saved_model_pb2.SavedModel()
    try:
        with open(path, "rb") as file:
            content.ParseFromString(file.read())
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}.") from error
    except Exception as error:  # protobuf's own, of no public name
        raise UserError(
            f"{path} is damaged or no SavedModel ({one_line(error)}). {remedy}"
        ) from error
    graphs = content.meta_graphs
    if len(graphs) != 1 or not graphs[0].HasField("object_graph_def"):
        raise UserError(
            f"{path} is a SavedModel of TensorFlow 1, which runs when it is loaded. "
            "Give --trust_saved_model if you trust who made it."
        )
    return graphs[0]


def _reached(graph: "tf.compat.v1.MetaGraphDef", functions: Iterable) -> Set[str]:
    """The functions that loading or a signature may run, by name."""
    calls: Dict[str, Set[str]] = collections.defaultdict(set)
    reached = set(graph.object_graph_def.concrete_functions)
    for function in functions:
        calls[function.signature.name].update(_called(function.node_def))
        if "api_implements" in function.attr:  # may take another one's place
            reached.add(function.signature.name)
    for gradient in graph.graph_def.library.gradient:
        calls[gradient.function_name].add(gradient.gradient_func)
    new = reached
    while new:
        new = set().union(*(calls[name] for name in new)) - reached
        reached = reached | new
    return reached


def _called(nodes: Iterable) -> Iterator[str]:
    for node in nodes:
        for value in node.attr.values():
            yield value.func.name
            yield from (function.name for function in value.list.func)


def _check(path: str, nodes: Iterable, where: str, may_save: bool) -> None:
    for node in nodes:
        if may_save and node.op in SAVER:
            continue
        if reaches_outside(node.op):
            raise UserError(
                f"{path} does more than compute: {where} has the operation "
                f"{one_line(node.op, 80)!r}. Give --trust_saved_model if you trust who "
                "made it."
            )


def reaches_outside(operation: str) -> bool:
    """Whether an operation is not TensorFlow's, or not one that only computes."""
    return bool(_OUTSIDE.search(operation)) or not hasattr(tf.raw_ops, operation)
