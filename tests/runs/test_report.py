"""The page of a run, of one tiny run, in a browser where one is needed."""

import base64
import dataclasses
import io
import json
import re
import shutil

import gin
import numpy as np
import pytest
from PIL import Image

from soka_tf import tasks
from soka_tf.evaluation import panels, report_page
from soka_tf.evaluation.table import evaluation_table
from soka_tf.runs import finish, report
from soka_tf.runs.run_evaluation import evaluate_student, fixed_batch
from soka_tf.serving import origin
from tests.browser import NARROW_PX, WIDE_PX, overflow_px, violations, visit

TITLE = "<img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}</script><b>"
FOLDER = "<b onclick=alert(1)>'&\" $(run)"
# As an earlier start of the run has chosen.
CHOICE = {
    "summary": "auxiliary: keypoints3d, chosen",
    "teachers": ["depth_zbuffer", "edge_texture", "keypoints3d"],
    "similarity": [[1.0, 0.1, 0.8], [0.1, 1.0, 0.7], [0.8, 0.7, 1.0]],
}
VIEWS = ("image", "teacher", "student", "truth", "error")


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """Folder of a run of hostile names, what it printed, and what its page is of."""
    folder = tmp_path_factory.mktemp("page") / FOLDER
    gathered = []

    def keep(measured, *arguments):
        gathered.append(measured)
        return report.write_report(measured, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        row = dataclasses.replace(tasks.TASKS["edge_texture"], title=TITLE)
        for table in (tasks.TASKS, tasks._BY_ANY_NAME):
            patch.setitem(table, "edge_texture", row)
        patch.setattr(finish, "write_report", keep)
        gin.clear_config()
        folder.mkdir()
        (folder / "auxiliary.json").write_text(json.dumps(CHOICE))
        run = tiny.build(
            folder,
            *tiny.with_labels,
            "max_steps = 3",
            "schedule.joint_steps = 1",
            "schedule.initial_losses_step = 0",
            "run.movement_every_steps = 1",
            "run.panel_images = 3",
            "run.export = False",
            "split.validation_fraction = 0.5",
            "auxiliary = 'auto'",
        )
        printed = finish.complete(run, str(folder))
        gin.clear_config()
        yield folder, printed, gathered[0]


@pytest.fixture
def address(trained):
    return (trained[0] / "report.html").as_uri()


def text_of(page):
    return page.inner_text("main")


# What is on it


def test_page_is_named_by_the_last_line_and_is_small_and_whole(trained):
    folder, printed, _ = trained
    path = folder / "report.html"
    assert printed.splitlines()[-1].endswith(str(path))
    assert path.stat().st_size < 3e6
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert not list(folder.glob("*.tmp"))


def test_table_has_every_number_of_the_evaluation(trained, address, browser):
    result = json.loads((trained[0] / "evaluation.json").read_text())
    table = evaluation_table(result)
    with visit(browser, address) as visited:
        rows = visited.page.locator("#evaluation tbody tr")
        cells = [r.locator("td").all_inner_texts() for r in rows.all()]
        titles = visited.page.locator("#evaluation th[scope=row]").all_inner_texts()
        head = visited.page.locator("#evaluation thead th").all_inner_texts()
        assert f"{result['parameters']['student']:,}" in text_of(visited.page)
    expected = [row for task in table.tasks for row in task.rows]
    assert titles == [row.title for row in expected]
    assert cells == [[*row.cells, row.skill, row.share] for row in expected]
    assert head[2:] == [*table.columns, "skill", "vs teacher"]
    # Not by the function under which both stand.
    student = result["tasks"]["depth_zbuffer"]["student"]
    own = dict(zip(head[2:], cells[titles.index("student")]))
    assert float(own["rmse"]) == pytest.approx(student["rmse"], rel=5e-3)
    assert float(own["<1.25"]) == pytest.approx(student["delta1"], abs=5e-4)
    assert float(own["skill"]) == pytest.approx(student["skill"], abs=5e-3)


def shown_sources(page, group):
    """The pictures of the first figure of a task that can be seen."""
    figure = page.locator("fieldset").nth(group).locator("figure").first
    return [
        image.get_attribute("src")
        for image in figure.locator("img").all()
        if image.is_visible()
    ]


def decoded(source):
    content = base64.b64decode(source.partition(",")[2])
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("javascript", [True, False])
def test_views_are_switched_by_mouse_and_keyboard_without_a_script(
    trained, address, browser, javascript
):
    folder, _, measured = trained
    batch = fixed_batch(measured.data, measured.settings)
    answers, targets = measured.teachers.answers, measured.settings.targets
    panel = panels.compute_panel(measured.student, answers, batch, targets)
    views = panels.task_views(targets[0], panel.maps[targets[0].name])
    with visit(browser, address, javascript=javascript) as visited:
        page, seen = visited.page, {}
        (start,) = shown_sources(page, 0)
        for kind in VIEWS:
            page.locator(f"label[for=view-1-{kind}]").click()
            (seen[kind],) = shown_sources(page, 0)
        # Random networks: what teacher and student say may be the same.
        assert seen["student"] == start and len(set(seen.values())) >= 4
        # Another task stays as it was.
        assert len(shown_sources(page, 1)) == 1
        page.locator("#view-1-teacher").focus()
        page.keyboard.press("ArrowRight")
        assert shown_sources(page, 0) == [seen["student"]]
    pictures = {
        **{k: rows[0] for k, rows in views.maps.items()},
        "error": views.errors[0],
    }
    for kind, picture in pictures.items():
        np.testing.assert_array_equal(decoded(seen[kind]), picture, err_msg=kind)


def test_error_says_to_what_and_where_its_scale_ends(address, browser):
    with visit(browser, address) as visited:
        page = visited.page
        assert page.locator("label[for=view-1-error]").inner_text() == "error to truth"
        page.locator("label[for=view-1-error]").click()
        (scale,) = (
            s.inner_text()
            for s in page.locator("fieldset").first.locator(".scale").all()
            if s.is_visible()
        )
    assert re.match(r"0\s+≥ [\d.]+ m$", scale)


def test_page_tells_who_moved_and_how_the_auxiliary_was_chosen(
    trained, address, browser
):
    with visit(browser, address) as visited:
        page = visited.page
        joint, cycle = page.locator("table.movement").all()
        assert joint.locator("thead th").all_inner_texts() == ["player", "joint"]
        phases = cycle.locator("thead th").all_inner_texts()[1:]
        assert phases == ["competition", "collaboration", "weighting"]
        rows = {
            row.locator("th").inner_text(): row.locator("td").all_inner_texts()
            for row in cycle.locator("tbody tr").all()
        }
        text = text_of(page)
        assert page.locator("#networks tbody tr").count() >= 3
        similarities = page.locator("details td").all_text_contents()
    assert rows["encoder"][0] == rows["encoder"][2] == "rests"
    assert rows["decoder of depth"][1:] == ["rests", "rests"]
    assert rows["encoder"][1].endswith(" %")
    assert rows["task weights"][:2] == ["rests", "rests"]
    assert CHOICE["summary"][1:] in text
    assert similarities == [f"{v:.2f}" for row in CHOICE["similarity"] for v in row]
    for word in ("TensorFlow", "soka_tf.predict", "tensorboard --logdir", "CPU, "):
        assert word in text


# How it is to read


@pytest.mark.parametrize(
    "how",
    [{}, {"scheme": "dark"}, {"width": NARROW_PX}],
    ids=["light", "dark", "narrow"],
)
def test_page_is_accessible_quiet_and_fits(address, browser, how):
    with visit(browser, address, **how) as visited:
        page = visited.page
        page.evaluate(
            "for (const d of document.querySelectorAll('details')) d.open = true"
        )
        assert violations(page) == []
        assert overflow_px(page) == 0
        assert visited.errors == [] and visited.refused == []
        assert visited.requests == [address]
        levels = page.evaluate(
            "[...document.querySelectorAll('h1, h2, h3')].map(h => +h.tagName[1])"
        )
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))
    dark = max(map(int, re.findall(r"\d+", background))) < 60
    assert dark == (how.get("scheme") == "dark")


