import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from soka_tf import atomic
from soka_tf.data import encodings
from soka_tf.data.image_files import read_file
from soka_tf.data.rooms import camera as cameras
from soka_tf.data.rooms import raycast, room_files
from soka_tf.data.rooms import scene as room_scene
from soka_tf.data.rooms import views as seen
from soka_tf.data.rooms.base_builder import CLASSES
from soka_tf.data.rooms.raycast import BALL, BOX, Solid, Solids
from soka_tf.errors import UserError
from soka_tf.tasks import TASKS
from tests.lock_holder import held
from tests.tiny_runs import ROOT

SIZE = 64
NO_MAPS = ("rgb", "segment_semantic", "vanishing_point")
MAPS = [name for name in room_files.DOMAINS if name not in NO_MAPS]


@pytest.fixture(scope="module")
def views():
    return [
        room_files.render_room(7, n, n % 3, SIZE, room_files.DOMAINS) for n in range(24)
    ]


def _geometry(solids, size, target=(0.0, 3.0, 1.2), roll=0.0):
    """Looks along +y from the middle of a 6 x 6 x 2.8 m room with the given solids."""
    room = Solid(BOX, (0, 0, 1.4), (3, 3, 1.4), 0.0, 0)
    scene = room_scene.Scene(
        Solids([room, *solids]), (), (), (), (), (), 0.0, np.zeros((1, 1)), None
    )
    camera = cameras._camera(np.array([0, 0, 1.4]), np.array(target), roll, 0.6)
    windows = cameras.windows_of(scene.solids, camera)
    return seen.Geometry(scene, camera, 2 * size, windows)


def _encoded_edges(solids, size, **kwargs):
    raw = seen.edge_occlusion(_geometry(solids, size, **kwargs), size)
    task = TASKS["edge_occlusion"]
    return encodings.encode(task, encodings.store(task, raw[..., None]), size)[..., 0]


def test_render_room_same_numbers_give_same_pictures_in_any_order(views):
    room_files._scene.cache_clear()
    for n in (5, 2):
        again = room_files.render_room(7, n, n % 3, SIZE, room_files.DOMAINS)
        for domain in room_files.DOMAINS:
            np.testing.assert_array_equal(again[domain], views[n][domain])


def test_render_room_fewer_domains_gives_same_values(views):
    for domain in room_files.DOMAINS:
        alone = room_files.render_room(7, 3, 0, SIZE, [domain])
        assert list(alone) == [domain]
        np.testing.assert_array_equal(alone[domain], views[3][domain])


def test_render_room_other_seed_room_or_view_gives_another_picture():
    pictures = [
        room_files.render_room(*numbers, 32, ["rgb"])["rgb"].tobytes()
        for numbers in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]
    ]
    assert len(set(pictures)) == 4


def test_render_room_other_size_shows_the_same_scene(views):
    large = room_files.render_room(
        7, 3, 0, 3 * SIZE, ["depth_zbuffer", "vanishing_point"]
    )
    # With an odd factor the small picture's pixel centres are among the large one's.
    np.testing.assert_allclose(
        large["depth_zbuffer"][1::3, 1::3], views[3]["depth_zbuffer"], rtol=1e-3
    )
    np.testing.assert_array_equal(large["vanishing_point"], views[3]["vanishing_point"])


def test_render_room_every_domain_has_documented_shape_and_type(views):
    for domain, values in views[0].items():
        bytes_ = domain in ("rgb", "segment_semantic")
        assert values.dtype == (np.uint8 if bytes_ else np.float32)
        if domain == "vanishing_point":
            assert values.shape == (3, 3)
        else:
            channels = 3 if domain in ("rgb", "normal") else 1
            assert values.shape == (SIZE, SIZE, channels)
        assert np.isfinite(values).all()


