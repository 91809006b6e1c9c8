"""Tasks of one's own: from plain data to a row of the table, and back."""

import json

import pytest

from soka_tf.errors import UserError
from soka_tf.task_rows import RATIO_METRICS, voc_colours
from soka_tf.tasks import TASKS, get_targets, get_task, register_task
from tests.own_tasks import DEFINITIONS

ERRORS = ("rmse", "mean_absolute_error")


def test_near_names_of_an_unknown_task_are_those_that_are_listed():
    with pytest.raises(UserError, match="named 'edges'. Did you mean ") as refused:
        get_task("edges")
    hint = str(refused.value).split("? ")[0].partition("mean ")[2]
    assert hint == "'edge_occlusion' or 'edge_texture'"
    with pytest.raises(UserError, match="Did you mean 'depth_zbuffer'[?]"):
        get_task("dept")


@pytest.mark.parametrize("name", DEFINITIONS)
def test_registered_task_is_a_target_and_knows_its_definition(name):
    task = register_task(name, DEFINITIONS[name])
    assert get_task(name.upper()) is task and get_targets([name]) == (task,)
    assert TASKS[name] is task and task.role == "target"
    plain = json.loads(json.dumps(task.definition))
    for field, value in DEFINITIONS[name].items():
        assert plain[field] == value
    # The same again, and what was made of it, are no other tasks.
    assert register_task(name, DEFINITIONS[name]) is task
    assert register_task(name, plain) is task
    del TASKS[name]
    assert register_task(name, plain) == task


@pytest.mark.parametrize(
    "kind, channels, activation, loss, metrics, unit",
    [
        ("continuous", 1, "tanh", None, ERRORS, ""),
        ("probability", 1, "sigmoid", "bce", ERRORS, "probability"),
        ("classes", 2, "softmax", "kl", ("accuracy", "mean_iou"), "probability"),
        ("direction", 3, "tanh", "cosine", ("mean_angle_deg", "rmse"), "unit vector"),
        ("log_depth", 1, "tanh", None, RATIO_METRICS, "m"),
    ],
)
def test_defaults_by_kind(kind, channels, activation, loss, metrics, unit):
    needed = {"continuous": {"range": [0, 2]}, "classes": {"channels": 2}}
    task = register_task("own", {"kind": kind, **needed.get(kind, {})})
    assert (task.title, task.channels, task.unit) == ("own", channels, unit)
    assert (task.activation, task.loss, task.metrics) == (activation, loss, metrics)
    if kind == "classes":
        assert task.classes == ("class 0", "class 1")
        assert task.class_colours == ((0, 0, 0), (128, 0, 0))


def test_tasks_of_the_table_have_no_definition_and_one_loss_of_their_own():
    assert all(task.definition is None for task in TASKS.values())
    own = {task.name: task.loss for task in TASKS.values() if task.loss}
    assert own == {"segment_semantic": "kl"}
    assert get_task("segmentsemantic").role == "target"


CLASSES = {"kind": "classes", "classes": ["road", "other"]}


