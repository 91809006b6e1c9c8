"""Every parser of foreign bytes, fed with damaged files: minutes, by `make fuzz`.

Each is given whole files in which bytes were changed, cut, doubled or put in. It may
accept them or raise one `UserError` of one line; whatever else it raises is a fault.
pytest does not collect this file by itself.
"""

import contextlib
import io
import json
import os
import pathlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from soka_tf.data import documents, image_files, shard_store
from soka_tf.data.samples import Sample, split_samples
from soka_tf.data.sources import records
from soka_tf.data.sources.folder import find as find_images
from soka_tf.errors import UserError
from soka_tf.evaluation import curves
from soka_tf.runs.gin_text import config_root, differing_bindings, read_gin
from soka_tf.serving import origin, saved_model
from soka_tf.teachers import finding
from soka_tf.teachers.taskonomy import teacher_file

fuzzed = settings(
    max_examples=int(os.environ.get("SOKA_TF_FUZZ_EXAMPLES", "2000")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
# What hurts parsers: ends, signs, lengths of 2^62, other numbers that are none.
_TOKENS = [
    *(b"", b"\0", b"\xff" * 8, b"[" * 3000, b'"', b"\n", b",", b"{", b"}", b"]"),
    *(b"Infinity", b"NaN", b"-1", b"1e999", b"4611686018427387904", b"null", b"true"),
    *((1 << 62).to_bytes(8, "little"), (1 << 31).to_bytes(4, "big"), b"\xed\xa0\x80"),
]
_EDIT = st.tuples(
    st.integers(0, 1 << 16),  # where, modulo the length
    st.integers(0, 40),  # how many bytes go
    st.sampled_from(_TOKENS) | st.binary(max_size=8),  # what comes
)
EDITS = st.lists(_EDIT, min_size=1, max_size=4)


def edited(content, edits):
    """The content after all edits."""
    for place, gone, new in edits:
        place %= len(content) + 1
        content = content[:place] + new + content[place + gone :]
    return content


def survives(parse, *arguments):
    """Calls a parser, which may return or raise one UserError of one line."""
    try:
        return parse(*arguments)
    except UserError as error:
        assert "\n" not in str(error) and len(str(error)) < 3000, str(error)
        return None


def _encoded(kind, array, **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, kind, **options)
    return file.getvalue()


def _images():
    noise = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(np.uint8)
    yield from (
        _encoded(k, noise) for k in ("PNG", "JPEG", "BMP", "WEBP", "GIF", "PPM")
    )
    for compression in (None, "tiff_lzw", "tiff_adobe_deflate"):
        yield _encoded("TIFF", noise, compression=compression)
    yield _encoded("TIFF", noise[..., 0].astype(np.float32))
    yield _encoded("PNG", noise[..., 0].astype(np.uint16) * 257)


IMAGES = list(_images())


@fuzzed
@given(st.sampled_from(IMAGES), EDITS, st.sampled_from(["rgb", "depth_zbuffer"]))
def test_images(tmp_path_factory, content, edits, domain):
    path = _folder(tmp_path_factory) / "a.png"
    content = edited(content, edits)
    path.write_bytes(content)
    pixels = survives(image_files.read_pixels, str(path), domain)
    assert pixels is None or pixels.dtype in (np.uint8, np.uint16)
    with contextlib.suppress(ValueError):
        assert image_files.rgb_of_bytes(content, 1000).size <= 3000


@fuzzed
@given(EDITS)
def test_vanishing_points(tmp_path_factory, edits):
    file = io.BytesIO()
    np.save(file, np.ones(9))
    path = _folder(tmp_path_factory) / "a.npy"
    path.write_bytes(edited(file.getvalue(), edits))
    values = survives(image_files.read_vanishing_point, str(path))
    assert values is None or (values.shape == (9,) and np.isfinite(values).all())


@pytest.fixture(scope="session")
def packed(tmp_path_factory):
    """A folder of records, and the content of its files by name."""
    root = tmp_path_factory.mktemp("packed")
    for i, content in enumerate(IMAGES[:4]):
        (root / f"{i}.png").write_bytes(content)
    records.write_records(find_images(root), str(root / "out"), "photos", shards=1)
    return root / "out", {p.name: p.read_bytes() for p in (root / "out").iterdir()}


@fuzzed
@given(st.data(), EDITS)
def test_records(packed, data, edits):
    folder, contents = packed
    name = data.draw(st.sampled_from(sorted(contents)))
    (folder / name).write_bytes(edited(contents[name], edits))
    try:
        for sample in survives(records.find, str(folder), []) or ():
            survives(sample.read, "rgb")
        shard = str(next(folder.glob("*.tfrecord")))
        shard_store.read_index(shard, records._rows, whole=True)
    finally:
        (folder / name).write_bytes(contents[name])


SHIPPED = sorted(finding.SHIPPED_DIR.glob("*.safetensors"))


@fuzzed
@given(st.integers(0, 200) | st.integers(0, 1 << 16), EDITS)
def test_headers_of_safetensors(tmp_path_factory, start, edits):
    """The header of a teacher, whose manifest is in it; its weights stay."""
    content = SHIPPED[0].read_bytes()
    length = 8 + int.from_bytes(content[:8], "little")
    at = start % length
    head = content[:at] + edited(content[at:length], edits)
    path = _folder(tmp_path_factory) / "depth_euclidean.safetensors"
    path.write_bytes(head + content[length:])
    survives(teacher_file.read_manifest, path)


JSON_FILES = {
    "manifest.json": (
        b'{"teachers": {"normal": {"file": "normal.safetensors", "sha256": "0"}}}',
        finding.read_teachers_manifest,
    ),
    "assets.extra/metadata.json": (
        json.dumps(
            {
                "format": 1,
                "image_size": 16,
                "tasks": {"normal": {"shape": [None, 16, 16, 3]}},
            }
        ).encode(),
        lambda path: saved_model.read_metadata(str(path.parents[1])),
    ),
    "origin.json": (
        json.dumps(
            {
                "supervision": "teachers",
                "teachers": [
                    {
                        **{"task": "normal", "role": "target", "file": "a"},
                        **{"sha256": "0", "fingerprint": None, "license": None},
                        **{"shipped": True, "image_size": 64, "parameters": 9},
                    }
                ],
                "images": {"source": "photos", "train": 1, "validation": 1},
            }
        ).encode(),
        lambda path: origin.read_origin(str(path.parent), 7, "evaluation.json"),
    ),
    "split.json": (
        b'{"train": ["a", "b"], "validation": ["c"], "seed": 0, "by": "point"}',
        lambda path: split_samples(
            [Sample(key, key, {}) for key in "abc"], 0.3, path=str(path)
        ),
    ),
}


@fuzzed
@given(st.sampled_from(sorted(JSON_FILES)), EDITS)
def test_json(tmp_path_factory, name, edits):
    content, parse = JSON_FILES[name]
    path = _folder(tmp_path_factory) / name
    path.parent.mkdir(exist_ok=True)
    (path.parents[1] / "saved_model.pb").touch()
    path.write_bytes(edited(content, edits))
    survives(parse, path)


@fuzzed
@given(EDITS)
def test_tables(tmp_path_factory, edits):
    content = b"step,stage,seconds,loss/soft/normal\n1,joint,2.0,0.5\n2,cycle,3.0,nan\n"
    path = _folder(tmp_path_factory) / "metrics.csv"
    path.write_bytes(edited(content, edits))
    survives(curves.read_columns, str(path))
    survives(documents.read_csv, path, ["step"], "Do this.")


GIN = "\n".join((config_root() / n).read_text() for n in ("base.gin", "rooms/soka.gin"))


@fuzzed
@given(EDITS)
def test_stored_configurations(tmp_path_factory, edits):
    path = _folder(tmp_path_factory) / "operative_config.gin"
    content = edited(GIN[:3000].encode(), edits)
    path.write_bytes(content)
    survives(read_gin, [str(path)])
    survives(differing_bindings, content.decode(errors="replace"), "seed = 0\n")


def _folder(tmp_path_factory) -> pathlib.Path:
    """One folder for all examples: a folder each would fill the disk."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    folder.mkdir(exist_ok=True)
    return folder
