"""The page to try students on: what it answers, whom it refuses, how it looks."""

import base64
import dataclasses
import io
import struct
import threading
import zlib

import numpy as np
import pytest
from PIL import Image

from soka_tf.data import encodings
from soka_tf.errors import UserError
from soka_tf.evaluation import image_grid, map_pictures
from soka_tf.serving import exported, page, page_guard, trial
from tests import tiny_export
from tests.browser import HEIGHT_PX, NARROW_PX, WIDE_PX, overflow_px, violations, visit
from tests.tiny_export import TASKS

pytest.importorskip("flask")
HERE = {"Host": "127.0.0.1:8000"}
BYTES = "application/octet-stream"
HOSTILE = "<img src=x onerror=alert(1)>.png"


@pytest.fixture(scope="module")
def students(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    first = exported.load_exported(tiny_export.write(folder / "first"))
    second = tiny_export.write(folder / "second", TASKS[:1], seed=1)
    first = dataclasses.replace(first, training="Trained on <i>rooms</i>.")
    return {"<b>first</b>": first, "second": exported.load_exported(second)}


@pytest.fixture(scope="module")
def app(students):
    return page.make_app(students, page.Limits(1, 1))


@pytest.fixture
def client(app):
    return app.test_client()


def photograph(size=(60, 40), kind="PNG"):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 12, 3), dtype=np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(content, kind)
    return content.getvalue()


def bomb():
    """A PNG of a few bytes that claims 20 000 x 20 000 pixels."""

    def chunk(kind, data):
        sum_ = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + sum_

    header = struct.pack(">IIBBBBB", 20000, 20000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b"")


def post(client, content, **headers):
    headers = {**HERE, "Content-Type": BYTES, **headers}
    return client.post("/predict", data=content, headers=headers)


def image_of(response):
    assert response.status_code == 200 and response.mimetype == "image/png"
    with Image.open(io.BytesIO(response.data)) as image:
        return np.array(image)


# What it answers


def test_photograph_is_answered_by_every_student_with_every_map(client, students):
    answer = post(client, photograph()).get_json()
    assert (answer["width"], answer["height"]) == (60, 40)
    assert [one["name"] for one in answer["students"]] == list(students)
    for one, student in zip(answer["students"], students.values()):
        assert [m["task"] for m in one["maps"]] == [t.name for t in student.tasks]
        assert 0 < one["seconds"] < answer["seconds"]
        for drawn in one["maps"]:
            picture = image_of(client.get(drawn["picture"], headers=HERE))
            assert picture.shape == (512, 768, 3)
            assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 1


def test_maps_have_the_colours_and_scales_of_predicts_pictures(students):
    with Image.open(io.BytesIO(photograph())) as opened:
        image = np.array(opened)
    one = {"one": students["second"]}
    tried = trial.try_students(one, image)
    values = tried.answers["one"].maps["depth_zbuffer"]
    with Image.open(io.BytesIO(tried.answers["one"].pictures["depth_zbuffer"])) as png:
        found = np.array(png)
    ends = map_pictures.display_range(TASKS[0], values)
    assert tried.ranges["depth_zbuffer"] == ends
    np.testing.assert_array_equal(
        found, map_pictures.draw_map(TASKS[0], values, ends, (768, 512))
    )


def test_students_beside_each_other_share_one_scale_a_task(client):
    answer = post(client, photograph()).get_json()
    first, second = (one["maps"][0]["scale"] for one in answer["students"])
    assert first == second and float(first["low"]) < float(first["high"])
    bar = image_of(client.get(first["bar"], headers=HERE))
    expected = image_grid.apply_colormap(np.linspace(0, 1, 256), "magma")
    np.testing.assert_array_equal(bar[0], expected)
    kinds = [set(m["scale"]) for m in answer["students"][0]["maps"]]
    assert kinds == [{"bar", "low", "high", "label"}, {"label"}, {"names"}]


@pytest.mark.parametrize("index", range(len(TASKS)))
def test_raw_maps_are_what_predict_writes(client, students, index):
    from soka_tf.serving.full_size import pixels_at

    content, task = photograph(), TASKS[index]
    answer = post(client, content).get_json()
    drawn = answer["students"][0]["maps"][index]
    response = client.get(drawn["raw"], headers=HERE)
    assert response.headers["Content-Disposition"] == "attachment"
    with Image.open(io.BytesIO(content)) as opened:
        image = np.array(opened)
    maps = {k: v.numpy()[0] for k, v in students["<b>first</b>"](image[None]).items()}
    expected = pixels_at(task, maps[task.name], 40, 60).squeeze()
    found = image_of(response)
    assert drawn["bits"] == task.encoding.bits == 8 * found.itemsize
    np.testing.assert_array_equal(found, expected)
    assert found.shape[:2] == (40, 60)


