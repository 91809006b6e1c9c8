"""Tasks of one's own among the bindings, and learnt from labels."""

import numpy as np
import pytest
import tensorflow as tf

from soka_tf.data.pipeline import Batches, image_dataset
from soka_tf.data.sources import taskonomy
from soka_tf.data.targets import label_reader
from soka_tf.errors import UserError
from soka_tf.runs.config import bound_values, operative_config, parse_gin
from soka_tf.runs.own_tasks import DEFINITIONS as NAME
from soka_tf.runs.settings import Settings
from soka_tf.tasks import TASKS, get_task, register_task
from tests import own_tasks

pytestmark = pytest.mark.usefixtures("fresh_gin")

ROAD = {"kind": "classes", "classes": ["road", "other"]}


def test_defined_tasks_may_be_named_in_the_same_file():
    text = f"define_tasks.definitions = {{'road': {ROAD}}}"
    parse_gin([], [text, "tasks = ['Road', 'normal']"])
    assert Settings().task_names == ["road", "normal"]
    assert get_task("road").classes == ("road", "other")


def test_definitions_may_stand_in_macros():
    parse_gin(
        [],
        [
            "names = ['road', 'other']",
            "road = {'kind': 'classes', 'classes': %names}",
            "define_tasks.definitions = {'road': %road}",
            "tasks = ['road']",
        ],
    )
    assert Settings().targets[0].classes == ("road", "other")


def test_task_registered_elsewhere_becomes_part_of_the_configuration():
    task = register_task("road", ROAD)
    register_task("other_one", ROAD)  # of another run of this process
    parse_gin([], ["tasks = ['road', 'normal']", "auxiliary = 'none'"])
    assert bound_values()[NAME] == {"road": task.definition}
    own_tasks_text = operative_config()
    assert "define_tasks.definitions" in own_tasks_text
    assert "'road'" in own_tasks_text and "other_one" not in own_tasks_text


def test_configuration_of_built_in_tasks_says_nothing_of_definitions():
    parse_gin([], [])
    assert bound_values()[NAME] is None and NAME not in operative_config()


@pytest.mark.parametrize(
    "definitions, message",
    [
        ("3", "must be a dictionary {name of a task: its definition}"),
        ("{'road': 3}", "'road': a definition must be a dictionary.*Received: 3"),
        ("{'road': {'kind': 'maps'}}", "'road': kind must be one of .*'maps'"),
        ("{3: {'kind': 'direction'}}", "name of a task must be .*Received: 3"),
        ("{'normal': {'kind': 'direction'}}", "is that of a built-in task"),
        ("%road", "nothing sets"),
    ],
)
def test_wrong_definitions_are_refused_in_one_line(definitions, message):
    with pytest.raises(UserError, match=message) as refused:
        parse_gin([], [f"define_tasks.definitions = {definitions}"])
    assert "\n" not in str(refused.value)
    assert "road" not in TASKS


def test_task_that_nothing_defines_is_refused_by_its_name():
    with pytest.raises(UserError, match="run.tasks.*no task named 'road'"):
        parse_gin([], ["tasks = ['road']"])


def test_labels_with_gaps_weigh_nothing_where_they_have_none(tmp_path):
    for name, definition in own_tasks.DEFINITIONS.items():
        register_task(name, definition)
    own_tasks.write_labelled(tmp_path, 2)
    samples = taskonomy.find(str(tmp_path), list(own_tasks.DEFINITIONS))
    tasks = [get_task(name) for name in own_tasks.DEFINITIONS]
    batch = next(
        iter(
            image_dataset(
                samples,
                Batches(16, 2),
                seed=0,
                targets=label_reader(samples, tasks, 16),
            )
        )
    )["targets"]
    for task in tasks:
        weights, labels = batch.weights[task.name].numpy(), batch.maps[task.name]
        assert labels.shape == (2, 16, 16, task.channels)
        assert weights.shape == (2, 16, 16, 1)
        assert np.isfinite(labels).all()
        gap = 0.0 if task.encoding.gaps else 1.0
        assert (weights[:, :4] == gap).all() and (weights[:, 4:] == 1).all(), task.name
        tf.debugging.assert_near(tf.boolean_mask(labels, weights[..., 0] == 0), 0.0)