def test_table_that_is_cut_at_the_right_has_a_shadow_there(address, browser):
    shadows = {}
    for width in (WIDE_PX, NARROW_PX):
        with visit(browser, address, width=width) as visited:
            region = visited.page.locator(".scroll").first
            cut = region.evaluate("e => e.scrollWidth > e.clientWidth")
            region.evaluate("e => e.querySelector('table').style.opacity = 0")
            pixels = Image.open(io.BytesIO(region.screenshot())).convert("L")
            shadows[cut] = [pixels.getpixel((x, 5)) for x in (0, pixels.width - 1)]
    (left, right), plain = shadows[True], shadows[False]
    assert left - right > 50 and plain == [left, left]


def test_names_of_users_are_shown_as_text_and_run_nothing(trained, address, browser):
    with visit(browser, address) as visited:
        page = visited.page
        assert page.locator("h1").inner_text() == FOLDER
        title = page.locator("#evaluation th[scope=rowgroup]").nth(1)
        assert title.inner_text().startswith(TITLE)
        assert page.locator("legend").nth(1).inner_text() == TITLE
        alt = page.locator("fieldset").nth(1).locator("img.student").first
        name = trained[2].data.validation[0].key
        assert alt.get_attribute("alt") == f"{TITLE} of {name}: student"
        assert page.locator("figcaption").first.inner_text() == name
        assert FOLDER in page.title()
        counts = [
            page.locator(selector).count()
            for selector in ("script", "main b", "img[src=x]", "[onclick]", "[onerror]")
        ]
        assert counts == [0] * 5
        commands = page.locator(".command").all_inner_texts()
    assert any("'\"'\"'&\" $(run)'" in command for command in commands)  # quoted


