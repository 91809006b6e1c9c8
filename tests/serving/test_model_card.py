"""The card beside every export: true to its facts, its files, and harmless."""

import dataclasses
import hashlib
import json
import os

import pytest

from soka_tf.errors import UserError
from soka_tf.evaluation.evaluator import write_evaluation
from soka_tf.serving import export_folder, formats, model_card, origin, saved_model
from tests import tiny_export
from tests.tiny_export import SIZE, TASKS

TEACHERS = [
    {
        "task": "depth_zbuffer",
        "role": "target",
        "file": "depth_zbuffer.safetensors",
        "sha256": "ab" * 32,
        "fingerprint": None,
        "license": "Apache-2.0",
        "shipped": True,
        "image_size": 64,
        "parameters": 1234,
    },
    {
        "task": "normal",
        "role": "auxiliary",
        "file": "x|y](z)",
        "sha256": None,
        "fingerprint": "cd" * 32,
        "license": None,
        "shipped": False,
        "image_size": None,
        "parameters": 5,
    },
]
METRICS = {
    "step": 7,
    "split": "validation",
    "images": 3,
    "tasks": {
        "depth_zbuffer": {"teacher": None, "student": {"rmse": 0.5}},
        "normal": {"student_vs_teacher": {"rmse": 0.25}, "student": None},
        "reshading": {"student": {"rmse": 9.0}},
    },
}
ORIGIN = origin.Origin(
    supervision="teachers",
    teachers=TEACHERS,
    images={"source": "images of photos", "train": 10, "validation": 3},
    step=7,
    metrics=METRICS,
)


@pytest.fixture(scope="module")
def student():
    return tiny_export.stand_in()


@pytest.fixture
def written(monkeypatch):
    """Exports of what stands for networks: their card is looked at here."""

    def save(module, folder, signatures):
        os.makedirs(os.path.join(folder, "variables"))
        for name in (export_folder.GRAPH, "variables/variables.index"):
            with open(os.path.join(folder, name), "w") as file:
                file.write(name)

    built = {saved_model.REPRESENTATION: None}
    monkeypatch.setattr(saved_model.tf.saved_model, "save", save)
    monkeypatch.setattr(saved_model, "_build", lambda *_: (None, built))
    monkeypatch.setattr(saved_model, "_metadata", lambda *_: {"precision": "bfloat16"})

    def write(folder, student, given=ORIGIN, tasks=TASKS[:2]):
        saved_model.export_student(student, tasks, SIZE, str(folder), origin=given)
        return card_of(folder)

    return write


def card_of(folder):
    return json.loads((folder / model_card.CARD).read_text())


def test_card_is_a_part_of_the_export_and_names_its_files(written, student, tmp_path):
    card = written(tmp_path, student)
    manifest = json.loads((tmp_path / export_folder.MANIFEST).read_text())
    assert {*card["files"], *model_card.FILES} == set(manifest["files"])
    for name, told in card["files"].items():
        content = (tmp_path / name).read_bytes()
        assert told["sha256"] == hashlib.sha256(content).hexdigest()
        assert told["bytes"] == len(content)
    assert card["formats"] == {"SavedModel": "bfloat16"}


def test_card_tells_tasks_teachers_images_and_metrics(written, student, tmp_path):
    card = written(tmp_path, student)
    assert list(card["tasks"]) == ["depth_zbuffer", "normal"]
    depth = card["tasks"]["depth_zbuffer"]
    assert depth["unit"] == "m" and depth["range"][1] == pytest.approx(125.98, abs=0.01)
    assert depth["file"] == (
        "PNG of 16 bits, 1/512 m a step, 65535 where there is no value"
    )
    # A convolution of 3 to 1 channels, one of 3 to 3, each with its bias.
    assert card["student"]["parameters"] == 4 + 12 and card["student"]["step"] == 7
    assert card["teachers"] == TEACHERS and card["images"] == ORIGIN.images
    assert card["metrics"]["on"] == "3 validation images (images of photos)"
    assert set(card["metrics"]["tasks"]) == {"depth_zbuffer", "normal"}
    page = (tmp_path / model_card.PAGE).read_text()
    for part in (
        "Trained on 10 images without labels",
        "| 0.5 ",
        "Apache-2.0",
        "abab",
    ):
        assert part in page
    assert "x\\|y\\](z)" in page  # a name that is no markup and no column


def test_limits_follow_from_the_facts(written, student, tmp_path):
    limits = " ".join(written(tmp_path, student)["limits"])
    for part in (
        f"resized to {SIZE} x {SIZE} pixels",
        "teachers of depth_zbuffer came with soka_tf: they have only seen drawn rooms "
        "at 64 pixels",
        "not from labels",
        f"was trained at 64 pixels, not {SIZE}",
        "No licence is given of the teachers of normal",
        "no ground truth of normal",
    ):
        assert part in limits
    own = [{**TEACHERS[0], "shipped": False, "image_size": SIZE}]
    metrics = {**METRICS, "tasks": {"depth_zbuffer": {"student": {"rmse": 1.0}}}}
    better = dataclasses.replace(
        ORIGIN, supervision="labels", teachers=own, metrics=metrics
    )
    assert len(written(tmp_path, student, better)["limits"]) == 1
    unmeasured = dataclasses.replace(better, metrics=None)
    (_, last) = written(tmp_path, student, unmeasured)["limits"]
    assert "has not been measured" in last


def test_card_of_unknown_origin_says_so(written, student, tmp_path):
    card = written(tmp_path, student, None, TASKS)
    assert card["teachers"] is None and card["metrics"] is None
    assert any("not known to this card" in limit for limit in card["limits"])
    page = (tmp_path / model_card.PAGE).read_text()
    assert "Not measured." in page and "Classes of `segment_semantic`: 0 other" in page


