import numpy as np
import pytest
from PIL import Image

from soka_tf.evaluation import image_grid


def plain(colour, size=40):
    return np.full((size, size, 3), colour, np.uint8)


def places(page, colour):
    """Rows and columns of all pixels of exactly that colour."""
    return np.nonzero(np.all(page == colour, axis=-1))


def test_cells_are_copied_pixel_by_pixel_in_their_order():
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 255, (30, 50, 3)).astype(np.uint8) for _ in range(4)]
    columns = [image_grid.Column("a", images[:2]), image_grid.Column("b", images[2:])]
    page = image_grid.compose([image_grid.Group("both", columns)])
    found = []
    for image in images:
        rows, lefts = places(page, image[0, 0])
        spots = [
            (r, x)
            for r, x in zip(rows, lefts)
            if np.array_equal(page[r : r + 30, x : x + 50], image)
        ]
        assert len(spots) == 1
        found.append(spots[0])
    assert found[0][1] == found[1][1] < found[2][1] == found[3][1]
    assert found[0][0] == found[2][0] < found[1][0] == found[3][0]


def test_titles_and_the_heading_are_written_above_the_cells():
    green = [0, 200, 0]
    groups = [image_grid.Group("group", [image_grid.Column("column", [plain(green)])])]
    page = image_grid.compose(groups, heading="heading")
    top = places(page, green)[0].min()
    dark_rows = np.unique(np.nonzero(page[:top].min(axis=-1) < 160)[0])
    lines = np.count_nonzero(np.diff(dark_rows) > 2) + 1
    assert lines == 3
    assert image_grid.compose(groups).shape[0] < page.shape[0]


def test_neighbours_with_one_scale_share_one_colour_bar():
    scale = image_grid.Scale("viridis", 0, 8, "m")
    other = image_grid.Scale("Reds", 0, 1, "m")
    cells = [plain([9, 9, 9], 100)]
    columns = [image_grid.Column(t, cells, scale) for t in ("teacher", "student")]
    columns.append(image_grid.Column("error", cells, other))
    page = image_grid.compose([image_grid.Group("depth", columns)])
    left_ends = places(page, image_grid.apply_colormap(np.array(0.5), "viridis"))[1]
    assert np.ptp(left_ends) < 4  # the middle colour of one bar, not of two
    centres = places(page, [9, 9, 9])[1]
    assert left_ends.mean() == pytest.approx((centres.min() + 102), abs=4)
    # Dark red ends the second bar (its very last pixel is the outline).
    assert places(page, image_grid.apply_colormap(np.array(98 / 99), "Reds"))[0].size


def test_an_empty_cell_is_grey_and_says_why():
    cells = [plain([0, 0, 0], 100), None]
    page = image_grid.compose(
        [image_grid.Group("", [image_grid.Column("truth", cells)])]
    )
    rows, _ = places(page, list(image_grid._EMPTY_CELL))
    cell = page[rows.min() : rows.max() + 1]
    assert len(cell) == 100
    inside = cell[10:-10, image_grid._MARGIN + 10 : image_grid._MARGIN + 90]
    assert np.count_nonzero(inside.min(axis=-1) < 180) > 30  # the words


def test_enlarge_repeats_pixels_by_a_whole_factor():
    image = np.arange(12).reshape(2, 2, 3)
    large = image_grid.enlarge(image, 6)
    assert large.shape == (6, 6, 3)
    np.testing.assert_array_equal(large[::3, ::3], image)
    assert image_grid.enlarge(np.zeros((300, 300, 3)), 128).shape == (300, 300, 3)


@pytest.mark.parametrize(
    "image",
    [
        np.arange(48, dtype=np.uint8).reshape(4, 4, 3),
        np.arange(16, dtype=np.uint16).reshape(4, 4, 1) * 4000,
    ],
    ids=["rgb", "16 bit"],
)
def test_written_png_reads_back_and_leaves_nothing_else(tmp_path, image):
    path = tmp_path / "new" / "picture.png"
    image_grid.write_png(str(path), image)
    assert [p.name for p in path.parent.iterdir()] == ["picture.png"]
    back = np.asarray(Image.open(path))
    np.testing.assert_array_equal(back, image.squeeze())


def test_a_failed_write_keeps_the_old_picture(tmp_path, monkeypatch):
    path = tmp_path / "picture.png"
    image_grid.write_png(str(path), plain([1, 2, 3]))
    before = path.read_bytes()

    def fail(self, file, **kwargs):
        with open(file, "wb") as half:
            half.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        image_grid.write_png(str(path), plain([3, 2, 1]))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


@pytest.mark.parametrize("count", [1, 3, 40])
def test_legend_shows_every_colour_below_the_cells(count):
    names = tuple((f"class {i}", (255 - i, i, 7 * i % 256)) for i in range(count))
    cells = [plain([9, 9, 9], 200)]
    columns = [image_grid.Column("a", cells, image_grid.Scale(None, names=names))]
    page = image_grid.compose([image_grid.Group("", columns)])
    bottom = places(page, [9, 9, 9])[0].max()
    for _, colour in names:
        rows, lefts = places(page[bottom + 1 :], colour)
        assert len(rows) >= 49 and np.ptp(lefts) < 12, colour
    assert page.shape[1] == image_grid.compose([image_grid.Group("", columns)]).shape[1]


def test_long_names_of_a_legend_are_cut_to_their_column():
    names = (("a" * 60, (200, 0, 0)), ("b" * 60, (0, 0, 200)))
    cells = [plain([9, 9, 9], 60)]
    columns = [image_grid.Column("a", cells, image_grid.Scale(None, names=names))]
    page = image_grid.compose([image_grid.Group("", columns)])
    right = places(page, [9, 9, 9])[1].max()
    below = page[places(page, [9, 9, 9])[0].max() + 1 :, right + 4 :]
    assert (below == 255).all()


@pytest.mark.parametrize(
    "low, high, shown",
    [
        (1.03, 2, ("1.03", "2.00")),
        (0.5, 10, ("0.5", "10.0")),
        (0, 0.03, ("0", "0.03")),
        (0, 8, ("0", "8")),
        (0.00123, 10, ("0.00123", "10.0")),
        (-1, 0.5, ("-1.0", "0.5")),
        (2.5, 100, ("2.5", "100")),
        (1, 1e6, ("1", "1e+06")),
    ],
)
def test_ends_of_a_scale_have_equally_many_digits(low, high, shown):
    assert image_grid.Scale("gray", low, high).ends == shown
