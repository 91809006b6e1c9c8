import numpy as np
import pytest
from matplotlib import colors
from PIL import Image

from soka_tf.evaluation import similarity_figure
from soka_tf.evaluation.similarity_figure import cluster_order, draw_similarity
from soka_tf.tasks import TASKS

# depth and normal are alike, and so are the edges.
NAMES = ["depth_zbuffer", "edge_texture", "normal", "edge_occlusion"]
MATRIX = np.array(
    [
        [1.0, 0.1, 0.9, 0.2],
        [0.1, 1.0, 0.15, 0.8],
        [0.9, 0.15, 1.0, 0.1],
        [0.2, 0.8, 0.1, 1.0],
    ]
)


def has_colour(image, name):
    wanted = np.rint(np.array(colors.to_rgb(name)) * 255)
    return bool((image == wanted).all(axis=-1).any())


def test_alike_teachers_become_neighbours():
    order = [NAMES[i] for i in cluster_order(MATRIX)]
    assert abs(order.index("depth_zbuffer") - order.index("normal")) == 1
    assert abs(order.index("edge_texture") - order.index("edge_occlusion")) == 1


def test_rows_columns_and_values_are_in_the_clustered_order(monkeypatch):
    seen = {}
    draw_cells, label = similarity_figure._draw_cells, similarity_figure._label

    def cells(axis, similarity, size):
        image = draw_cells(axis, similarity, size)
        seen["texts"] = [text.get_text() for text in axis.texts]
        return image

    def labels(axis, *rest):
        label(axis, *rest)
        seen["x"] = [tick.get_text() for tick in axis.get_xticklabels()]
        seen["y"] = [tick.get_text() for tick in axis.get_yticklabels()]

    monkeypatch.setattr(similarity_figure, "_draw_cells", cells)
    monkeypatch.setattr(similarity_figure, "_label", labels)
    draw_similarity(MATRIX, NAMES)
    order = cluster_order(MATRIX)
    titles = [TASKS[NAMES[i]].title for i in order]
    assert seen["x"] == seen["y"] == titles
    expected = [f"{MATRIX[i, j]:.2f}" for i in order for j in order]
    assert seen["texts"] == expected


def test_targets_and_auxiliary_are_marked_only_where_there_are_some():
    target = similarity_figure._TARGET_COLOUR
    auxiliary = similarity_figure._AUXILIARY_COLOUR
    plain = draw_similarity(MATRIX, NAMES)
    assert not has_colour(plain, target) and not has_colour(plain, auxiliary)
    none = draw_similarity(MATRIX, NAMES, NAMES[:2])
    assert has_colour(none, target) and not has_colour(none, auxiliary)
    chosen = draw_similarity(MATRIX, NAMES, NAMES[:2], "normal")
    assert has_colour(chosen, target) and has_colour(chosen, auxiliary)


def test_frames_stand_around_the_numbers_that_decide(monkeypatch):
    framed, mark = {}, similarity_figure._mark

    def marks(axis, names, *rest):
        mark(axis, names, *rest)
        for patch in axis.patches:
            column, row = (round(middle) for middle in patch.get_center())
            colour = colors.to_hex(patch.get_edgecolor()).upper()
            framed.setdefault(colour, set()).add((names[row], names[column]))

    monkeypatch.setattr(similarity_figure, "_mark", marks)
    draw_similarity(MATRIX, NAMES, NAMES[:2], "normal")
    one, other = NAMES[:2]
    assert framed == {
        similarity_figure._TARGET_COLOUR: {(one, other), (other, one)},
        similarity_figure._AUXILIARY_COLOUR: {
            ("normal", one),
            (one, "normal"),
            ("normal", other),
            (other, "normal"),
        },
    }


@pytest.mark.parametrize("count", [1, 2, len(TASKS)])
def test_any_number_of_tasks_is_drawn_with_a_margin_of_white(count):
    random = np.random.default_rng(0).normal(size=(count, 40))
    matrix = np.corrcoef(random).reshape(count, count)
    image = draw_similarity(matrix, list(TASKS)[:count], heading="500 images")
    assert image.dtype == np.uint8 and image.ndim == 3 and image.shape[2] == 3
    # Nothing is cut off: no ink on the border.
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 255).all()


def test_the_longest_titles_fit_beside_each_other():
    longest = sorted(TASKS, key=lambda name: -len(TASKS[name].title))[:5]
    image = draw_similarity(np.eye(5) * 0.5 + 0.5, longest, longest[:2], longest[2])
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 255).all()


def test_picture_is_written_whole_and_alone(tmp_path):
    path = tmp_path / "deep" / "similarity.png"
    image = draw_similarity(MATRIX, NAMES, path=str(path))
    np.testing.assert_array_equal(np.asarray(Image.open(path)), image)
    assert [p.name for p in path.parent.iterdir()] == ["similarity.png"]