@pytest.mark.parametrize("domain", MAPS)
def test_render_room_every_map_fills_its_encoding(views, domain):
    task = TASKS[domain]
    encoded = np.stack(
        [
            encodings.encode(task, encodings.store(task, view[domain]), SIZE)
            for view in views
        ]
    )
    low, high, spread = {
        "depth_zbuffer": (0.6, 0.7, 0.03),
        "depth_euclidean": (0.6, 0.7, 0.03),
        "normal": (-0.9, 0.9, 0.3),
        "reshading": (-0.6, 0.6, 0.2),
        "edge_occlusion": (-0.99, 0.8, 0.3),
        "keypoints3d": (-0.98, 0.4, 0.2),
    }.get(domain, (-0.99, 0.9, 0.2))
    assert np.percentile(encoded, 1) < low
    assert encoded.max() > high
    assert encoded.std() > spread
    assert encoded.min() >= -1.0001
    assert encoded.max() < 1.1


def test_classes_all_occur_and_are_where_the_geometry_says(views):
    classes = np.stack([view["segment_semantic"][..., 0] for view in views])
    assert set(np.unique(classes)) == set(range(1, len(CLASSES)))
    normals = np.stack([view["normal"] for view in views])
    axes = np.stack([view["vanishing_point"] for view in views])
    upwards = np.einsum("nijc,nc->nij", normals, axes[:, 1])
    for name, facing in (("floor", 1), ("rug", 1), ("ceiling", -1), ("wall", 0)):
        there = upwards[classes == CLASSES.index(name)]
        np.testing.assert_allclose(there, facing, atol=1e-4)


def test_render_room_pictures_are_neither_dark_nor_flat(views):
    for view in views:
        assert 40 < view["rgb"].mean() < 225
        assert view["rgb"].std() > 8


def test_render_room_cameras_keep_their_distance(views):
    nearest = np.array([view["depth_zbuffer"].min() for view in views])
    assert (nearest > 0.35).all()


def test_render_room_depths_and_normals_agree_with_the_point_cloud():
    size = 96
    for n in range(4):
        scene = room_files._scene(7, n)
        rng = np.random.default_rng([7, n, 1])
        half_width = cameras.place_camera(scene, rng).half_width
        view = room_files.render_room(
            7, n, 0, size, ["depth_zbuffer", "depth_euclidean", "normal"]
        )
        depth = view["depth_zbuffer"][..., 0].astype(np.float64)
        across = ((np.arange(size) + 0.5) * 2 / size - 1) * half_width
        x, y = np.meshgrid(across, -across)
        cloud = np.stack([x * depth, y * depth, -depth], -1)
        np.testing.assert_allclose(
            np.linalg.norm(cloud, axis=-1), view["depth_euclidean"][..., 0], rtol=1e-5
        )
        np.testing.assert_allclose(
            np.linalg.norm(view["normal"], axis=-1), 1, atol=1e-5
        )
        right = cloud[1:-1, 2:] - cloud[1:-1, :-2]
        up = cloud[:-2, 1:-1] - cloud[2:, 1:-1]
        measured = np.cross(right, up)
        measured /= np.linalg.norm(measured, axis=-1, keepdims=True)
        given = view["normal"]
        flat = np.ones((size - 2, size - 2), bool)
        for rows in (0, 1, 2):
            for columns in (0, 1, 2):
                part = given[rows : size - 2 + rows, columns : size - 2 + columns]
                flat &= (part * given[1:-1, 1:-1]).sum(-1) > 1 - 1e-6
        # Parallel planes at two depths (a door before a wall) are no flat region.
        jump = ndimage.maximum_filter(np.abs(ndimage.laplace(1 / depth)), 3)[1:-1, 1:-1]
        flat &= jump < 1e-4
        assert flat.mean() > 0.3
        cosine = (measured * given[1:-1, 1:-1]).sum(-1)[flat]
        assert cosine.min() > 0.999
        towards_camera = -(given * cloud).sum(-1)
        assert (towards_camera > -1e-4).all()


def test_normal_of_floor_is_up_and_of_wall_ahead_towards_the_camera():
    normal = _geometry([], 32).normal
    assert normal[-1, 32, 1] > 0.95
    assert normal[32, 32, 2] > 0.95


