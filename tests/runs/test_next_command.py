"""The commands that commands end with, as a shell takes them."""

import shlex

from soka_tf.data.samples import Sample
from soka_tf.runs.next_command import export_command, predict_command


def flags_of(command):
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"]
    return words[2], dict(word[2:].split("=", 1) for word in words[3:])


def sample(path):
    return Sample("a", "a", {"rgb": str(path)})


def test_export_goes_beside_the_run_whatever_its_name():
    name, flags = flags_of(export_command("my runs/it's/"))
    assert name == "soka_tf.export"
    assert flags == {"model_dir": "my runs/it's/", "export_dir": "my runs/it's_export"}
    assert flags_of(export_command("run", "best"))[1]["checkpoint"] == "best"


def test_prediction_is_on_the_runs_own_images_where_they_are_files(tmp_path):
    for folder in ("a b/c", "a b/d"):
        (tmp_path / folder).mkdir(parents=True)
    inside = [sample(tmp_path / "a b" / name) for name in ("c/1.png", "d/2.png")]
    name, flags = flags_of(predict_command("run/saved_model", inside))
    assert name == "soka_tf.predict"
    assert flags == {
        "saved_model": "run/saved_model",
        "images": str(tmp_path / "a b"),
        "out_dir": "run/saved_model_maps",
    }
    for others in (
        [],
        [sample("/no/such/1.png")],
        [sample("relative/1.png"), sample("/absolute/2.png")],
    ):
        assert flags_of(predict_command("x", others))[1]["images"] == "path/to/photos"