# What is missing


def again(trained, folder, out_dir=None, **changes):
    """Writes the page of a folder; returns what is read of it, and what it said."""
    measured = trained[2]._replace(**changes)
    path = report.write_report(measured, "run", str(folder), str(out_dir or folder))
    assert path == str((out_dir or folder) / "report.html")
    text = (out_dir or folder).joinpath("report.html").read_text(encoding="utf-8")
    return re.sub(
        r"\s+", " ", re.sub(r"<style>.*</style>|<[^>]*>", " ", text, flags=re.S)
    )


def test_what_a_run_does_not_have_is_left_out_with_a_sentence(
    trained, tmp_path, caplog
):
    text = again(trained, tmp_path, config="auxiliary = 'none'")
    for sentence in (
        "There are no curves: the run has no metrics.csv",
        "It was not measured: run.movement_every_steps is 0",
        "The run has none: its configuration names none.",
        "not known: the run reported too rarely",
    ):
        assert sentence in text
    assert "auxiliary = &#39;none&#39;" in text and not caplog.text
    named = again(trained, tmp_path, config="auxiliary = ['keypoints3d']")
    assert "Named in the configuration: 3D keypoints." in named


def test_page_tells_what_was_trained_on_and_what_was_measured_on(trained, tmp_path):
    folder, _, measured = trained
    images = len(measured.data.train)
    others = measured.data._replace(train=[], source="others")
    report.write_report(
        measured._replace(data=others), str(folder), str(folder), str(tmp_path)
    )
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    known = origin.read_origin(str(folder), 3)
    assert f"{images} images: {known.images['source']}" in page
    assert f"{measured.result['images']} images: others" in page


