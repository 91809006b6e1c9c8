"""Colours and scales of maps; one image beside its maps."""

import matplotlib
import numpy as np
import pytest

from soka_tf.evaluation.image_grid import apply_colormap
from soka_tf.evaluation.map_pictures import (
    MISSING_COLOUR,
    colorize,
    display_range,
    draw_prediction,
    map_scale,
)
from soka_tf.task_definitions import task_of
from soka_tf.tasks import get_task

DEPTH, EDGES = get_task("depth_zbuffer"), get_task("edge_texture")
NORMAL, CURVATURE = get_task("normal"), get_task("principal_curvature")
COLOURS = [[10, 200, 30], [250, 0, 120], [0, 0, 255]]
GROUND = task_of(
    "ground", {"kind": "classes", "classes": ["a", "b", "c"], "colours": COLOURS}
)


def test_colorize_follows_the_colour_map_between_the_ends():
    values = np.array([0.0, 1.0, 3.0, 5.0, 9.0]).reshape(1, 5, 1)
    colours = colorize(DEPTH, values, 1.0, 5.0)
    magma = matplotlib.colormaps["magma"]([0.0, 0.0, 0.5, 1.0, 1.0])[:, :3]
    assert colours.dtype == np.uint8 and colours.shape == (1, 5, 3)
    np.testing.assert_allclose(colours[0], magma * 255, atol=0.5)


def test_colorize_of_normals_shows_components_as_colours():
    values = np.array([[[1.0, -1.0, 0.0]]])
    assert colorize(NORMAL, values, -1, 1).tolist() == [[[255, 0, 128]]]


def test_colorize_of_two_channels_fills_the_third():
    values = np.array([[[255.0, 0.0]]])
    assert colorize(CURVATURE, values, 0, 255).tolist() == [[[255, 0, 128]]]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_colorize_marks_pixels_without_a_value(bad):
    values = np.array([[[0.0, bad, 1.0], [0.0, 0.0, 1.0]]])
    colours = colorize(NORMAL, values, -1, 1)
    assert tuple(colours[0, 0]) == MISSING_COLOUR
    assert tuple(colours[0, 1]) == (128, 128, 255)


def test_missing_colour_is_in_no_colour_map_used():
    for name in ("magma", "gray", "Reds"):
        colours = apply_colormap(np.linspace(0, 1, 256), name)
        distance = np.abs(colours.astype(int) - MISSING_COLOUR).max(axis=-1)
        assert distance.min() > 15, name


def test_display_range_takes_open_ends_from_the_reference_without_missing_pixels():
    values = np.append(np.linspace(1, 5, 101), [np.nan, np.inf])
    assert display_range(DEPTH, values) == pytest.approx((1.04, 4.96))
    assert display_range(EDGES, values) == (0.0, 0.08)
    low, high = display_range(DEPTH, np.full(3, 2.0))
    assert low == 2.0 and high > low


def test_prediction_keeps_the_aspect_ratio_of_the_image():
    image = np.full((100, 200, 3), [10, 200, 30], np.uint8)
    values = np.linspace(1, 5, 64).reshape(8, 8, 1)
    drawn = draw_prediction(image, {"depth_zbuffer": values}, [DEPTH])
    rows, columns = np.nonzero(np.all(drawn == [10, 200, 30], axis=-1))
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (256, 512)
    right = drawn[rows.min() : rows.max() + 1, columns.max() + 50 :]
    assert right[-10, 400].sum() > right[10, 10].sum() + 200  # far is brighter


def test_prediction_of_a_long_panorama_stays_of_bearable_size():
    image = np.zeros((10, 4000, 3), np.uint8)
    drawn = draw_prediction(image, {"edge_texture": np.zeros((8, 8, 1))}, [EDGES])
    assert drawn.shape[1] < 2200


def test_prediction_of_classes_has_no_colours_between_them():
    maps = {"ground": np.eye(3)[np.arange(25).reshape(5, 5) % 3]}
    drawn = draw_prediction(np.zeros((31, 47, 3), np.uint8), maps, [GROUND])
    start = drawn.shape[1] // 2 + 20  # the map's half, above the legend
    half = drawn[60:200, start : start + 200].reshape(-1, 3)
    assert {tuple(c) for c in half.tolist()} <= {tuple(c) for c in COLOURS}
    for colour in COLOURS:  # in the legend, too
        assert np.all(drawn[-40:] == colour, axis=-1).any()


def test_scale_of_a_range_is_the_definitions():
    task = task_of("height", {"kind": "continuous", "range": [-1, 3], "unit": "m"})
    low, high = display_range(task, np.zeros((2, 2, 1)))
    assert (low, high) == (-1.0, 3.0)
    assert map_scale(task, low, high).label == "m"
