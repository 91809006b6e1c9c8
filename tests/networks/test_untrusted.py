"""A SavedModel that does more than compute is refused before it is loaded."""

import os
import re

import pytest
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.framework import op_def_registry

from soka_tf.errors import UserError
from soka_tf.networks import untrusted
from soka_tf.serving.saved_model import export_student
from soka_tf.tasks import get_task
from tests.serving.test_saved_model import make_stand_in

IMAGES = tf.TensorSpec([None, None, None, 3], tf.uint8, name="images")
# What TensorFlow declares to have state, and what is well within a network.
STATE = re.compile(
    r"^Var|Variable|^Resource|Random|Normal|Uniform|Rng|Seed|Multinomial|Deterministic|"
    r"Table|TensorArray|Stack|Sparse.*TensorsMap|Cudnn|CheckNumerics|^Assert$|^Case$|"
    r"^If$|^While$|^StatefulPartitionedCall$|^DisableCopyOnRead$|^Empty$|^DeepCopy$|"
    r"^DestroyResourceOp$|^Dummy|^DeviceIndex$|^SyncDevice$|^GuaranteeConst$|"
    r"^Timestamp$|^ReadVariableXlaSplitND$|^AllToAll$|^CrossReplicaSum$|^SampleDistortedBoundingBox|"
    r"^ConvertToCooTensor$|^GlobalIterId$"
)


def save(folder, function, **attributes):
    module = tf.Module()
    module.serve = tf.function(function, input_signature=[IMAGES], autograph=False)
    for name, value in attributes.items():
        setattr(module, name, value)
    tf.saved_model.save(module, str(folder), signatures=module.serve)
    return str(folder)


def refusal(folder):
    with pytest.raises(UserError) as caught:
        untrusted.refuse_programs(folder)
    message = str(caught.value)
    assert "\n" not in message and message.startswith(os.path.join(folder, ""))
    return message


def rewrite(folder, change):
    path = os.path.join(folder, untrusted.GRAPH)
    content = saved_model_pb2.SavedModel()
    with open(path, "rb") as file:
        content.ParseFromString(file.read())
    change(content.meta_graphs[0])
    with open(path, "wb") as file:
        file.write(content.SerializeToString())
    return folder


def network(images):
    return {"maps": tf.cast(images, tf.float32)}


def with_write(images):
    tf.io.write_file("/nowhere/x", "x")
    return network(images)


def nested(images):
    return tf.cond(
        tf.size(images) > 0,
        lambda: tf.map_fn(
            lambda _: tf.strings.length(tf.io.read_file("/x")), tf.range(1)
        ),
        lambda: tf.zeros([1], tf.int32),
    )


def with_python(images):
    return tf.py_function(lambda x: x, [images], tf.uint8)


def with_print(images):
    tf.print("x", output_stream="file:///nowhere/x")
    return network(images)


def with_restore(images):
    return tf.raw_ops.RestoreV2(
        prefix="/x", tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]
    )[0]


def with_save(images):
    tf.raw_ops.SaveV2(
        prefix="/nowhere/x", tensor_names=["a"], shape_and_slices=[""], tensors=[images]
    )
    return network(images)


@pytest.mark.parametrize(
    "function, operation",
    [
        (with_write, "WriteFile"),
        (nested, "ReadFile"),
        (with_python, "EagerPyFunc"),
        (with_print, "PrintV2"),
        (with_restore, "RestoreV2"),
        (with_save, "SaveV2"),
    ],
)
def test_operation_that_reaches_outside_is_named(tmp_path, function, operation):
    message = refusal(save(tmp_path, function))
    assert f"has the operation '{operation}'" in message
    assert "Give --trust_saved_model if you trust" in message


def test_table_filled_from_a_file_at_loading_is_refused(tmp_path):
    (tmp_path / "words").write_text("a\nb\n")
    table = tf.lookup.StaticVocabularyTable(
        tf.lookup.TextFileInitializer(
            str(tmp_path / "words"),
            tf.string,
            tf.lookup.TextFileIndex.WHOLE_LINE,
            tf.int64,
            tf.lookup.TextFileIndex.LINE_NUMBER,
        ),
        1,
    )
    assert "TextFile" in refusal(save(tmp_path / "model", network, table=table))


