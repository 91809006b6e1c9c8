"""Taskonomy's files: layouts, pairing, buildings."""

import os

import numpy as np
import pytest
from PIL import Image

from soka_tf.data.sources import taskonomy
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


@pytest.mark.parametrize("layout", LAYOUTS)
def test_find_every_layout_gives_the_same_samples(tmp_path, layout):
    _building(tmp_path, layout, "ada")
    _building(tmp_path, layout, "bob")
    samples = taskonomy.find(str(tmp_path), ["normal"], warn=lambda _: None)
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


def test_find_pairs_by_key_when_files_are_missing(tmp_path):
    _building(tmp_path)
    os.remove(tmp_path / "ada/rgb/point_0_view_0_domain_rgb.png")
    os.remove(tmp_path / "ada/normal/point_0_view_2_domain_normal.png")
    messages = []
    samples = taskonomy.find(tmp_path, ["normal"], warn=messages.append)
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


def test_find_masked_domain_takes_its_mask_along(tmp_path):
    _building(tmp_path, domains=("rgb", "normal", "depth_zbuffer", "edge_texture"))
    (sample, *_) = taskonomy.find(tmp_path, ["normal"])
    assert set(sample.files) == {"rgb", "normal", "depth_zbuffer"}
    (sample, *_) = taskonomy.find(tmp_path, ["edge_texture"])
    assert set(sample.files) == {"rgb", "edge_texture"}


def test_find_absent_domain_is_warned_about(tmp_path):
    _building(tmp_path, domains=("rgb",))
    messages = []
    taskonomy.find(tmp_path, ["edge_texture"], warn=messages.append)
    assert len(messages) == 1 and "'edge_texture'" in messages[0]


def test_find_foreign_files_are_passed_over(tmp_path):
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
    assert len(taskonomy.find(tmp_path, [])) == 4


def test_find_taskbank_file_names_are_accepted(tmp_path):
    _building(tmp_path, domains=("rgb",))
    folder = tmp_path / "ada/edge_texture"
    folder.mkdir()
    (folder / "point_0_view_0_domain_edge2d.png").write_bytes(b"x")
    samples = taskonomy.find(tmp_path, ["edge_texture"])
    assert samples[0].files["edge_texture"].endswith("edge2d.png")


def test_find_buildings_limits_the_search(tmp_path):
    _building(tmp_path, building="ada")
    _building(tmp_path, building="bob")
    samples = taskonomy.find(tmp_path, [], buildings=["bob"])
    assert {s.point.split("/")[0] for s in samples} == {"bob"}
    both = taskonomy.find(tmp_path, [], buildings=["bob", "ada", "bob"])
    assert both == taskonomy.find(tmp_path, [])


def test_find_wrong_building_suggests_the_right_one(tmp_path):
    _building(tmp_path, building="wiconisco")
    with pytest.raises(UserError, match="'wiconsico'.*Did you mean 'wiconisco'"):
        taskonomy.find(tmp_path, [], buildings=["wiconsico"])


def test_find_missing_folder_is_named(tmp_path):
    with pytest.raises(UserError, match="no folder .*absent"):
        taskonomy.find(tmp_path / "absent", [])


def test_find_no_rgb_folder_lists_the_layouts(tmp_path):
    (tmp_path / "ada" / "normal").mkdir(parents=True)
    with pytest.raises(UserError) as caught:
        taskonomy.find(tmp_path, [])
    for layout in ("{building}/rgb", "rgb/taskonomy/{building}", "rgb/{building}"):
        assert str(tmp_path / layout) in str(caught.value)


def test_find_rgb_folder_without_images_says_what_names_it_wants(tmp_path):
    (tmp_path / "ada" / "rgb").mkdir(parents=True)
    with pytest.raises(UserError, match="point_{P}_view_{V}_domain_rgb.png"):
        taskonomy.find(tmp_path, [])


def test_find_building_given_as_root_points_to_the_folder_above(tmp_path):
    _building(tmp_path, building="ada")
    with pytest.raises(UserError, match="looks like one building.*'ada'"):
        taskonomy.find(tmp_path / "ada", [])
