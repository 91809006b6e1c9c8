"""Taskonomy's files: layouts, pairing, damage, splits."""

import json
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from soka_tf.data import taskonomy
from soka_tf.data.taskonomy import DamagedFile, Sample
from soka_tf.errors import UserError

LAYOUTS = (
    "{building}/{domain}",
    "{domain}/taskonomy/{building}",
    "{domain}/{building}",
)


def _write(root, layout, building, domain, point, view, suffix=".png"):
    folder = root / layout.format(building=building, domain=domain)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"point_{point}_view_{view}_domain_{domain}{suffix}"
    if domain == "depth_zbuffer":
        Image.fromarray(np.full((4, 4), 1000, np.uint16)).save(path)
    else:
        Image.new("RGB", (4, 4), (10, 20, 30)).save(path, format="PNG")
    return path


def _building(root, layout=LAYOUTS[0], building="ada", domains=("rgb", "normal")):
    for domain in domains:
        for point in (0, 1):
            for view in (0, 2):
                _write(root, layout, building, domain, point, view)


def _samples(points=20, views=3):
    return [
        Sample(f"ada/point_{p}_view_{v}", f"ada/point_{p}", {"rgb": "x"})
        for p in range(points)
        for v in range(views)
    ]


# Finding


@pytest.mark.parametrize("layout", LAYOUTS)
def test_find_samples_every_layout_gives_the_same_samples(tmp_path, layout):
    _building(tmp_path, layout, "ada")
    _building(tmp_path, layout, "bob")
    samples = taskonomy.find_samples(str(tmp_path), ["normal"], warn=lambda _: None)
    assert [s.key for s in samples] == [
        f"{building}/point_{p}_view_{v}"
        for building in ("ada", "bob")
        for p in (0, 1)
        for v in (0, 2)
    ]
    sample = samples[1]
    assert sample.point == "ada/point_0"
    for domain in ("rgb", "normal"):
        folder = layout.format(building="ada", domain=domain)
        name = f"point_0_view_2_domain_{domain}.png"
        assert sample.files[domain] == str(tmp_path / folder / name)


def test_find_samples_pairs_by_key_when_files_are_missing(tmp_path):
    _building(tmp_path)
    os.remove(tmp_path / "ada/rgb/point_0_view_0_domain_rgb.png")
    os.remove(tmp_path / "ada/normal/point_0_view_2_domain_normal.png")
    messages = []
    samples = taskonomy.find_samples(tmp_path, ["normal"], warn=messages.append)
    labelled = {s.key: "normal" in s.files for s in samples}
    assert labelled == {
        "ada/point_0_view_2": False,
        "ada/point_1_view_0": True,
        "ada/point_1_view_2": True,
    }
    for sample in samples:
        for path in sample.files.values():
            assert os.path.basename(sample.key) in path
    assert "left out 1 samples" in messages[0]


def test_find_samples_masked_domain_takes_its_mask_along(tmp_path):
    _building(tmp_path, domains=("rgb", "normal", "depth_zbuffer", "edge_texture"))
    (sample, *_) = taskonomy.find_samples(tmp_path, ["normal"])
    assert set(sample.files) == {"rgb", "normal", "depth_zbuffer"}
    (sample, *_) = taskonomy.find_samples(tmp_path, ["edge_texture"])
    assert set(sample.files) == {"rgb", "edge_texture"}


def test_find_samples_absent_domain_is_warned_about(tmp_path):
    _building(tmp_path, domains=("rgb",))
    messages = []
    taskonomy.find_samples(tmp_path, ["edge_texture"], warn=messages.append)
    assert len(messages) == 1 and "'edge_texture'" in messages[0]


def test_find_samples_foreign_files_are_passed_over(tmp_path):
    _building(tmp_path, domains=("rgb",))
    folder = tmp_path / "ada/rgb"
    for name in (
        "point_7_view_0_domain_rgb.jpg",
        "point_7_view_0_domain_rgb.png.part",
        "._point_7_view_0_domain_rgb.png",
        ".point_7_view_0_domain_rgb.png",
        "point_7_view_0_domain_normal.png",
        "point_x_view_0_domain_rgb.png",
        "thumbs.db",
    ):
        (folder / name).write_bytes(b"x")
    assert len(taskonomy.find_samples(tmp_path, [])) == 4


def test_find_samples_taskbank_file_names_are_accepted(tmp_path):
    _building(tmp_path, domains=("rgb",))
    folder = tmp_path / "ada/edge_texture"
    folder.mkdir()
    (folder / "point_0_view_0_domain_edge2d.png").write_bytes(b"x")
    samples = taskonomy.find_samples(tmp_path, ["edge_texture"])
    assert samples[0].files["edge_texture"].endswith("edge2d.png")