def test_saver_that_a_signature_calls_is_refused(tmp_path):
    folder = save(tmp_path, network, variable=tf.Variable(1.0))
    untrusted.refuse_programs(folder)

    def call_it(graph):
        names = [one.signature.name for one in graph.graph_def.library.function]
        saver = next(name for name in names if "traced_save" in name)
        roots = graph.object_graph_def.concrete_functions
        for function in graph.graph_def.library.function:
            if function.signature.name in roots:
                node = function.node_def.add(op="StatefulPartitionedCall", name="more")
                node.attr["f"].func.name = saver

    assert "the function __inference__traced_save" in refusal(rewrite(folder, call_it))


def test_operation_in_what_nobody_calls_is_refused_all_the_same(tmp_path):
    folder = save(tmp_path, network)
    change = lambda graph: graph.graph_def.node.add(op="WriteFile", name="x")  # noqa: E731
    assert "the graph has the operation 'WriteFile'" in refusal(rewrite(folder, change))


def test_operation_that_tensorflow_does_not_have_is_refused(tmp_path):
    change = lambda graph: graph.graph_def.node.add(op="MyOwn", name="x")  # noqa: E731
    assert "'MyOwn'" in refusal(rewrite(save(tmp_path, network), change))


def test_saved_model_of_tensorflow_1_is_refused(tmp_path):
    change = lambda graph: graph.ClearField("object_graph_def")  # noqa: E731
    assert "TensorFlow 1" in refusal(rewrite(save(tmp_path, network), change))


@pytest.mark.parametrize("content", [b"\xff\x00garbage", b""])
def test_damaged_graph_is_refused(tmp_path, content):
    (tmp_path / untrusted.GRAPH).write_bytes(content)
    refusal(str(tmp_path))


def test_exports_of_students_and_of_keras_pass(tmp_path):
    edges = (get_task("edge_texture"),)
    export_student(make_stand_in(edges), edges, 32, str(tmp_path / "student"))
    untrusted.refuse_programs(str(tmp_path / "student"))
    # Layers of Taskonomy's networks, and what Keras keeps of training.
    layers = tf.keras.layers
    keras = tf.keras.Sequential(
        [
            layers.Conv2D(4, 3, 2, "same", input_shape=(16, 16, 3)),
            layers.BatchNormalization(),
            layers.LeakyReLU(),
            layers.Dropout(0.1),
            layers.Conv2DTranspose(4, 3, 2, "same"),
            layers.UpSampling2D(interpolation="bilinear"),
            layers.Dense(3, "tanh"),
        ]
    )
    keras.compile("adam", "mse")
    keras.save(str(tmp_path / "keras"), save_format="tf")
    untrusted.refuse_programs(str(tmp_path / "keras"))


def test_every_operation_of_this_tensorflow_with_state_outside_is_known():
    for name in dir(tf.raw_ops):
        definition = op_def_registry.get(name)
        if definition is None or untrusted.reaches_outside(name):
            continue
        assert not definition.is_stateful or STATE.search(name), name
        # Without a state that is declared, and yet of files or of Python.
        assert not re.search("File|Path|PyFunc|Disk|Socket|Url", name), name
        texts = [a.name for a in definition.attr if a.type == "string"]
        texts += [a.name for a in definition.input_arg if a.type == tf.string]
        assert not re.search("file|path|memory_region|url|spec", " ".join(texts)), (
            name,
            texts,
        )


@pytest.mark.parametrize(
    "name",
    "Conv2D Conv2DBackpropInput FusedBatchNormV3 ResizeBilinear DepthToSpace Einsum "
    "ReadVariableOp AssignVariableOp While StatelessIf Softmax RandomUniform "
    "TensorListStack TensorMapLookup ResourceApplyAdam StatefulPartitionedCall".split(),
)
def test_operation_of_networks_is_not_refused(name):
    assert not untrusted.reaches_outside(name)


def test_saver_that_may_take_another_functions_place_is_refused(tmp_path):
    folder = save(tmp_path, network, variable=tf.Variable(1.0))

    def pretend(graph):
        for function in graph.graph_def.library.function:
            if "traced_save" in function.signature.name:
                function.attr["api_implements"].s = b"network"

    assert "the function __inference__traced_save" in refusal(rewrite(folder, pretend))