@pytest.mark.parametrize("kind", ["JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM"])
def test_every_kind_that_predict_reads_is_taken(client, kind):
    assert post(client, photograph(kind=kind)).status_code == 200


def test_page_shows_students_and_limits_and_no_name_as_html(client):
    response = client.get("/", headers=HERE)
    text = response.get_data(as_text=True)
    assert "&lt;b&gt;first&lt;/b&gt;" in text and "<b>first" not in text
    # The second one's card does not tell.
    assert text.count("Trained on") == 1
    assert "Trained on &lt;i&gt;rooms&lt;/i&gt;." in text
    assert "1 MiB" in text and 'data-most-bytes="1048576"' in text
    assert "http:" not in text and "https:" not in text


def test_results_are_kept_for_the_last_photographs_only(client):
    first = post(client, photograph()).get_json()
    for _ in range(page._KEPT_TRIALS):
        assert client.get(first["photograph"], headers=HERE).status_code == 200
        post(client, photograph((4, 4)))
    response = client.get(first["photograph"], headers=HERE)
    assert response.status_code == 404
    assert "not kept any more" in response.get_json()["error"]


# What it refuses


@pytest.mark.parametrize(
    "content, status, said",
    [
        (b"not an image at all", 422, "not an image of a known kind"),
        (b"<!doctype html><p>", 422, "it holds text, not an image"),
        (photograph()[:200], 422, "it is damaged"),
        (b"", 422, "the file is empty"),
        (bomb(), 413, "too many pixels"),
        (photograph((2000, 600)), 413, "1,000,000 allowed (--most_megapixels)"),
        (bytes(2**20 + 1), 413, "at most 1 MiB are allowed"),
    ],
    ids=["text", "page", "cut_off", "empty", "bomb", "many_pixels", "large"],
)
def test_wrong_upload_is_one_sentence(client, content, status, said):
    response = post(client, content)
    assert response.status_code == status, response.data
    error = response.get_json()["error"]
    assert said in error and error.endswith(".") and "\n" not in error
    assert "Traceback" not in error and "/" not in error.replace("/dev", "")


def test_floating_point_image_is_refused(client):
    content = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.float32)).save(content, "TIFF")
    response = post(client, content.getvalue())
    assert response.status_code == 422
    assert "floating-point" in response.get_json()["error"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "[", "a b"])
def test_other_names_of_this_machine_are_refused(client, host):
    for response in (
        client.get("/", headers={"Host": host}),
        post(client, photograph(), Host=host),
    ):
        assert response.status_code in (400, 403)
        assert b"first" not in response.data


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "[::1]:8000"])
def test_its_own_names_are_answered_whatever_the_port(client, host):
    assert client.get("/", headers={"Host": host}).status_code == 200


def test_open_to_a_network_it_answers_to_numbers_and_its_names_only():
    names = page_guard.allowed_hosts("0.0.0.0")
    assert page_guard._is_allowed("192.168.7.7:8000", names, False)
    assert not page_guard._is_allowed("evil.example", names, False)
    assert not page_guard._is_allowed("192.168.7.7", names, True)


def test_other_pages_can_neither_send_nor_read(client):
    content = photograph()
    assert post(client, content, Origin="http://evil.example").status_code == 403
    assert post(client, content, Origin="null").status_code == 403
    assert post(client, content, Origin="http://127.0.0.1:8000").status_code == 200
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    assert post(client, content, **form).status_code == 415
    asked = client.options("/predict", headers=HERE)
    for response in (asked, client.get("/", headers=HERE), client.get("/", headers={})):
        assert not [k for k in response.headers.keys() if "Access-Control" in k]
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        policy = response.headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ") and "unsafe" not in policy


@pytest.mark.parametrize(
    "path",
    [
        "/../setup.py",
        "/static/../page.py",
        "/static/%2e%2e/page.py",
        "/scales/viridis.png",
        "/trials/x/photograph.jpg",
        "/trials/x/0/depth_zbuffer.png",
        "/trials/x/7/depth_zbuffer/raw.png",
        "/trials/x/0/..%2f..%2fsetup/raw.png",
        "/nothing",
    ],
)
def test_nothing_else_is_served(client, path):
    response = client.get(path, headers=HERE)
    assert response.status_code == 404 and response.get_json()["error"]


def test_faults_and_want_of_memory_are_sentences(students, caplog, monkeypatch):
    def fail(*_):
        raise failure

    monkeypatch.setattr(page, "try_students", fail)
    client = page.make_app(students).test_client()
    failure = MemoryError()
    response = post(client, photograph())
    assert response.status_code == 503
    assert response.get_json()["error"] == "The machine refused: MemoryError."
    failure = ZeroDivisionError("a fault of ours")
    response = post(client, photograph())
    assert response.status_code == 500 and b"ours" not in response.data
    assert "a fault of ours" in caplog.text


