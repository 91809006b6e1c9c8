"""docs/teachers.md against what reads a manifest."""

import dataclasses
import json
import re

import tensorflow as tf

from soka_tf.teachers.saved_model import manifest
from tests.tiny_runs import ROOT


def section():
    text = (ROOT / "docs" / "teachers.md").read_text(encoding="utf-8")
    return text.split("### teacher.json")[1].split("## In Python")[0]


def fields_of(kind, place=""):
    return {place + field.name for field in dataclasses.fields(kind)}


def test_table_has_every_field_and_no_other():
    rows = re.findall(r"^\| (`.+?) \|", section(), re.M)
    named = {name for row in rows for name in re.findall(r"`([\w.]+)`", row)}
    wanted = {
        *(fields_of(manifest._Fields) - {"input", "prediction", "layers"}),
        *fields_of(manifest.Input, "input."),
        *fields_of(manifest.Prediction, "prediction."),
        *("layers.NAME.output", ".layout"),
    }
    assert named == wanted


def test_example_is_a_manifest(tmp_path):
    block = re.search(r"(?:^    .*\n)+", section(), re.M)[0]
    content = json.loads(block)
    content["sha256"] = {name: "0" * 64 for name in content["sha256"]}
    module = tf.Module()
    tf.saved_model.save(module, str(tmp_path / content["saved_model"]))
    (tmp_path / manifest.FILE).write_text(json.dumps(content))
    read = manifest.read_manifest(tmp_path)
    assert read.task.name == "edges" and read.input.channel_order == "bgr"
    assert list(read.layers) == ["conv4"]