def test_file_of_another_format_is_added_to_the_card(
    written, student, tmp_path, monkeypatch
):
    monkeypatch.setattr(formats.tflite, "to_float16", lambda _: b"lite")
    before = written(tmp_path, student)
    images = formats.Images([], [], SIZE, False)
    formats.write_formats(
        student, TASKS[:2], str(tmp_path), ["tflite_float16"], images, ORIGIN
    )
    card = card_of(tmp_path)
    added = card["files"].pop("student_float16.tflite")
    assert added["sha256"] == hashlib.sha256(b"lite").hexdigest()
    assert card["files"] == before["files"]
    assert card["formats"]["student_float16.tflite"] == "float16"
    # The report comes later and is none of the student.
    export_folder.put(str(tmp_path), {formats.REPORT: b"{}"})
    again = card_of(tmp_path)
    assert formats.REPORT not in again["files"]
    assert again["files"]["student_float16.tflite"] == added


def test_files_of_another_student_are_no_part_of_the_card(
    written, student, tmp_path, monkeypatch
):
    monkeypatch.setattr(formats.tflite, "to_float16", lambda _: b"lite")
    written(tmp_path, tiny_export.stand_in(seed=1))
    images = formats.Images([], [], SIZE, False)
    for _ in range(2):  # the second card, too, knows of them
        formats.write_formats(
            student, TASKS[:2], str(tmp_path), ["tflite_float16"], images, ORIGIN
        )
        card = card_of(tmp_path)
        assert set(card["files"]) == {"student_float16.tflite"}
        assert export_folder.GRAPH in card["files_of_another_student"]
        assert any("of an earlier export of another" in one for one in card["limits"])
    assert written(tmp_path, student)["files_of_another_student"] == []


def test_card_that_cannot_be_made_leaves_the_former_export(
    written, student, tmp_path, monkeypatch
):
    def fail(card):
        raise OSError("disk full")

    before = written(tmp_path, student)
    monkeypatch.setattr(model_card, "format_card", fail)
    with pytest.raises(OSError, match="disk full"):
        written(tmp_path, student, None)
    assert card_of(tmp_path) == before


def test_card_of_others_is_not_replaced(written, student, tmp_path):
    (tmp_path / model_card.PAGE).write_text("of somebody")
    with pytest.raises(UserError, match="model_card.md there was not written by soka"):
        written(tmp_path, student)
    assert (tmp_path / model_card.PAGE).read_text() == "of somebody"


def test_card_keeps_apart_what_was_trained_on_and_what_was_measured_on(
    written, student, tmp_path
):
    images = {
        "source": "procedural rooms of seed 2",
        "validation_source": "other procedural rooms, of seed 6",
        "train": 10,
        "validation": 3,
    }
    card = written(tmp_path, student, dataclasses.replace(ORIGIN, images=images))
    assert card["metrics"]["on"] == (
        "3 validation images (other procedural rooms, of seed 6)"
    )
    measured = {**METRICS, "source": "the folder others"}
    elsewhere = dataclasses.replace(ORIGIN, images=images, metrics=measured)
    card = written(tmp_path / "elsewhere", student, elsewhere)
    assert card["metrics"]["on"] == "3 validation images (the folder others)"
    page = (tmp_path / model_card.PAGE).read_text()
    assert (
        "Trained on 10 images without labels: procedural rooms of seed 2. Held back to "
        "measure on: 3, other procedural rooms, of seed 6." in page
    )
    origin.write_origin(dataclasses.replace(ORIGIN, images=images), str(tmp_path))
    assert origin.read_origin(str(tmp_path), 7, "none").images == images


def test_what_a_student_was_trained_on_is_one_sentence_or_none(
    written, student, tmp_path
):
    assert model_card.describe_training(str(tmp_path)) == ""
    written(tmp_path / "shipped", student)
    assert model_card.describe_training(str(tmp_path / "shipped")) == (
        "Trained on images of photos by teachers that know drawn rooms only: what it "
        "says of photographs is a guess."
    )
    teachers = [{**one, "shipped": False} for one in TEACHERS]
    own = dataclasses.replace(ORIGIN, teachers=teachers)
    written(tmp_path / "own", student, own)
    assert model_card.describe_training(str(tmp_path / "own")) == (
        "Trained on images of photos: on other images it may be further off."
    )
    written(tmp_path / "unknown", student, None)
    assert model_card.describe_training(str(tmp_path / "unknown")) == ""


def test_origin_is_kept_by_a_run_with_the_metrics_of_the_same_step(tmp_path):
    assert origin.read_origin(str(tmp_path), 7, "evaluation.json") is None
    origin.write_origin(ORIGIN, str(tmp_path))
    plain = dataclasses.replace(ORIGIN, metrics=None)
    assert origin.read_origin(str(tmp_path), 7, "evaluation.json") == plain
    write_evaluation(str(tmp_path / "evaluation.json"), METRICS)
    assert origin.read_origin(str(tmp_path), 7, "evaluation.json") == ORIGIN
    assert origin.read_origin(str(tmp_path), 8, "evaluation.json").metrics is None
    (tmp_path / origin.FILE).write_text('{"teachers": 1}')
    with pytest.raises(UserError, match="not the origin of a student"):
        origin.read_origin(str(tmp_path), 7, "evaluation.json")


@pytest.mark.parametrize(
    "source, told",
    [
        ("images of /home/me/my photos/x", "images of x"),
        ("images of photos", "images of photos"),
        (
            "rooms of seed 2 in /a/soka_tf, validated on it",
            "rooms of seed 2 in soka_tf, validated on it",
        ),
        ("records in gs://bucket/a", "records in a"),
    ],
)
def test_folders_of_images_are_not_told(source, told):
    assert origin.without_folders(source) == told