@pytest.mark.parametrize("limits", [(0, 1), (1001, 1), (1, 0), (1, 90)])
def test_limits_out_of_range_are_refused(limits):
    with pytest.raises(UserError, match="must be a whole number of at least 1"):
        page.Limits(*limits)


def test_names_of_students_are_short_and_different():
    folders = ["runs/a/saved_model", "runs/a", "x/b/", "saved_model", "/"]
    assert trial.named(folders) == ["a", "a (2)", "b", "saved_model", "student"]


# How it looks


@pytest.fixture(scope="module")
def address(app):
    """The application behind a server in this process."""
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def give(visited, content, name="a.png"):
    file = {"name": name, "mimeType": "image/png", "buffer": content}
    visited.page.set_input_files("#file", file)


def wait_for_maps(visited):
    visited.page.wait_for_selector("#result:not([hidden])")
    # What waits by polling evaluates strings, which the page's policy forbids.
    visited.page.evaluate("Promise.all([...document.images].map((i) => i.decode()))")


_DROP = """([content, name]) => {
  const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name, {type: "image/png"}));
  document.body.dispatchEvent(
    new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true}));
}"""
_COLOURS = """(image) => {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
  return new Set(new Uint32Array(data.buffer)).size;
}"""


def test_a_photograph_dropped_gives_maps_that_a_slider_lays_over_it(browser, address):
    with visit(browser, address) as visited:
        content = base64.b64encode(photograph()).decode()
        visited.page.evaluate(_DROP, [content, HOSTILE])
        wait_for_maps(visited)
        # The file's name is text.
        assert visited.page.inner_text("#status").startswith(
            f"{HOSTILE}, 60 × 40 pixels"
        )
        assert not visited.page.query_selector_all('img[src="x"], main b')
        maps = visited.page.query_selector_all("figure img.picture")
        assert len(maps) == 4
        assert all(one.evaluate(_COLOURS) > 1 for one in maps)
        assert maps[0].evaluate(_COLOURS) > 20

        stage, slider = visited.page.locator("#stage"), visited.page.locator("#slider")
        slider.focus()
        shown = {}
        for key in ("Home", "End"):
            visited.page.keyboard.press(key)
            shown[key] = np.array(Image.open(io.BytesIO(stage.screenshot())))
        # All map, all photograph.
        assert np.abs(shown["Home"] - shown["End"].astype(int))[..., :3].mean() > 20
        box = stage.bounding_box()
        visited.page.mouse.click(box["x"] + box["width"] / 4, box["y"] + 20)
        assert 20 <= int(slider.input_value()) <= 30
        assert not visited.errors and not visited.refused


def test_a_map_is_taken_away_under_its_photographs_name(browser, address, tmp_path):
    with visit(browser, address) as visited:
        give(visited, photograph(), "my photo.png")
        wait_for_maps(visited)
        with visited.page.expect_download() as taken:
            visited.page.click("a[download]")
        assert taken.value.suggested_filename == "my photo_domain_depth_zbuffer.png"
        taken.value.save_as(tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as image:
        assert image.size == (60, 40)
        depth = np.array(image)
    assert depth.dtype == np.uint16 and depth.max() < encodings.FIRST_INVALID_DEPTH


@pytest.mark.parametrize(
    "content, said",
    [
        (bytes(2**20 + 1), "is too large: at most 1 MiB"),
        (b"only text", "not an image of a known kind"),
        (bomb(), "too many pixels"),
    ],
    ids=["large", "text", "bomb"],
)
def test_a_wrong_file_is_a_sentence_on_the_page(browser, address, content, said):
    with visit(browser, address) as visited:
        give(visited, content, HOSTILE)
        visited.page.wait_for_selector("#error:not(:empty)")
        text = visited.page.inner_text("#error")
        assert text.startswith(HOSTILE) and said in text
        assert visited.page.is_hidden("#result")
        assert not visited.page.query_selector_all('img[src="x"]')
        give(visited, photograph())
        wait_for_maps(visited)
        assert visited.page.text_content("#error") == ""


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [WIDE_PX, NARROW_PX])
def test_everybody_can_read_the_page(browser, address, scheme, width):
    with visit(browser, address, scheme=scheme, width=width) as visited:
        give(visited, photograph())
        wait_for_maps(visited)
        visited.page.click("text=Compare with photograph >> nth=-1")
        visited.page.click("text=Compare with photograph >> nth=1")
        bounds = visited.page.locator("#compare-title").bounding_box()
        assert 0 <= bounds["y"] < HEIGHT_PX / 2
        chosen = "e => e.selectedOptions[0].textContent"
        right = visited.page.eval_on_selector("#right", chosen)
        assert right == "surface normal, <b>first</b>"
        assert violations(visited.page) == [] and overflow_px(visited.page) == 0
        # Of its own server only.
        assert all(one.startswith(address) for one in visited.requests)
        assert not visited.errors