def test_find_samples_buildings_limits_the_search(tmp_path):
    _building(tmp_path, building="ada")
    _building(tmp_path, building="bob")
    samples = taskonomy.find_samples(tmp_path, [], buildings=["bob"])
    assert {s.point.split("/")[0] for s in samples} == {"bob"}
    both = taskonomy.find_samples(tmp_path, [], buildings=["bob", "ada", "bob"])
    assert both == taskonomy.find_samples(tmp_path, [])


def test_find_samples_wrong_building_suggests_the_right_one(tmp_path):
    _building(tmp_path, building="wiconisco")
    with pytest.raises(UserError, match="'wiconsico'.*Did you mean 'wiconisco'"):
        taskonomy.find_samples(tmp_path, [], buildings=["wiconsico"])


def test_find_samples_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder .*absent"):
        taskonomy.find_samples(tmp_path / "absent", [])


def test_find_samples_no_rgb_folder_lists_the_layouts(tmp_path):
    (tmp_path / "ada" / "normal").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        taskonomy.find_samples(tmp_path, [])
    for layout in ("{building}/rgb", "rgb/taskonomy/{building}", "rgb/{building}"):
        assert str(tmp_path / layout) in str(caught.value)


def test_find_samples_rgb_folder_without_images_says_what_names_it_wants(tmp_path):
    (tmp_path / "ada" / "rgb").mkdir(parents=True)
    with pytest.raises(UserError, match="point_{P}_view_{V}_domain_rgb.png"):
        taskonomy.find_samples(tmp_path, [])


def test_find_samples_building_given_as_root_points_to_the_folder_above(tmp_path):
    _building(tmp_path, building="ada")
    with pytest.raises(UserError, match="looks like one building.*'ada'"):
        taskonomy.find_samples(tmp_path / "ada", [])


# Reading


def _png(width, height, depth, colour, data):
    """The bytes of a PNG that Pillow itself would not write."""

    def chunk(kind, content):
        crc = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(data))
        + chunk(b"IEND", b"")
    )


def test_read_pixels_sixteen_bit_grey_label_keeps_its_bits(tmp_path):
    path = tmp_path / "depth.png"
    values = np.array([[0, 1, 64499], [256, 1000, 65535]], np.uint16)
    Image.fromarray(values).save(path)
    pixels = taskonomy.read_pixels(str(path), "depth_zbuffer")
    assert pixels.dtype == np.uint16
    np.testing.assert_array_equal(pixels[..., 0], values)


def test_read_pixels_eight_bit_label_stays_eight_bit(tmp_path):
    path = tmp_path / "shade.png"
    Image.new("L", (4, 4), 200).save(path)
    pixels = taskonomy.read_pixels(str(path), "reshading")
    assert pixels.dtype == np.uint8 and pixels.shape == (4, 4, 1)
    assert (pixels == 200).all()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_read_pixels_rgb_of_any_kind_becomes_three_bytes(tmp_path, mode):
    image = Image.new("RGB", (5, 3), (255, 255, 255)).convert(mode)
    path = tmp_path / ("image.jpg" if mode == "CMYK" else "image.png")
    image.save(path)
    pixels = taskonomy.read_pixels(str(path), "rgb")
    assert pixels.dtype == np.uint8 and pixels.shape == (3, 5, 3)
    assert (pixels == 255).all()


def test_read_pixels_sixteen_bit_rgb_becomes_eight_bit(tmp_path):
    row = b"\0" + struct.pack(">3H", 65535, 32896, 0) * 2
    path = tmp_path / "image.png"
    path.write_bytes(_png(2, 2, 16, 2, row * 2))
    pixels = taskonomy.read_pixels(str(path), "rgb")
    assert pixels.dtype == np.uint8 and pixels[1, 1].tolist() == [255, 128, 0]


def test_read_pixels_sixteen_bit_grey_as_rgb_is_scaled_not_cut(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(np.array([[0, 257, 32896, 65535]], np.uint16)).save(path)
    pixels = taskonomy.read_pixels(str(path), "rgb")
    assert pixels[0, :, 0].tolist() == [0, 1, 128, 255]


def test_read_pixels_palette_with_transparency_reads_without_warning(tmp_path):
    path = tmp_path / "image.png"
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 10, 20, 30])
    image.save(path, transparency=b"\x00\x80")
    assert taskonomy.read_pixels(str(path), "rgb")[0, 0].tolist() == [10, 20, 30]