def test_vanishing_point_rows_are_the_rooms_axes(views):
    for view in views:
        axes = view["vanishing_point"]
        np.testing.assert_allclose(axes @ axes.T, np.eye(3), atol=1e-6)
        assert axes[0, 0] > 0 and axes[1, 1] > 0 and axes[2, 2] < 0
        # Most of what a room shows is parallel to one of its axes.
        along = np.abs(view["normal"].reshape(-1, 3) @ axes.T).max(1)
        assert np.mean(along > 0.999) > 0.3


def test_edge_occlusion_room_creases_leave_no_line():
    for roll in (0.0, 0.3):
        edges = _encoded_edges([], SIZE, target=(3.0, 2.5, 0.8), roll=roll)
        np.testing.assert_allclose(edges, -1, atol=1e-6)


def test_edge_occlusion_furniture_against_floor_and_wall_leaves_no_line():
    # A step along the whole wall ahead: its foot and its back touch the room.
    step = Solid(BOX, (0, 2.6, 0.4), (3.5, 0.4, 0.4), 0.0, 0)
    edges = _encoded_edges([step], SIZE)
    assert edges.max() < -0.9


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("roll", [0.0, 0.05, 0.3, 0.785])
def test_edge_occlusion_silhouette_is_even_and_full_at_any_slant(roll, size):
    # A wide board in the middle of the room: one long edge across the picture.
    board = Solid(BOX, (0, 1.5, 0.7), (2.9, 0.02, 0.7), 0.0, 0)
    edges = _encoded_edges([board], size, target=(0.0, 3.0, 1.4), roll=roll)
    inner = edges[size // 4 : -size // 4, size // 4 : -size // 4]
    lines = (inner.max(0), inner.max(1)) if roll > 0.5 else (inner.max(0),)
    for ridge in lines:
        # At 64 px the ridge is sampled up to half a pixel beside its top.
        assert ridge.min() > 0.75
        assert ridge.max() < 1.02
        assert ridge.std() < 0.06


def test_edge_occlusion_outline_of_a_ball_is_closed_and_even():
    ball = Solid(BALL, (0, 1.6, 1.4), (0.4, 0.4, 0.4), 0.0, 0)
    edges = _encoded_edges([ball], 128, target=(0.0, 3.0, 1.4))
    angle = np.linspace(0, 2 * np.pi, 90)
    radius = np.linspace(0, 60, 121)[:, None]
    ring = ndimage.map_coordinates(
        edges, [63.5 + radius * np.sin(angle), 63.5 + radius * np.cos(angle)], order=1
    ).max(0)
    assert ring.min() > 0.75
    assert ring.std() < 0.05


def test_edge_occlusion_neighbouring_outlines_do_not_add_up():
    posts = [
        Solid(BOX, (x, 1.5, 1.4), (0.015, 0.015, 1.4), 0.0, 0)
        for x in np.linspace(-0.6, 0.6, 9)
    ]
    assert _encoded_edges(posts, SIZE).max() < 1.1


def test_edge_texture_same_edge_has_same_strength_at_any_size():
    peaks = []
    for size in (64, 128, 256):
        picture = np.full((size, size, 3), 80, np.uint8)
        picture[:, size // 2 :] = 160
        peaks.append(seen.edge_texture(picture).max())
    assert max(peaks) / min(peaks) < 1.25


def test_keypoints2d_respond_to_a_corner_and_not_to_an_edge():
    picture = np.full((64, 64, 3), 60, np.uint8)
    picture[32:, 32:] = 200
    response = seen.keypoints2d(picture)
    assert response[28:36, 28:36].max() > 0.003
    assert response[50:, 28:36].max() < 0.0003


def test_keypoints3d_slanted_outline_is_no_row_of_corners():
    board = Solid(BOX, (0, 1.5, 0.7), (2.9, 0.02, 0.7), 0.0, 0)
    fine = _geometry([board], 128, target=(0.0, 3.0, 1.4), roll=0.2)
    assert seen.keypoints3d(fine, 128)[32:-32, 32:-32].max() < 0.3


def test_is_shadowed_only_behind_the_solid():
    room = Solid(BOX, (0, 0, 1.4), (3, 3, 1.4), 0.0, 0)
    table = Solid(BOX, (0, 0, 0.7), (0.5, 0.5, 0.02), 0.3, 0)
    points = np.array([[0, 0, 0], [2, 0, 0], [0, 0, 0.72]], np.float32).T
    lamp = np.tile(np.array([[0], [0], [2.7]], np.float32), 3)
    shadowed = raycast.is_shadowed(Solids([room, table]), points, lamp, 0.1)
    assert shadowed.tolist() == [True, False, False]


def test_generate_rooms_files_hold_the_rendered_values(tmp_path):
    root = room_files.generate_rooms(
        tmp_path, 7, range(3, 4), 2, 32, room_files.DOMAINS, progress=False
    )
    view = room_files.render_room(7, 3, 1, 32, room_files.DOMAINS)
    for domain in room_files.DOMAINS:
        path = pathlib.Path(room_files._file_path(root, domain, 3, 1))
        assert path.parent == tmp_path / "rooms" / domain
        assert path.stem == f"point_3_view_1_domain_{domain}"
        if domain == "vanishing_point":
            np.testing.assert_array_equal(np.load(path), view[domain])
            continue
        if domain == "segment_semantic":
            np.testing.assert_array_equal(read_file(str(path), domain), view[domain])
            continue
        with Image.open(path) as image:
            pixels = np.asarray(image)
        sixteen = domain != "rgb" and TASKS[domain].encoding.bits == 16
        assert pixels.dtype.itemsize == (2 if sixteen else 1)
        expected = view[domain]
        if domain != "rgb":
            expected = encodings.store(TASKS[domain], expected)
        np.testing.assert_array_equal(pixels.reshape(expected.shape), expected)
    assert not list(tmp_path.rglob("*.tmp"))


def test_generate_rooms_called_again_makes_only_what_is_missing(tmp_path, monkeypatch):
    arguments = (tmp_path, 7, 2, 2, 16, ["rgb"])
    room_files.generate_rooms(*arguments, workers=0, progress=False)
    path = pathlib.Path(room_files._file_path(str(tmp_path), "rgb", 1, 0))
    content = path.read_bytes()
    path.unlink()
    drawn = []
    render = room_files.render_room

    def remember(seed, room, view, size, domains):
        drawn.append((room, view, tuple(domains)))
        return render(seed, room, view, size, domains)

    monkeypatch.setattr(room_files, "render_room", remember)
    room_files.generate_rooms(*arguments, workers=0, progress=False)
    assert drawn == [(1, 0, ("rgb",))]
    assert path.read_bytes() == content
    drawn.clear()
    room_files.generate_rooms(
        tmp_path, 7, 1, 1, 16, ["rgb", "normal"], workers=0, progress=False
    )
    assert drawn == [(0, 0, ("normal",))]


def test_generate_rooms_of_two_processes_draws_each_once(tmp_path, monkeypatch):
    def generate(folder):
        room_files.generate_rooms(
            folder, 7, 1, 2, 16, ["rgb"], workers=0, progress=False
        )

    generate(tmp_path / "there")
    waits, drawn = threading.Event(), []
    monkeypatch.setattr(room_files, "_draw_missing", lambda *_: drawn.append(1) or 1)
    # Not caplog: where absl's records go depends on what ran before.
    monkeypatch.setattr(atomic.logging, "info", lambda *_: waits.set())
    (tmp_path / "here").mkdir()
    second = threading.Thread(target=generate, args=(tmp_path / "here",))
    with atomic.locked(tmp_path / "here" / "lock", "draws"):
        second.start()
        assert waits.wait(60)
        source = tmp_path / "there" / "rooms"
        shutil.copytree(source, tmp_path / "here" / "rooms", dirs_exist_ok=True)
    second.join(60)
    assert not drawn


_DRAW = """
import sys
from absl import logging
from soka_tf.data.rooms import room_files
logging.set_verbosity(logging.INFO)
size = int(sys.argv[2])
args = (sys.argv[1], 7, 1, 2, size, ["rgb"])
room_files.generate_rooms(*args, workers=0, progress=False)
"""


def draw_while_locked(folder, *sizes):
    """Processes that draw, once all of them have waited for another's lock."""
    folder.mkdir()
    with held(folder / "lock"):
        drawing = [
            subprocess.Popen(
                [sys.executable, "-c", _DRAW, str(folder), str(size)],
                cwd=ROOT,
                stderr=subprocess.PIPE,
                text=True,
            )
            for size in sizes
        ]
        for process in drawing:
            said = process.stderr.readline()
            assert f"Waiting for another process that draws rooms in {folder}" in said
        assert not list(folder.rglob("*.png"))
    return [(p.communicate(timeout=60)[1], p.returncode) for p in drawing]


def test_processes_wait_for_one_that_draws_and_died_and_draw_the_same(tmp_path):
    room_files.generate_rooms(
        tmp_path / "alone", 7, 1, 2, 16, ["rgb"], workers=0, progress=False
    )
    done = draw_while_locked(tmp_path / "two", 16, 16)
    assert [status for _, status in done] == [0, 0]
    alone, two = (sorted((tmp_path / n).rglob("*.png")) for n in ("alone", "two"))
    assert [p.read_bytes() for p in alone] == [p.read_bytes() for p in two]


def test_processes_of_other_rooms_do_not_mix_them_in_a_new_folder(tmp_path):
    done = draw_while_locked(tmp_path / "two", 16, 32)
    ((said, _),) = [each for each in done if each[1]]
    assert "holds other rooms" in said.strip().splitlines()[-1]
    images = [read_file(str(path), "rgb") for path in tmp_path.rglob("*.png")]
    assert len(images) == 2 and images[0].shape == images[1].shape


@pytest.mark.parametrize("seed, size", [(8, 16), (7, 32)])
def test_generate_rooms_folder_of_other_rooms_raises_user_error(tmp_path, seed, size):
    room_files.generate_rooms(tmp_path, 7, 1, 1, 16, ["rgb"], progress=False)
    with pytest.raises(UserError, match=r"rooms\.json.*Choose another folder"):
        room_files.generate_rooms(tmp_path, seed, 1, 1, size, ["rgb"], progress=False)


def test_generate_rooms_other_generator_version_raises_user_error(
    tmp_path, monkeypatch
):
    room_files.generate_rooms(tmp_path, 7, 1, 1, 16, ["rgb"], progress=False)
    name = room_files.rooms_folder_name(7, 16)
    monkeypatch.setattr(
        room_files, "GENERATOR_VERSION", room_files.GENERATOR_VERSION + 1
    )
    assert room_files.rooms_folder_name(7, 16) != name
    with pytest.raises(UserError, match="holds other rooms"):
        room_files.generate_rooms(tmp_path, 7, 1, 1, 16, ["rgb"], progress=False)


@pytest.mark.parametrize("domains", ["rgb", [], ["rgb", "depth"]])
def test_render_room_unknown_domains_raise_user_error(domains):
    with pytest.raises(UserError, match="domain"):
        room_files.render_room(0, 0, 0, 16, domains)


def test_generate_rooms_workers_of_an_unguarded_piped_script_draw_the_same(tmp_path):
    # Spawned processes would import this script again, or fail to: it has no file.
    script = (
        "from soka_tf.data.rooms import room_files\n"
        f"room_files.generate_rooms({str(tmp_path)!r}, 7, 2, 8, 16, ['rgb'], workers=2,"
        " progress=False)\n"
        "import sys; assert 'tensorflow' not in sys.modules\n"
    )
    root = pathlib.Path(room_files.__file__).parents[3]
    done = subprocess.run(
        [sys.executable, "-"], input=script, text=True, cwd=root, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    files = sorted((tmp_path / "rooms" / "rgb").iterdir())
    assert len(files) == 16
    with Image.open(room_files._file_path(str(tmp_path), "rgb", 1, 5)) as image:
        expected = room_files.render_room(7, 1, 5, 16, ["rgb"])["rgb"]
        np.testing.assert_array_equal(np.asarray(image), expected)
