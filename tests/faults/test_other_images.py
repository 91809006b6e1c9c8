"""The images of a run are others when it is exported: it is measured on those."""

import pytest

from soka_tf import export
from soka_tf.runs.folder import CONFIG_FILE
from soka_tf.serving import formats
from tests import tiny_runs


@pytest.mark.parametrize("split", ["kept", "gone"])
def test_export_measures_on_images_elsewhere_and_writes_no_split(
    split, cut, tiny, tmp_path, monkeypatch, caplog
):
    others = tmp_path / "others"
    tiny_runs.write_images(others, 3)
    for path in list(others.iterdir()):
        path.rename(path.with_name(f"other_{path.name}"))
    stored = cut / CONFIG_FILE
    text = stored.read_text()
    assert str(tiny.images) in text
    stored.write_text(text.replace(str(tiny.images), str(others)))
    file = cut / "split.json"
    before = file.read_bytes()
    if split == "gone":
        file.unlink()
    given = []
    monkeypatch.setattr(formats, "write_formats", lambda *a: given.append(a[-2]) or [])
    monkeypatch.setattr(formats, "compare", lambda *a: {"images": 3})
    monkeypatch.setattr(formats, "write_report", lambda *a: None)
    monkeypatch.setattr(formats, "format_table", str)
    flags = [f"--model_dir={cut}", f"--export_dir={tmp_path / 'out'}"]
    export.FLAGS(["export", *flags, "--format=tflite_int8"])
    try:
        export.main()
    finally:
        for name in export.FLAGS:
            export.FLAGS[name].unparse()
    (images,) = given
    for samples in (images.calibration, images.comparison):
        assert sorted(s.key for s in samples) == ["other_0", "other_1", "other_2"]
    assert split == "gone" or file.read_bytes() == before
    assert file.exists() == (split == "kept")
    # The run was cut off: what is exported is not what it was to become.
    said = f"{cut}: the training has not ended (step 4 of 6). Exporting the student"
    assert said in caplog.text
