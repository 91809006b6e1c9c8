"""What a step computes, counted in its graph: nothing twice, nothing unused."""

import collections

import pytest

from soka_tf.networks.batch_norm import BatchNorm
from soka_tf.soka.balancing.fixed import Fixed
from tests.soka import small


def live_operations(function, iterator):
    """Operations that an output or a change of state depends on; the rest is pruned."""
    graph = function.get_concrete_function(iterator).graph
    live, pending = set(), [t.op for t in graph.outputs] + list(graph.control_outputs)
    while pending:
        operation = pending.pop()
        if operation not in live:
            live.add(operation)
            pending += [t.op for t in operation.inputs]
            pending += operation.control_inputs
    return live


def count(network, kind):
    return sum(isinstance(layer, kind) for layer in network.submodules)


def kernels(network):
    return sum(v.shape.rank == 4 for v in network.trainable_variables)


@pytest.mark.parametrize(
    "stage, order",
    [("joint", "alternating"), ("cycle", "alternating"), ("cycle", "simultaneous")],
)
def test_step_computes_nothing_twice_and_nothing_unused(stage, order):
    model = small.build(run_eagerly=False, variant=None, auxiliaries=0, order=order)
    batches = iter(small.dataset(small.batches(1)))
    operations = live_operations(model.make_step(stage), batches)
    kinds = collections.Counter(o.type for o in operations)
    encoder, decoders = model.student.encoder, model.student.ordered_decoders
    n, cycle = len(decoders), stage == "cycle"

    # Weight gradients: of every kernel once; the norms need compress1's a task.
    wanted = kernels(encoder) + sum(map(kernels, decoders)) + (n if cycle else 0)
    assert kinds["Conv2DBackpropFilter"] == wanted

    # Passes through BatchNorm: the encoder's once, the decoders' once or twice.
    trained = [
        o.get_attr("is_training") for o in operations if o.type == "FusedBatchNormV3"
    ]
    in_encoder = count(encoder, BatchNorm)
    in_decoders = sum(count(d, BatchNorm) for d in decoders)
    passes = 2 if cycle and order == "alternating" else 1
    assert sum(trained) == in_encoder + passes * in_decoders
    taught = [
        count(network, BatchNorm)
        for teacher in model.teachers.teachers
        for network in (teacher.encoder, teacher.decoder)
    ]
    assert len(trained) - sum(trained) == sum(taught)

    # Moving statistics move once; beside them L_i(0), the note of what is not finite
    # and, in a cycle, the weights.
    moved = 2 * (in_encoder + in_decoders) + (3 if cycle else 2)
    assert kinds["AssignVariableOp"] == moved


def test_rule_that_needs_nothing_costs_nothing():
    model = small.build(
        run_eagerly=False, variant=None, auxiliaries=0, rule=Fixed, joint_steps=0
    )
    batches = iter(small.dataset(small.batches(1)))
    kinds = [o.type for o in live_operations(model.make_step("cycle"), batches)]
    decoders = sum(map(kernels, model.student.ordered_decoders))
    wanted = kernels(model.student.encoder) + decoders
    assert kinds.count("Conv2DBackpropFilter") == wanted


def test_joint_step_without_amalgamation_runs_no_auxiliary_teacher():
    model = small.build(run_eagerly=False, auxiliaries=1, joint_steps=1)
    batches = iter(small.dataset(small.batches(1)))
    names = [o.name for o in live_operations(model.make_step("joint"), batches)]
    (auxiliary,) = model.teachers.auxiliaries
    assert not any(auxiliary in name for name in names)
    (target, _) = model.teachers.targets
    assert any(target in name for name in names)