@pytest.mark.parametrize(
    "definition, message",
    [
        (3, "must be a dictionary with 'kind'.*Received: 3"),
        ({}, "kind must be one of continuous, .*Received: none"),
        ({"kind": "depth"}, "kind must be one of continuous.*Received: 'depth'"),
        ({"kind": ["classes"]}, r"kind must be one of.*Received: \['classes'\]"),
        ({"kind": "direction", "colour": 1}, "'colour' is no field.*did you mean col"),
        ({"kind": "direction", 3: 1}, "3 is no field of a definition"),
        ({"kind": "direction", "title": ""}, "title must be a text of 1 to 60"),
        ({"kind": "direction", "title": "a\nb"}, r"title .*Received: 'a\\nb'"),
        ({"kind": "direction", "channels": 2}, "channels .* must be 3. Received: 2"),
        ({"kind": "probability", "channels": 4}, "must be 1 to 3. Received: 4"),
        ({"kind": "probability", "channels": 1.5}, "a whole number.*Received: 1.5"),
        ({"kind": "continuous"}, r"'continuous' needs range, \[lowest, highest\]"),
        ({"kind": "continuous", "range": [0]}, r"range must be two .*Received: \[0\]"),
        ({"kind": "continuous", "range": [1, 1]}, "range must begin below its end"),
        ({"kind": "continuous", "range": [0, float("nan")]}, "Received: .0, nan"),
        (
            {"kind": "log_depth", "range": [0, 1]},
            r"must be \[0.0, 128.0\], or left out",
        ),
        ({"kind": "probability", "range": [0, 2]}, r"must be \[0.0, 1.0\], or left"),
        ({"kind": "log_depth", "unit": "cm"}, "unit .* must be 'm', or left out"),
        (
            {"kind": "log_depth", "classes": ["a", "b"]},
            "classes belong to the kind 'cl",
        ),
        ({"kind": "direction", "colours": "gray"}, "3 are shown as red, green"),
        ({"kind": "direction", "unit": "a" * 61}, "unit must be a text of 1 to 60"),
        ({"kind": "direction", "loss": "huber"}, "loss must be one of l1, l2, bce"),
        ({"kind": "direction", "loss": "kl"}, "must be one of cosine, l1, l2. Rec"),
        ({"kind": "classes"}, "needs classes, their names, or channels"),
        ({"kind": "classes", "channels": 1}, "must be 2 to 255. Received: 1"),
        ({**CLASSES, "channels": 3}, "the number of the classes, 2. Received: 3"),
        ({**CLASSES, "classes": ["a", "a"]}, "a name each of its own.*'a', 'a'"),
        ({**CLASSES, "classes": "ab"}, "classes must be a list of names.*'ab'"),
        ({**CLASSES, "metrics": ["rmse"]}, "some of accuracy, mean_iou, each once"),
        ({**CLASSES, "metrics": ["accuracy"] * 2}, "each once. Received"),
        ({**CLASSES, "metrics": []}, r"metrics must be a list.*Received: \[\]"),
        (
            {**CLASSES, "colours": "tab1"},
            "colour map of matplotlib.*'tab1'; did you me",
        ),
        ({**CLASSES, "colours": [[0, 0, 0]]}, "or a list of 2 .*0, 0, 0"),
        ({**CLASSES, "colours": [[0, 0, 256]] * 2}, "colours must be the name of"),
        ({"kind": "probability", "colours": "virids"}, "colour map of matplotlib"),
        ({"kind": "probability", "colours": [[0, 0, 0]]}, "colour map of matplotlib"),
        (
            {"kind": "probability", "channels": 2, "colours": "gray"},
            "2 are shown as red, green and blue.*'gray'",
        ),
        (
            {"kind": "continuous", "range": [-1, 1], "metrics": ["rel"]},
            r"of a range below 0, must be some of rmse.*Received: \['rel'\]",
        ),
    ],
)
def test_wrong_definition_is_refused_in_one_sentence(definition, message):
    with pytest.raises(UserError, match=message) as refused:
        register_task("own", definition)
    text = str(refused.value)
    assert text.startswith("task 'own': ") and "\n" not in text and len(text) < 400
    assert "own" not in TASKS


@pytest.mark.parametrize(
    "name",
    [3, "", "Own", "my task", "1st", "rgb", "none", "a_float", "a" * 61, "../own"],
)
def test_wrong_name_is_refused(name):
    with pytest.raises(UserError, match="name of a task must be .*Received: "):
        register_task(name, CLASSES)


@pytest.mark.parametrize("name", ["normal", "edge2d", "depth"])
def test_name_of_a_built_in_task_is_refused(name):
    with pytest.raises(UserError, match=f"'{name}': the name is that of a built-in"):
        register_task(name, CLASSES)


def test_another_definition_of_a_name_is_refused_and_the_first_stays():
    task = register_task("own", CLASSES)
    with pytest.raises(UserError, match="differ in classes. Choose another name"):
        register_task("own", {**CLASSES, "classes": ["road", "rest"]})
    assert get_task("own") is task


def test_fields_that_say_what_is_so_anyway_are_accepted():
    said = {"kind": "probability", "range": [0, 1], "unit": "share", "channels": 1}
    task = register_task("own", said)
    assert task.unit == "share" and task.display_range == (0, 1)
    register_task("far", {"kind": "log_depth", "unit": "m", "range": [0, 128]})


def test_colours_of_classes_may_be_those_of_a_colour_map():
    few = register_task("few", {"kind": "classes", "channels": 3, "colours": "tab10"})
    assert few.class_colours == ((31, 119, 180), (255, 127, 14), (44, 160, 44))
    many = {"kind": "classes", "channels": 12, "colours": "viridis"}
    assert len(set(register_task("many", many).class_colours)) == 12


def test_default_colours_of_classes_are_those_of_pascal_voc():
    first = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128)]
    colours = voc_colours(255)
    assert colours[:5] == first and colours[20] == (0, 64, 128)
    assert len(set(colours)) == 255
