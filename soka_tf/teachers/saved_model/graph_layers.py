"""The activations inside a SavedModel's graph, made outputs of its signature.

Works on the file alone, without loading: the functions that a signature calls are
copied with further outputs, and the signature is pointed to the copies; variables stay
as they are. That holds for Keras 2 and 3 and plain modules, whatever their layers. Out
of reach are activations within loops and conditions, those of TensorFlow 1's files, and
networks that are one compiled operation (XlaCallModule, of JAX).
"""

import os
import re
import shutil
from typing import Any, Dict, List, NamedTuple, Tuple

import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from soka_tf.errors import UserError, one_line
from soka_tf.networks.untrusted import GRAPH

# Operation -> name of the output that is an activation.
_ACTIVATIONS = {
    **dict.fromkeys(("Relu", "Relu6", "LeakyRelu", "Elu", "Selu"), "activations"),
    **dict.fromkeys(("BiasAdd", "Conv2D", "DepthwiseConv2dNative"), "output"),
    **dict.fromkeys(("MaxPool", "AvgPool", "ConcatV2"), "output"),
    **dict.fromkeys(("AddV2", "Mul"), "z"),
    "FusedBatchNormV3": "y",
}
_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_COPY = "_with_layers"
_FLOATS = (tf.float16, tf.bfloat16, tf.float32)


class Output(NamedTuple):
    """A tensor of a function's body: name to show, reference in the body, type."""

    name: str
    reference: str
    dtype: int


def expose(saved_model: str, signature: str, out: str, names: Any = None) -> List[str]:
    """Writes a copy of a SavedModel whose signature has further outputs.

    Args:
      saved_model: its folder.
      signature: the function to extend.
      out: the folder to write; must not exist.
      names: activations that a former call has listed; None for all of them.

    Returns:
      Their names, in the order of the graph.

    Raises:
      UserError: if it cannot be read, or has none of the signature or the names.
    """
    path = os.path.join(saved_model, GRAPH)
    content = saved_model_pb2.SavedModel()
    try:
        with open(path, "rb") as file:
            content.ParseFromString(file.read())
        (graph,) = content.meta_graphs
    except Exception as error:  # protobuf's own, of no public name
        raise UserError(f"{path} cannot be read ({one_line(error)}).") from error
    wrapper = _signature_node(graph, signature)
    if wrapper is None:
        raise UserError(f"{path}: there is no signature {signature!r} of TensorFlow 2.")
    library = {one.signature.name: one for one in graph.graph_def.library.function}
    found = _extend(graph, library, wrapper.concrete_function_name, {}, names)
    exposed = [output.name for output in found]
    missing = sorted(set(names or ()) - set(exposed))
    if missing:
        raise UserError(
            f"{saved_model}: the graph has no activation {', '.join(missing)}. Give "
            "--saved_model alone to list them."
        )
    if found:
        _make_outputs(graph, wrapper, found)
    ignore = shutil.ignore_patterns("fingerprint.pb")  # of the graph as it was
    shutil.copytree(saved_model, out, ignore=ignore)
    with open(os.path.join(out, GRAPH), "wb") as file:
        file.write(content.SerializeToString())
    return exposed


def _signature_node(graph: Any, signature: str) -> Any:
    """What the object graph says of a signature's function; None without."""
    nodes = graph.object_graph_def.nodes

    def child(node: Any, name: str) -> Any:
        ids = [c.node_id for c in node.children if c.local_name == name]
        return nodes[ids[0]] if ids else None

    signatures = child(nodes[0], "signatures") if nodes else None
    found = child(signatures, signature) if signatures else None
    return found.bare_concrete_function if found else None


def _extend(
    graph: Any,
    library: Dict[str, Any],
    function: str,
    done: Dict[str, List[Output]],
    names: Any,
    taken: Any = None,
) -> List[Output]:
    """Adds a copy of a function that returns activations, its own and of its callees.

    Returns:
      What the copy returns beside what the function does.
    """
    taken = set() if taken is None else taken
    if function in done:  # one that is called twice: its first call alone is shown
        return []
    copy = type(library[function])()
    copy.CopyFrom(library[function])
    copy.signature.name += _COPY
    found: List[Output] = done.setdefault(function, [])
    for node in copy.node_def:
        if node.op in _CALLS and node.attr["f"].func.name in library:
            callee = node.attr["f"].func.name
            inner = _extend(graph, library, callee, done, names, taken)
            types = node.attr["Tout"].list.type
            for output in inner:
                reference = f"{node.name}:output:{len(types)}"
                types.append(output.dtype)
                found.append(output._replace(reference=reference))
            if inner:
                node.attr["f"].func.name += _COPY
                node.attr.pop("_output_shapes", None)
        elif node.op in _ACTIVATIONS and _type_of(node) in _FLOATS:
            name = _unique(node.name, taken)
            if names is None or name in names:
                reference = f"{node.name}:{_ACTIVATIONS[node.op]}:0"
                found.append(Output(name, reference, _type_of(node).as_datatype_enum))
    for number, output in enumerate(found):
        argument = copy.signature.output_arg.add(name=f"layer_{number}")
        argument.type = output.dtype
        copy.ret[argument.name] = output.reference
    if found:
        graph.graph_def.library.function.append(copy)
    return found


def _type_of(node: Any) -> tf.DType:
    # A default is left out of files, which float32 is of these operations.
    return tf.as_dtype(node.attr["T"].type or tf.float32)


def _unique(name: str, taken: Any) -> str:
    """A name that a signature's output may have, and no other one has."""
    plain = first = re.sub(r"[^A-Za-z0-9_]", "_", name)
    number = 1
    while plain in taken:
        number += 1
        plain = f"{first}_{number}"
    taken.add(plain)
    return plain


def _make_outputs(graph: Any, wrapper: Any, found: List[Output]) -> None:
    """Points the signature to its copy, whose outputs are in the order of names."""
    objects = graph.object_graph_def
    before = wrapper.concrete_function_name
    saved = objects.concrete_functions[before + _COPY]
    saved.CopyFrom(objects.concrete_functions[before])
    fields = saved.output_signature.dict_value.fields
    (copy,) = [
        one
        for one in graph.graph_def.library.function
        if one.signature.name == before + _COPY
    ]
    arguments: List[Tuple[str, Any]] = list(
        zip([*sorted(fields), *(o.name for o in found)], copy.signature.output_arg)
    )
    for output in found:
        spec = fields[output.name].tensor_spec_value
        spec.name, spec.dtype = output.name, output.dtype
        spec.shape.unknown_rank = True
    arguments = [
        (name, type(argument).FromString(argument.SerializeToString()))
        for name, argument in arguments
    ]
    arguments.sort(key=lambda pair: pair[0])
    del copy.signature.output_arg[:]
    copy.signature.output_arg.extend(argument for _, argument in arguments)
    wrapper.concrete_function_name = before + _COPY