def test_read_pixels_rotated_photo_is_turned_upright(tmp_path):
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    Image.new("RGB", (6, 2)).save(path, exif=exif)
    assert taskonomy.read_pixels(str(path), "rgb").shape == (6, 2, 3)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12"]
)
def test_read_pixels_damaged_exif_does_not_spoil_the_image(tmp_path, exif):
    path = tmp_path / "photo.png"
    Image.new("RGB", (6, 2), (1, 2, 3)).save(path, exif=exif)
    assert taskonomy.read_pixels(str(path), "rgb")[0, 0].tolist() == [1, 2, 3]


def test_read_pixels_label_beyond_sixteen_bits_is_refused(tmp_path):
    path = tmp_path / "depth.png"
    values = np.array([[0, 70000]], np.int32)
    Image.fromarray(values).save(path, format="TIFF")
    with pytest.raises(DamagedFile, match="do not fit 16 bits"):
        taskonomy.read_pixels(str(path), "depth_zbuffer")


def _truncated(path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:5000])


def _bomb(path):
    path.write_bytes(_png(30000, 30000, 8, 2, b""))


DAMAGES = {
    "truncated": (_truncated, "damaged"),
    "empty": (lambda path: path.write_bytes(b""), "empty"),
    "html": (lambda path: path.write_text("<!DOCTYPE html><p>404"), "text, not an"),
    "lfs": (lambda path: path.write_text("version https://git-lfs\n"), "text, not"),
    "noise": (lambda path: path.write_bytes(b"\x01\x02" * 50), "not an image"),
    "folder": (lambda path: path.mkdir(), "is a folder"),
    "absent": (lambda path: None, "no such file"),
    "bomb": (_bomb, "more pixels than are safe"),
    "zero_size": (lambda path: path.write_bytes(_png(0, 4, 8, 2, b"")), "damaged|not"),
    "header_only": (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n"), "damaged|not"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_read_pixels_damaged_file_is_named_with_the_reason(tmp_path, kind):
    damage, reason = DAMAGES[kind]
    path = tmp_path / "point_0_view_0_domain_rgb.png"
    damage(path)
    with pytest.raises(DamagedFile, match=reason) as caught:
        taskonomy.read_pixels(str(path), "rgb")
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("action", ["ignore", "error"])
def test_read_pixels_bomb_that_pillow_only_warns_of_is_refused(tmp_path, action):
    path = tmp_path / "image.png"
    path.write_bytes(_png(10000, 10000, 8, 2, b""))
    with warnings.catch_warnings():
        warnings.simplefilter(action)
        with pytest.raises(DamagedFile, match="more.* than .*are safe to open"):
            taskonomy.read_pixels(str(path), "rgb")


def test_read_pixels_eight_bit_depth_is_refused(tmp_path):
    path = tmp_path / "depth.png"
    Image.new("L", (4, 4), 7).save(path)
    with pytest.raises(DamagedFile, match="depth_zbuffer needs .* 16 bits"):
        taskonomy.read_pixels(str(path), "depth_zbuffer")


def test_read_pixels_grey_normal_is_refused(tmp_path):
    path = tmp_path / "normal.png"
    Image.new("L", (4, 4), 7).save(path)
    with pytest.raises(DamagedFile, match="normal needs 3 channels"):
        taskonomy.read_pixels(str(path), "normal")


def test_read_vanishing_point_takes_nine_finite_numbers_only(tmp_path):
    path = tmp_path / "points.npy"
    np.save(path, np.arange(9.0).reshape(3, 3))
    values = taskonomy.read_vanishing_point(str(path))
    assert values.dtype == np.float32 and values.tolist() == list(range(9))
    for wrong in (np.zeros(8), np.full(9, np.nan), np.array([{}], dtype=object)):
        np.save(path, wrong)
        with pytest.raises(DamagedFile):
            taskonomy.read_vanishing_point(str(path))


# Leaving out what is damaged


def test_drop_damaged_leaves_out_images_and_labels_and_says_so(tmp_path, caplog):
    _building(tmp_path, domains=("rgb", "normal", "edge_texture", "depth_zbuffer"))
    image = tmp_path / "ada/rgb/point_0_view_0_domain_rgb.png"
    label = tmp_path / "ada/edge_texture/point_0_view_2_domain_edge_texture.png"
    mask = tmp_path / "ada/depth_zbuffer/point_1_view_0_domain_depth_zbuffer.png"
    for path in (image, label, mask):
        path.write_bytes(b"")
    samples = taskonomy.find_samples(tmp_path, ["normal", "edge_texture"])
    good, damaged = taskonomy.drop_damaged(samples, ["normal", "edge_texture"])
    assert {s.key: set(s.files) for s in good} == {
        "ada/point_0_view_2": {"rgb", "normal", "depth_zbuffer"},
        "ada/point_1_view_0": {"rgb", "edge_texture"},
        "ada/point_1_view_2": {"rgb", "normal", "edge_texture", "depth_zbuffer"},
    }
    assert set(damaged) == {str(image), str(label), str(mask)}
    assert set(damaged.values()) == {"the file is empty"}
    (record,) = caplog.records
    assert "Left out 3 damaged files of 4 samples" in record.getMessage()
    assert str(image) in record.getMessage()


def test_drop_damaged_nothing_left_is_an_error(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    samples = [Sample("a", "a", {"rgb": str(tmp_path / "a.png")})]
    with pytest.raises(UserError, match="None of the 1 rgb files"):
        taskonomy.drop_damaged(samples, [])


# Splitting


def test_split_samples_by_point_keeps_views_together():
    samples = _samples()
    train, validation = taskonomy.split_samples(samples, 0.25)
    assert {s.point for s in train}.isdisjoint(s.point for s in validation)
    assert len(validation) == 15
    assert sorted(train + validation, key=samples.index) == samples


def test_split_samples_random_splits_points():
    train, validation = taskonomy.split_samples(_samples(), 0.25, by="random")
    assert {s.point for s in train} & {s.point for s in validation}
    assert len(validation) == 15


def test_split_samples_depends_on_the_seed_alone():
    samples = _samples()
    first = taskonomy.split_samples(samples, 0.25, seed=1)
    assert first == taskonomy.split_samples(samples, 0.25, seed=1)
    assert first != taskonomy.split_samples(samples, 0.25, seed=2)
    shuffled = taskonomy.split_samples(samples[::-1], 0.25, seed=1)
    assert {s.key for s in shuffled[1]} == {s.key for s in first[1]}


def test_split_samples_written_file_is_obeyed_afterwards(tmp_path):
    path = tmp_path / "new" / "split.json"
    samples = _samples()
    train, validation = taskonomy.split_samples(samples, 0.25, path=str(path))
    assert os.listdir(path.parent) == ["split.json"]
    content = json.loads(path.read_text())
    moved = content["validation"].pop()
    content["train"].append(moved)
    path.write_text(json.dumps(content))
    again = taskonomy.split_samples(samples, 0.25, path=str(path))
    assert [s for s in validation if s.key != moved] == again[1]
    assert moved in {s.key for s in again[0]}


def test_split_samples_own_file_needs_only_the_two_lists(tmp_path):
    path = tmp_path / "split.json"
    keys = [s.key for s in _samples()]
    path.write_text(json.dumps({"train": keys[3:], "validation": keys[:3]}))
    _, validation = taskonomy.split_samples(_samples(), 0.2, path=str(path))
    assert [s.key for s in validation] == keys[:3]


def test_split_samples_file_with_gone_samples_is_used_with_a_warning(tmp_path, caplog):
    path = str(tmp_path / "split.json")
    _, validation = taskonomy.split_samples(_samples(), 0.25, path=path)
    rest = [s for s in _samples() if s != validation[0]]
    _, again = taskonomy.split_samples(rest, 0.25, path=path)
    assert again == validation[1:]
    assert "1 samples that are not in the data" in caplog.records[0].getMessage()


@pytest.mark.parametrize(
    "content, text",
    [
        ("{", "is not a split file"),
        ("[]", "is not a split file"),
        ('{"train": []}', "is not a split file"),
        ('{"train": [], "validation": []}', "60 of 60 samples are not in it"),
        ('{"train": ["a"], "validation": ["a"]}', "both in training and in"),
        ('{"train": [], "validation": [], "seed": 5}', "made with seed=5"),
        ('{"train": [[]], "validation": []}', "is not a split file"),
    ],
)
def test_split_samples_file_that_does_not_fit_is_named(tmp_path, content, text):
    path = tmp_path / "split.json"
    path.write_text(content)
    with pytest.raises(UserError, match=text) as caught:
        taskonomy.split_samples(_samples(), 0.25, path=str(path))
    assert str(path) in str(caught.value)
    assert path.read_text() == content


def test_split_samples_without_validation_gives_all_to_training():
    assert taskonomy.split_samples(_samples(), 0.0) == (_samples(), [])


@pytest.mark.parametrize("fraction", [-0.1, 1.0])
def test_split_samples_impossible_fraction_is_refused(fraction):
    with pytest.raises(UserError, match="validation_fraction must be"):
        taskonomy.split_samples(_samples(), fraction)


def test_split_samples_unknown_kind_and_too_few_points_are_refused():
    with pytest.raises(UserError, match="by 'point' or by 'random'"):
        taskonomy.split_samples(_samples(), 0.5, by="scene")
    with pytest.raises(UserError, match="one side would be empty"):
        taskonomy.split_samples(_samples(points=1), 0.5)