def test_evaluation_without_a_row_of_metrics_has_no_curves(trained, tmp_path, caplog):
    folder, _, measured = trained
    (tmp_path / "metrics.csv").write_text("step,stage,seconds,loss/soft/normal\n")
    parts = (measured.student, measured.teachers, measured.data, measured.settings)
    found = evaluate_student(*parts, 3, str(tmp_path))
    assert found["images"] == measured.result["images"]
    assert (tmp_path / "evaluation.json").exists()
    assert "curves.png was not drawn" in caplog.text
    # Of a run that knows its images: whether these are its own.
    shutil.copy(folder / origin.FILE, tmp_path)
    assert "source" not in evaluate_student(*parts, 3, str(tmp_path))
    elsewhere = measured.data._replace(source="images of /some/where/else")
    parts = (measured.student, measured.teachers, elsewhere, measured.settings)
    found = evaluate_student(*parts, 3, str(tmp_path))
    assert found["source"] == "images of else"
    assert origin.read_origin(str(tmp_path), 3, "evaluation.json").metrics == found


def test_run_without_labels_says_that_there_is_no_truth(trained, tmp_path):
    data = trained[2].data
    bare = [
        dataclasses.replace(s, files={"rgb": s.files["rgb"]}) for s in data.validation
    ]
    text = again(trained, tmp_path, data=data._replace(validation=bare))
    assert text.count("so there is no truth to show") == 2
    assert "error to teacher" in text and "error to truth" not in text


def test_untrained_and_barely_trained_students_are_called_so(trained, tmp_path):
    result = json.loads(json.dumps(trained[2].result))
    for entries in result["tasks"].values():
        entries["student"]["skill"] = 0.5
    assert "trained:" not in again(trained, tmp_path, result=result)
    result["tasks"]["depth_zbuffer"]["student"]["skill"] = 0.0
    text = again(trained, tmp_path, result=result)
    assert "Barely trained: no better at depth than one answer" in text
    assert "Not trained: no step" in again(
        trained, tmp_path, result={**result, "step": 0}
    )


def test_damaged_parts_are_left_out_with_a_warning(trained, tmp_path, caplog):
    folder = shutil.copytree(trained[0], tmp_path / "run")
    for name in ("curves.png", "movement.json", "auxiliary.json", "metrics.csv"):
        (folder / name).write_bytes(b"\x89PNG\r\n")
        again(trained, folder)
        assert f"lacks {folder / name}" in caplog.text
        caplog.clear()
        (folder / name).unlink()


def test_page_that_cannot_be_written_is_one_warning(trained, tmp_path, caplog):
    (tmp_path / "report.html").mkdir()
    measured, folder = trained[2], str(trained[0])
    assert report.write_report(measured, "run", folder, str(tmp_path)) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "was not written" in record.message
    assert "soka_tf.evaluate --model_dir=run" in record.message
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_pictures_are_reduced_without_new_colours_and_rows_are_bounded():
    row = tasks.get_task("edge_texture")
    maps = np.random.default_rng(0).integers(0, 2, (9, 600, 300, 1)) * np.float32(0.04)
    panel = panels.Panel(
        np.zeros((9, 600, 300, 3), np.uint8),
        {row.name: panels.TaskMaps(maps, maps, maps)},
    )
    (task,) = report_page.task_panels(panel, [row])
    assert {view.kind for view in task.views} == set(VIEWS)
    for view in task.views:
        assert len(view.pictures) == report_page.MOST_ROWS
        first = view.pictures[0]
        assert (first.width, first.height) == (128, 256)
    colours = decoded(task.views[1].pictures[0].address).reshape(-1, 3)
    assert len(np.unique(colours, axis=0)) == 2


def test_folder_of_no_text_has_a_page(trained, tmp_path):
    page = report._gather(trained[2], "run", str(trained[0]), str(tmp_path))
    assert "?" in report_page.render(page._replace(name="\udcff"))
