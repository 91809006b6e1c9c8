"""tools/reproduce.py: estimates, orderings, pages; and whole studies, tiny."""

import json
import pathlib
import re
import shutil
import time
import unittest.mock

import pytest

from soka_tf.errors import UserError
from soka_tf.tasks import get_task
from soka_tf.teachers.finding import teachers_folder
from tests.tiny_runs import ROOT
from tests.tools import run_tool
from tools.studies import (
    definitions,
    documents,
    figures,
    further,
    methods,
    report,
    results,
)
from tools.studies import training as training_module
from tools.studies.comparisons import compare
from tools.studies.intervals import (
    CONTRADICTED,
    HOLDS,
    LIKELY,
    ONE_SEED,
    OPEN,
    Estimate,
    apart,
    ordering,
    paired_difference,
)
from tools.studies.numbers import number
from tools.studies.training import Runs, Setting, Training

SCALE = methods.SCALES["small"]
TRANSFER = "edge_texture:transfer"


# ------------------------------------------------------------------- estimates


def test_estimate_of_five_values_by_hand():
    estimate = Estimate.of({4: 1.0, 3: 2.0, 2: 3.0, 1: 4.0, 0: 5.0})
    assert estimate.mean == 3.0
    # Student's quantile for 4 degrees of freedom, from a printed table.
    assert estimate.half_width == pytest.approx(2.776 * 1.5811388 / 5**0.5, rel=1e-3)


def test_estimate_of_one_value_has_no_interval_and_is_apart_from_nothing():
    one = Estimate.of({0: 1.0})
    assert one.half_width is None
    assert not apart(one, Estimate(5.0, 0.1, [5.0]))
    assert Estimate.of({}) is None


@pytest.mark.parametrize("distance, expected", [(0.31, True), (0.29, False)])
def test_apart_when_intervals_do_not_meet(distance, expected):
    assert apart(Estimate(1, 0.1, []), Estimate(1 + distance, 0.2, [])) is expected


def test_paired_difference_is_by_seed_and_removes_what_seeds_share():
    a = Estimate.of({0: 1.0, 1: 2.0, 2: 3.0, 7: 9.0})
    b = Estimate.of({2: 3.1, 0: 1.1, 1: 2.1})
    assert not apart(a, b)
    difference = paired_difference(a, b)
    assert difference.mean == pytest.approx(-0.1) and list(difference.seeds) == [
        0,
        1,
        2,
    ]
    assert difference.half_width < 1e-6
    assert paired_difference(a, Estimate.of({5: 1.0})) is None


def test_finding_is_of_the_seeds_that_both_have_and_not_of_the_means():
    a = Estimate.of({0: 1.0, 1: 2.01, 2: 3.02, 3: 9.9, 4: 9.9})
    b = Estimate.of({0: 0.9, 1: 1.91, 2: 2.92, 7: 30, 8: 31})
    assert a.mean < b.mean
    finding = compare(("a", "b"), a, b)
    assert finding[:2] == ("a", "b") and finding.reading == "worse"
    assert list(finding.difference.seeds) == [0, 1, 2]
    assert compare(("b", "a"), b, a).reading == "better"
    table = report.comparisons_table([finding])
    assert re.search(r"(?m)^\| a +\| b +\| 0\.10+ .*\| 3 +\| worse", table)


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ({0: 1.0, 1: 2.0}, {0: 0.9, 1: 2.2}, "undecided"),
        ({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0}, "equal"),
        ({0: 1.0}, {0: 1.1, 1: 3.0}, "better, one seed"),
        ({0: 1.1, 1: 1.2}, None, "worse"),  # the teachers
    ],
)
def test_reading_of_a_finding(first, second, expected):
    other = Estimate.of(second) if second else Estimate(0.5, 0.0, [0.5])
    assert compare(("a", "b"), Estimate.of(first), other).reading == expected


def test_rows_without_a_seed_in_common_have_no_finding():
    one = Estimate.of({0: 1.0})
    assert compare(("a", "b"), one, Estimate.of({1: 1.0})) is None
    assert compare(("a", "b"), one, None) is None
    assert compare(("a", "b"), None, one) is None


def _sharp(*means):
    return [None if m is None else Estimate(m, 0.01, [m]) for m in means]


@pytest.mark.parametrize(
    "ours, expected",
    [
        (_sharp(1.0, 2.0, 3.0), HOLDS),
        (_sharp(1.0, 1.01, 3.0), LIKELY),
        (_sharp(1.01, 1.0, 3.0), OPEN),
        (_sharp(2.0, 1.0, 3.0), CONTRADICTED),
        (_sharp(1.0, None, None), None),
        (_sharp(1.0, 1.0, 3.0), OPEN),
        ([*_sharp(1.0, 2.0), Estimate(3.0, None, [3.0])], ONE_SEED),
        ([*_sharp(1.0, 1.01), Estimate(3.0, None, [3.0])], ONE_SEED),
        ([*_sharp(1.01, 1.0), Estimate(3.0, None, [3.0])], OPEN),
        ([*_sharp(2.0, 1.0), Estimate(3.0, None, [3.0])], CONTRADICTED),
    ],
)
def test_ordering_of_the_first_cell(ours, expected):
    assert ordering([10.0, 11.0, 12.0], ours, 0) == expected


def test_ordering_ignores_cells_that_tie_in_the_paper():
    assert ordering([10.0, 10.0, 12.0], _sharp(5.0, 1.0, 9.0), 0) == HOLDS


@pytest.mark.parametrize(
    "estimate, text",
    [
        (Estimate(0.81234, 0.0123, [1, 2]), "0.812 ± 0.012"),
        (Estimate(0.81234, 0.123, [1, 2]), "0.81 ± 0.12"),
        (Estimate(0.0070412, 0.000081, [1, 2]), "0.007041 ± 0.000081"),
        (Estimate(12.3, 45.0, [1, 2]), "12 ± 45"),
        (Estimate(0.5, None, [0.5]), "0.500"),
        (None, "-"),
    ],
)
def test_number_has_the_digits_that_its_interval_lets_stand(estimate, text):
    assert number(estimate) == text


# ----------------------------------------------------------------- definitions


def test_every_study_of_the_paper_is_defined():
    names = set(definitions.define(SCALE))
    assert names >= {f"table{n}" for n in range(1, 6)} | {"supp1", "supp2", "supp3"}
    assert names >= {f"fig{n}" for n in range(1, 6)}


def test_definitions_share_runs_between_studies():
    studies = definitions.define(SCALE)
    names = [t.name for study in studies.values() for t in study.trainings]
    by_name = {t.name: t for study in studies.values() for t in study.trainings}
    for study in studies.values():
        for training in study.trainings:
            assert training == by_name[training.name]
    assert names.count("depth-edge2d/soka") > 5


def test_definitions_hold_the_printed_rows_of_the_paper():
    folder = ROOT.parent / "shared" / "paper"
    if not folder.is_dir():
        pytest.skip("needs ../shared/paper")
    printed = [
        [float(number) for number in re.findall(r"\d+\.\d+", line)]
        for page in ("soka.md", "supplement.md")
        for line in (folder / page).read_text(encoding="utf-8").splitlines()
    ]

    def is_printed(values):
        """Whether a line has all of them, in this order."""
        lines = map(iter, printed)
        return any(all(value in line for value in values) for line in lines)

    assert not is_printed([0.3763, 0.4953])  # of one line, the other way round
    for study in definitions.define(SCALE).values():
        for table in study.tables:
            for row in table.rows:
                values = [v for v in row.paper.values() if v is not None]
                assert is_printed(values), (study.name, row.title)


def test_definitions_compare_rows_that_are_there():
    for study in definitions.define(SCALE).values():
        for table in study.tables:
            titles = [row.title for row in table.rows]
            assert len(set(titles)) == len(titles)
            for comparison in table.comparisons:
                assert set(comparison) <= set(titles)
            if table.comparisons:
                of_classes = {t for t in table.tasks if get_task(t).has_classes}
                rmse = {(t, "rmse") for t in table.tasks if t not in of_classes}
                accuracy = {(task, "accuracy") for task in of_classes}
                assert rmse | accuracy <= set(table.columns)


def test_factorial_has_every_cell_once_and_differs_in_its_factors_only():
    study = definitions.define(SCALE)["factorial"]
    setting = Setting(tuple(SCALE.files), SCALE.steps)
    cells = [setting.bound(training) for training in study.trainings]
    factors = {
        "build_amalgamation.variant": {None, "reconstruction"},
        "schedule.joint_steps": {20, "%max_steps"},
        "schedule.order": {"alternating", "simultaneous"},
        "GradNorm.adaptive": {False, True},
    }
    found = {tuple(str(cell[name]) for name in factors) for cell in cells}
    assert len(cells) == len(found) == 12
    # What Table 5 has is trained once.
    assert set(definitions.define(SCALE)["table5"].trainings) < set(study.trainings)
    for name, values in factors.items():
        assert {str(cell[name]) for cell in cells} == set(map(str, values))
    allowed = {*factors, "auxiliary", "schedule.joint_weighting"}
    for cell in cells:
        differing = {name for name in cell if cell[name] != cells[0][name]}
        assert differing <= allowed
        if "max_steps" in str(cell["schedule.joint_steps"]):
            assert cell["schedule.joint_weighting"] == cell["GradNorm.adaptive"]


def test_regimes_differ_in_tasks_and_width_and_their_rows_in_the_rule_only():
    study = definitions.define(SCALE)["conflict"]
    setting = Setting(tuple(SCALE.files), SCALE.steps)
    widths, of_rules = set(), []
    for table in study.tables:
        cells = [setting.bound(row.trainings[0]) for row in table.rows[1:]]
        (width,) = {cell["Encoder.width"] for cell in cells}
        widths.add((len(table.tasks), width))
        of_rules.append(
            {
                (name, str(cell[name]))
                for cell in cells
                for name in cell
                if any(cell[name] != other[name] for other in cells)
            }
        )
        assert {cell["run.conflict_every_steps"] for cell in cells} == {25}
    assert widths == {(2, 0.125), (2, 0.0625), (4, 0.125), (4, 0.0625)}
    assert all(varied == of_rules[0] for varied in of_rules)
    first, *others = (setting.bound(t.rows[1].trainings[0]) for t in study.tables)
    for other in others:
        differing = {name for name in first if first[name] != other[name]}
        assert differing <= {"tasks", "Encoder.width"} and first.keys() == other.keys()
    assert {name for name, _ in of_rules[0]} == {
        "GradNorm.adaptive",
        "objective.weighted_collaboration",
        "build_balancing.rule",
        "build_optimizers.task_weights_rate",
    }


def test_definitions_at_full_size_are_the_papers_bindings():
    scale = methods.SCALES["full"]
    setting = definitions.setting(scale, None, ["taskonomy_dir = 't'"])
    studies = definitions.define(scale).values()
    trainings = {t for s in studies if not s.small_only for t in s.trainings}
    assert len(trainings) > 10
    for training in trainings:
        lines = setting.config(training).splitlines()
        bound = dict(line.split(" = ", 1) for line in lines)
        method = training.files[-1]
        assert bound["max_steps"] == "600000" and bound["image_size"] == "256"
        assert bound["tasks"] == repr(list(training.tasks))
        assert bound["objective.soft_loss"] == "'l2'"
        # The supplement's term is the whole method's, and of no baseline.
        whole = method == "gin/methods/soka_gan.gin"
        assert bound["build_adversary.enabled"] == str(whole)
        joint = bound["schedule.joint_steps"]
        assert (joint == "%max_steps") is not whole
        labels = "dmtl" in method
        assert (bound["run.supervision"] == "'labels'") is labels


def test_user_bindings_win_over_what_a_study_binds_for_speed():
    setting = definitions.setting(SCALE, None, ["run.export = True"])
    config = setting.config(Training("kd", ("normal",)))
    assert "run.export = True\n" in config and "run.export = False" not in config


# ------------------------------------------------------------------------ runs


def _finished(runs: Runs, training: Training, seed: int, depth: float, edge: float):
    """What a run leaves, without training it."""
    folder = runs.folder_of(training, seed)
    folder.mkdir(parents=True)
    metrics = dict(rel=0.3, delta1=0.5, delta2=0.7, delta3=0.9)

    def entries(student):
        return {
            "student": dict(rmse=student, **metrics),
            "teacher": dict(rmse=1.0, **metrics),
            "student_vs_teacher": dict(rmse=student / 2, **metrics),
        }

    evaluation = {
        "step": 600,
        "parameters": {"student": 1000, "teachers": 2000},
        "tasks": {"depth_zbuffer": entries(depth), "edge_texture": entries(edge)},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    record = {"seed": seed, "cpu_seconds": 10.0 + seed}
    (folder / "study.json").write_text(json.dumps(record))


@pytest.fixture
def table5(tmp_path):
    study = definitions.define(SCALE)["table5"]
    runs = Runs(tmp_path / "runs", Setting(("gin/rooms/study.gin",), 600), 1)
    kd, kd_mia, soka = (row.trainings[0] for row in study.tables[0].rows[1:])
    for seed in range(2):
        _finished(runs, kd, seed, 2.0 + 0.001 * seed, 3.0 + 0.001 * seed)
        _finished(runs, kd_mia, seed, 1.5 + 0.001 * seed, 2.0)
    _finished(runs, soka, 0, 1.2, 2.1)
    return study, runs, soka


def test_collect_reads_means_verdicts_and_what_is_missing(table5):
    study, runs, soka = table5
    (table,) = results.collect(study, runs, range(2), {soka: "stopped by SIGKILL"})
    teacher, kd, kd_mia, acct = table.rows
    depth = ("depth_zbuffer", "rmse")
    assert kd.cells[depth].ours.mean == pytest.approx(2.0005)
    assert kd_mia.cells[depth].ordering == ONE_SEED  # the third row's
    assert kd.relative.mean == pytest.approx(2.5005)
    assert kd.imitation["depth_zbuffer"].mean == pytest.approx(1.00025)
    assert kd.cpu_seconds.values == [10.0, 11.0]
    assert kd.missing is None
    assert acct.missing == "1 of 2 seeds missing: stopped by SIGKILL"
    assert teacher.cells[depth].ours.half_width == 0.0
    assert [(f.first, f.second, f.reading) for f in table.findings] == [
        ("KD + MIA", "KD", "better"),
        ("KD + MIA + ACCT", "KD + MIA", "better, one seed"),
    ]
    assert table.findings[0].difference.mean == pytest.approx(-0.75, abs=1e-3)


def test_collect_adds_the_median_image_skill_and_errors_of_the_logarithm(table5):
    study, runs, _ = table5
    medians = {"depth_zbuffer": 2.5, "edge_texture": 4.0}
    for path in runs.folder.rglob("evaluation.json"):
        evaluation = json.loads(path.read_text())
        for task, entries in evaluation["tasks"].items():
            entries["baseline_median"] = {"rmse": medians[task]}
            for name in ("teacher", "student"):
                entries[name]["skill"] = 1 - entries[name]["rmse"] / medians[task]
        depth = evaluation["tasks"]["depth_zbuffer"]
        depth["student"]["log_rmse"] = 0.3
        depth["baseline_median"]["log_rmse"] = 0.45
        path.write_text(json.dumps(evaluation))
    (table,) = results.collect(study, runs, range(2), {})
    teacher, kd, *_, median = table.rows
    assert median.title == "median image" and median.steps is None
    assert median.cells[("depth_zbuffer", "rmse")].ours.mean == 2.5
    assert median.relative.mean == pytest.approx((2.5 + 4) / 2)
    assert {s.mean for s in median.skills.values()} == {0.0}
    assert teacher.skills["depth_zbuffer"].mean == pytest.approx(1 - 1 / 2.5)
    assert kd.skills["depth_zbuffer"].mean == pytest.approx(1 - 2.0005 / 2.5)
    assert kd.log_rmse["depth_zbuffer"].mean == pytest.approx(0.3)
    assert median.log_rmse["depth_zbuffer"].mean == 0.45
    text = report.section(report.Section(study, "", [table], [], {}, []))
    (line,) = re.findall(r"(?m)^\| *\| +error / teacher's, mean of.*$", text)
    assert "depth: skill" in line and "depth: log-rmse" in line
    assert "2D edges: log-rmse" not in line
    assert len(re.findall(r"(?m)^\| median image", text)) == 2


def test_task_of_classes_is_shown_with_its_accuracy_and_the_commonest_class(
    tmp_path, monkeypatch
):
    study = definitions.define(SCALE)["conflict"]
    table = study.tables[2]
    runs = Runs(tmp_path, Setting(("gin/rooms/study.gin",), 600), 1)
    training = table.rows[1].trainings[0]
    _finished(runs, training, 0, 2.0, 2.0)
    path = runs.folder_of(training, 0) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    depth = {**evaluation["tasks"]["depth_zbuffer"], "baseline_median": {"rmse": 3.0}}
    classes = {
        "teacher": {"accuracy": 0.8},
        "student": {"accuracy": 0.7, "skill": 0.4},
        "student_vs_teacher": {"accuracy": 0.9},
        "baseline_commonest_class": {"accuracy": 0.5},
    }
    of_values = dict.fromkeys(("depth_zbuffer", "edge_texture", "normal"), depth)
    evaluation["tasks"] = {**of_values, "segment_semantic": classes}
    path.write_text(json.dumps(evaluation))
    found_table = results.collect(study, runs, range(1), {})[2]
    teacher, student, *_, median = found_table.rows
    column = ("segment_semantic", "accuracy")
    cells = [row.cells[column].ours.mean for row in (teacher, student, median)]
    assert cells == [0.8, 0.7, 0.5]
    assert student.relative.mean == pytest.approx((3 * 2 + 0.3 / 0.2) / 4)
    assert median.relative.mean == pytest.approx((3 * 3 + 0.5 / 0.2) / 4)
    assert median.skills["segment_semantic"].mean == 0.0
    text = report.section(report.Section(study, "", [found_table], [], {}, []))
    assert text.count("rmse against the teacher") == 3 and "semantic classes: a" in text
    drawn = []
    monkeypatch.setattr(figures, "_draw_estimates", lambda *found: drawn.append(found))
    figures.draw_table(found_table, tmp_path / "table.png")
    title, rows, accuracies = drawn[3][1:]
    assert len(drawn) == 5 and title == "semantic classes: accuracy"
    assert [a and a.mean for a in accuracies] == [0.8, 0.7, *[None] * (len(rows) - 2)]


def test_collect_says_so_of_a_run_that_is_not_finite(table5):
    study, runs, soka = table5
    path = runs.folder_of(soka, 0) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["tasks"]["depth_zbuffer"]["student"]["rmse"] = None
    path.write_text(json.dumps(evaluation))
    (table,) = results.collect(study, runs, range(1), {})
    row = table.rows[-1]
    assert row.cells[("depth_zbuffer", "rmse")].ours is None and row.relative is None
    assert row.missing == "1 not finite, and in no mean"
    assert row.imitation["edge_texture"] is None and row.cpu_seconds is None


def test_collect_says_what_a_failed_seed_said(table5):
    study, runs, soka = table5
    folder = runs.folder_of(soka, 1)
    folder.mkdir(parents=True)
    failure = {"seed": 1, "failed": "not finite: loss/transfer at step 7"}
    (folder / "failed.json").write_text(json.dumps(failure))
    (table,) = results.collect(study, runs, range(2), {})
    expected = "1 of 2 seeds missing: not finite: loss/transfer at step 7"
    assert table.rows[-1].missing == expected


def test_collect_of_a_task_without_labels_says_so_of_teacher_and_student(table5):
    study, runs, _ = table5
    for path in runs.folder.rglob("evaluation.json"):
        evaluation = json.loads(path.read_text())
        evaluation["tasks"]["edge_texture"].update(student=None, teacher=None)
        path.write_text(json.dumps(evaluation))
    (table,) = results.collect(study, runs, range(1), {})
    for row in table.rows:
        assert row.cells[("edge_texture", "rmse")].unlabelled
        assert not row.cells[("depth_zbuffer", "rmse")].unlabelled
    assert table.rows[1].missing == "needs labels of edge_texture"
    text = report.section(report.Section(study, "", [table], [], {}, []))
    assert text.count("no labels<br>paper") == 12 and "not run" not in text


def test_collect_refuses_runs_of_different_teachers(table5):
    study, runs, soka = table5
    path = runs.folder_of(soka, 0) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    evaluation["tasks"]["edge_texture"]["teacher"]["rmse"] *= 1.0005  # rounding
    path.write_text(json.dumps(evaluation))
    results.collect(study, runs, range(2), {})
    evaluation["tasks"]["edge_texture"]["teacher"]["rmse"] *= 1.01
    path.write_text(json.dumps(evaluation))
    with pytest.raises(UserError, match="soka-.*edge_texture has error 1.011 .*kd-"):
        results.collect(study, runs, range(2), {})


def test_collect_without_runs_says_not_run(tmp_path):
    study = definitions.define(SCALE)["table5"]
    runs = Runs(tmp_path, Setting((), 600), 1)
    (table,) = results.collect(study, runs, range(5), {})
    assert all(row.relative is None for row in table.rows)
    assert table.rows[1].missing == "5 of 5 seeds missing: not run"
    assert not table.findings


def test_folder_of_a_run_differs_with_its_bindings_but_not_with_its_seed(tmp_path):
    training = Training("pair/kd", ("normal",), ("gin/methods/kd.gin",))
    one = Runs(tmp_path, Setting(("gin/rooms/soka.gin",), 600), 1)
    other = Runs(
        tmp_path, Setting(("gin/rooms/soka.gin",), 600, ("batch_size = 2",)), 1
    )
    longer = training._replace(steps_share=2.0)
    folders = {
        one.folder_of(training, 0).parent,
        one.folder_of(training, 1).parent,
        other.folder_of(training, 0).parent,
        one.folder_of(longer, 0).parent,
    }
    assert len(folders) == 3


def test_two_processes_of_one_training_do_not_write_its_bindings_at_once(
    tmp_path, monkeypatch
):
    training = Training("pair/kd", ("normal",), ("gin/methods/kd.gin",))
    writers, most = [], []

    def write(path, text):
        writers.append(path)
        most.append(len(writers))
        time.sleep(0.2)
        writers.pop()

    def start(*arguments, **options):
        raise UserError("no process")

    monkeypatch.setattr(training_module, "write_text", write)
    monkeypatch.setattr(training_module.subprocess, "Popen", start)
    runs = Runs(tmp_path, Setting(("gin/rooms/soka.gin",), 600), 2)
    with pytest.raises(UserError, match="no process"):
        runs.train_missing([(training, [0]), (training, [1])])
    assert most == [1, 1]


def test_end_of_a_run_is_told_with_the_errors_of_all_its_tasks(tmp_path, monkeypatch):
    training = definitions.define(SCALE)["conflict"].tables[2].rows[1].trainings[0]
    runs = Runs(tmp_path, Setting(("gin/rooms/study.gin",), 600), 1)
    _finished(runs, training, 0, 2.0, 3.0)
    path = runs.folder_of(training, 0) / "evaluation.json"
    evaluation = json.loads(path.read_text())
    without_labels = {"student": None, "teacher": None}
    classes = {"student": {"accuracy": 0.75}, "teacher": {"accuracy": 0.8}}
    evaluation["tasks"].update(normal=without_labels, segment_semantic=classes)
    path.write_text(json.dumps(evaluation))
    child = unittest.mock.MagicMock(returncode=0)
    child.stdout = [json.dumps({"seed": 0, "failed": None})]
    monkeypatch.setattr(training_module.subprocess, "Popen", lambda *_, **__: child)
    told = []
    monkeypatch.setattr(
        training_module.logging, "info", lambda *said: told.append(said)
    )
    assert not runs.train_missing([(training, [0])])
    assert told[-1][-1] == (
        "seed 0: error depth_zbuffer 2.00, edge_texture 3.00, segment_semantic 0.250"
    )


def test_folder_of_a_run_follows_its_files_bindings_but_not_their_comments(tmp_path):
    training = Training("kd", ("normal",))

    def folder(text):
        (tmp_path / "part.gin").write_text(text)
        setting = Setting((str(tmp_path / "whole.gin"),), 600)
        return Runs(tmp_path, setting, 1).folder_of(training, 0)

    (tmp_path / "whole.gin").write_text(f"include '{tmp_path / 'part.gin'}'\n")
    first = folder("seed = 1  # why\n")
    assert folder("# how\n\nseed = 1\n") == first
    assert folder("seed = 2\n") != first
    # Where a name is bound twice, the last one counts, as in gin.
    assert folder("seed = 3\nseed = 1\n") == first
    assert folder("seed = 1\nseed = 3\n") != first
    assert folder("seed = 1\nbuildings = [\n'a',\n'b']\n") != folder(
        "seed = 1\nbuildings = [\n'a',\n'c']\n"
    )
    # A "#" in quotes is no comment.
    assert folder("images_dir = 'a#b'\n") != folder("images_dir = 'a#c'\n")


def test_folder_of_a_run_differs_with_the_teachers_it_names(tmp_path):
    training = Training("kd", ("normal",))

    def folder():
        runs = Runs(tmp_path, Setting((), 600), 1, tmp_path)
        return runs.folder_of(training, 0)

    training_module._sha256_of.cache_clear()
    (tmp_path / "normal.safetensors").write_bytes(b"old")
    first = folder()
    (tmp_path / "reshading.safetensors").write_bytes(b"of another task")
    assert folder() == first
    training_module._sha256_of.cache_clear()
    (tmp_path / "normal.safetensors").write_bytes(b"new")
    assert folder() != first


def test_damaged_record_is_named(tmp_path):
    training = Training("kd", ("normal",))
    runs = Runs(tmp_path, Setting((), 600), 1)
    folder = runs.folder_of(training, 0)
    folder.mkdir(parents=True)
    for text, why in (("{", "Expecting"), ("[]", "no cpu_s"), ("{}", "no cpu_s")):
        (folder / "study.json").write_text(text)
        with pytest.raises(UserError, match=f"study.json: cannot be read .*{why}"):
            runs.outcome(training, 0)
    # The others are trained all the same.
    assert list(runs.train([training], [0])) == [training]


# -------------------------------------------------------------------- commands


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--study=table9"], "there is no study 'table9'. There are: all, table1"),
        (["--study=table5", "--seeds=0"], "--seeds"),
        (["--study=table5", "--taskonomy_dir=x"], "--data=taskonomy only"),
        (["--study=table5", "--teachers_dir=none"], "teachers_dir=none: there is no"),
        (
            ["--study=table5", "--data=taskonomy", "--taskonomy_dir=none"],
            "--taskonomy_dir=none: there is no such folder",
        ),
        (["--study=table5", "--gin_param=words"], "must be 'name = value'"),
        (["--study=table5", "--gin_param='a' 'b'"], "must be 'name = value'"),
        (["--study=table5", "--gin_param=teachers_dir = 'x'"], "Give --teachers_dir"),
        (["--study=table5", "--docs_dir=x"], "Give --study=all"),
        (["--study=fig5", "--gin_param=seed = 3"], "seed is bound by the chosen"),
        (["--study=fig5", "--gin_param=run.max_steps = 3"], "run.max_steps is bound"),
        (
            ["--study=fig5", "--gin_param=soka_tf.runs.run.seed = 3"],
            "run.seed is bound by the chosen",
        ),
        (
            ["--study=gradnorm_alpha", "--gin_param=GradNorm.alpha = 2"],
            "GradNorm.alpha is bound by the chosen",
        ),
    ],
)
def test_reproduce_of_wrong_flags_says_what_is_allowed(
    arguments, text, tmp_path, capsys
):
    result = run_tool("reproduce", *arguments, f"--model_dir={tmp_path}", capsys=capsys)
    assert result.code == 2 and text in result.err


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--scale=full"], "needs Taskonomy's networks"),
        (["--data=taskonomy"], "needs a Taskonomy folder"),
        (["--teachers_dir=empty"], "needs teachers of depth_zbuffer, edge_texture in"),
    ],
)
def test_reproduce_without_data_writes_what_it_needs(
    arguments, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    result = run_tool(
        "reproduce",
        "--study=table5",
        f"--model_dir={tmp_path}",
        *arguments,
        capsys=capsys,
    )
    assert result.code == 0
    page = (tmp_path / "table5.md").read_text(encoding="utf-8")
    assert text in page and "10.26" in page
    assert text in json.dumps(json.loads((tmp_path / "table5.json").read_text()))


def test_reproduce_of_open_questions_at_full_size_says_small_only(tmp_path, capsys):
    arguments = ["--study=mia", "--scale=full", f"--teachers_dir={tmp_path}"]
    result = run_tool("reproduce", *arguments, f"--model_dir={tmp_path}", capsys=capsys)
    assert result.code == 0
    assert "needs --scale=small" in (tmp_path / "mia.md").read_text(encoding="utf-8")


def _report_all(model_dir, docs_dir, capsys):
    arguments = ["--study=all", "--report_only", f"--model_dir={model_dir}"]
    return run_tool("reproduce", *arguments, f"--docs_dir={docs_dir}", capsys=capsys)


def _runs(model_dir):
    """The runs that the command sees in its folder."""
    setting = definitions.setting(SCALE, None, [])
    return Runs(model_dir / "runs", setting, 1, teachers_folder(None))


def _finished_kd(model_dir):
    runs = _runs(model_dir)
    training = definitions.define(SCALE)["table5"].trainings[0]
    _finished(runs, training, 0, 2.0, 3.0)


def test_reproduce_report_measures_nothing_and_keeps_what_it_has_no_runs_of(
    tmp_path, capsys
):
    _finished_kd(tmp_path / "a b")
    pages = tmp_path / "docs" / "study"
    pages.mkdir(parents=True)
    kept = ("long_notes.png", "mia.md", "mia.png", "fig1.md", "fig5.md", "table5.md")
    for name in (*kept, "table5.png"):
        (pages / name).write_bytes(b"old")
    said = "What each part is worth:\n\n| 0.98: lower |"
    (pages / "comparison.md").write_text(
        f"# Comparison\n\n{said}\n\nHow this was measured: no\n"
    )
    (pages / "comparison.png").write_bytes(b"old")
    result = _report_all(tmp_path / "a b", tmp_path / "docs", capsys)
    assert result.code == 0, result.err
    page = (tmp_path / "docs" / "results.md").read_text(encoding="utf-8")
    picture = "![error against cost](study/comparison.png)"
    head = "# Results\n\n## At equal cost"
    assert page.startswith(f"{head}\n\n{said}\n\n{picture}\n\nAll of the comparison")
    assert "](study/fig5.md)" in page and "](study/fig1.md)" in page
    assert "](study/fig4.md)" not in page and "(`fig4`)" in page  # without any run
    assert "1 runs" in page and "246.460" in page  # Table 2 needs no run
    assert page.count("--docs_dir=docs --report_only\n") == 1
    assert page.count("--report_only\n") == 1  # the studies' own commands train
    assert page.count("Not run: with --report_only") == 1  # supp3
    assert "](study/mia.md)" in page  # of an earlier call, with runs of its own
    assert "Not run yet: " in page and "(`long`)" in page
    assert "(`mia`)" not in page
    for name in (*kept, "comparison.png"):
        assert (pages / name).read_bytes() == b"old"
    assert (pages / "table5.png").read_bytes() != b"old"


def test_reproduce_of_a_question_writes_its_page_and_keeps_the_papers_tables(
    tmp_path, capsys
):
    runs, docs = _runs(tmp_path), tmp_path / "docs"
    study = definitions.define(SCALE)["factorial"]
    docs.mkdir()
    tables = "## The paper's tables\n\n85 runs.\n\n### Table 1\n"
    figures = "## The paper's figures\n\nold"
    (docs / "results.md").write_text(f"# Results\n\nold\n\n{tables}\n{figures}\n")

    def report():
        return run_tool(
            *("reproduce", "--study=factorial", "--seeds=2", "--report_only"),
            *(f"--model_dir={tmp_path}", f"--docs_dir={docs}"),
            capsys=capsys,
        )

    first, *others = study.trainings
    for training in others:
        for seed in (0, 1):
            _finished(runs, training, seed, 2.0 + seed, 3.0)
    result = report()  # a row has no run
    assert result.code == 1 and "nothing is complete" in result.err
    assert "old" in (docs / "results.md").read_text(encoding="utf-8")
    assert not (docs / "study" / "factorial.md").exists()
    _finished(runs, first, 1, 2.0, 3.0)
    result = report()
    assert result.code == 0, result.err
    page = (docs / "results.md").read_text(encoding="utf-8")
    assert page.startswith(f"# Results\n\n{tables}\n## What the paper leaves open\n\n-")
    assert page.count("old") == 0 and f"[{study.title}](study/factorial.md)" in page
    own = (docs / "study" / "factorial.md").read_text(encoding="utf-8")
    assert own.startswith(f"# {study.title}\n\n23 runs, 0.1 CPU hours of training")
    assert "1 of 2 seeds missing" in own
    assert "below it the paper's" not in own  # which has no such table
    assert (docs / "study" / "factorial.png").is_file()


def test_pages_of_studies_say_what_their_runs_have_cost():
    shown = []
    for study in definitions.define(SCALE).values():
        path = ROOT / "docs" / "study" / f"{study.name}.md"
        if study.trainings and path.is_file():
            spent = path.read_text(encoding="utf-8").split("\n\n")[1]
            assert re.match(r"\d+ runs, \d+\.\d CPU hours of training steps", spent)
            shown.append(study.name)
    assert {"fig5", "factorial"} <= set(shown)


def test_results_page_is_of_the_pages_that_the_repository_has(tmp_path):
    without = shutil.ignore_patterns("records")
    shutil.copytree(ROOT / "docs" / "study", tmp_path / "study", ignore=without)
    shutil.copy(ROOT / "docs" / "results.md", tmp_path)
    documents.assemble(tmp_path)
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == page


def test_long_runs_are_reported_on_unseen_rooms_as_far_as_measured(tmp_path, capsys):
    runs = _runs(tmp_path)
    (*_, lent) = definitions.define(SCALE)["long"].trainings
    for seed, rmse in ((0, 1.1), (1, 1.3), (2, 5.0), (3, None)):
        _finished(runs, lent, seed, 1.0, 1.0)
        entries = {"student": {"rmse": rmse}, "teacher": {"rmse": 2.0}}
        path = runs.folder_of(lent, seed) / "unseen" / "evaluation.json"
        path.parent.mkdir()
        if seed != 2:  # that was not measured; the last one's answers are not finite
            path.write_text(json.dumps({"tasks": {"depth_zbuffer": entries}}))
    result = run_tool(
        *("reproduce", "--study=long", "--report_only", f"--model_dir={tmp_path}"),
        capsys=capsys,
    )
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "long.json").read_text())["measured"]
    ((title, estimates),) = found.items()
    assert title.startswith("started from teachers")
    assert estimates["depth_zbuffer"]["values"] == [0.55, 0.65]
    page = (tmp_path / "long.md").read_text(encoding="utf-8")
    (row,) = re.findall(r"(?m)^.* 0\.60 ± 0\.64 \|.*$", page)
    assert row.rstrip(" |").endswith("2")


def test_discriminators_are_reported_with_the_end_of_their_loss_and_accuracy(
    tmp_path, capsys
):
    runs = _runs(tmp_path)
    trainings = definitions.define(SCALE)["cgan"].trainings
    _finished(runs, trainings[0], 0, 1.0, 1.0)  # without the term
    name = "discriminator/depth_zbuffer"
    for seed, end in ((0, 0.5), (1, 0.3)):
        _finished(runs, trainings[1], seed, 1.0, 1.0)
        # One row without, then eight of which two count.
        values = ["", *[9] * 6, end - 0.1, end + 0.1]
        lines = [f"{i},0.1,{v},{v}" for i, v in enumerate(values)]
        head = f"step,loss/soft/depth_zbuffer,loss/{name},accuracy/{name}"
        path = runs.folder_of(trainings[1], seed) / "metrics.csv"
        path.write_text("\n".join([head, *lines]))
    path = runs.folder_of(trainings[0], 0) / "metrics.csv"
    path.write_text("step,loss/soft/depth_zbuffer\n1,0.1\n")
    result = run_tool(
        *("reproduce", "--study=cgan", "--report_only", f"--model_dir={tmp_path}"),
        capsys=capsys,
    )
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "cgan.json").read_text())["measured"]
    ((title, estimates),) = found.items()
    assert title == "with, SGD 1e-5" and len(estimates) == 2
    for estimate in estimates.values():
        assert estimate["values"] == pytest.approx([0.5, 0.3])
    page = (tmp_path / "cgan.md").read_text(encoding="utf-8")
    assert re.search(r"(?m)^\| with, SGD 1e-5 \| +depth \| +0\.4 ", page)


def test_conflict_is_reported_of_the_tasks_in_the_second_half_of_the_runs(
    tmp_path, capsys
):
    runs = _runs(tmp_path)
    study = definitions.define(SCALE)["conflict"]
    pair = "depth_zbuffer:edge_texture"
    for seed, end in ((0, 0.25), (1, -0.75)):
        for table in study.tables[:2]:
            training = table.rows[1].trainings[0]
            _finished(runs, training, seed, 1.0, 1.0)
            lines = [f"step,loss/soft/depth_zbuffer,cosine/{pair},cosine/{TRANSFER}"]
            values = ["", 0.9, "", 0.9, end - 0.5, "", end + 0.5]
            lines += [f"{i},0.1,{v},0.7" for i, v in enumerate(values)]
            path = runs.folder_of(training, seed) / "metrics.csv"
            path.write_text("\n".join(lines))
    result = run_tool(
        *("reproduce", "--study=conflict", "--report_only", f"--model_dir={tmp_path}"),
        capsys=capsys,
    )
    assert result.code == 0, result.err
    found = json.loads((tmp_path / "conflict.json").read_text())["measured"]
    titles = [f"{table.title}: {pair}" for table in study.tables[:2]]
    assert list(found) == titles
    for estimates in found.values():
        assert estimates["mean"]["values"] == pytest.approx([0.25, -0.75])
        assert estimates["below"]["values"] == pytest.approx([0.5, 1.0])
    page = (tmp_path / "conflict.md").read_text(encoding="utf-8")
    assert re.search(
        r"(?m)^\| depth and 2D edges +\| +depth, 2D edges \| +-0\.2 ", page
    )


@pytest.mark.parametrize(
    "text, code, said",
    [
        pytest.param(
            *("# Results\n\nof other runs", 1, "--docs_dir: nothing was written there"),
            marks=pytest.mark.slow,
        ),
        ("# Results of mine\n", 2, "results.md is none that was written"),
    ],
)
def test_reproduce_leaves_the_page_of_other_runs_or_of_another(
    text, code, said, tmp_path, capsys
):
    page = tmp_path / "docs" / "results.md"
    page.parent.mkdir()
    page.write_text(text)
    result = _report_all(tmp_path / "runs", tmp_path / "docs", capsys)
    assert result.code == code and said in result.err
    assert page.read_text() == text


def test_reproduce_of_a_figure_without_runs_writes_its_page(
    tmp_path, capsys, monkeypatch
):
    found = further.Further(["measured"])
    monkeypatch.setattr(further, "similarity", lambda *arguments: found)
    flags = (f"--model_dir={tmp_path / 'runs'}", f"--docs_dir={tmp_path}")
    result = run_tool("reproduce", "--study=fig1", *flags, capsys=capsys)
    assert result.code == 0, result.err
    assert "measured" in (tmp_path / "study" / "fig1.md").read_text(encoding="utf-8")
    assert "](study/fig1.md)" in (tmp_path / "results.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "model_dir, docs_dir, text",
    [
        ("", "docs", "--model_dir= must name a folder"),
        ("file", "docs", "--model_dir: .*file cannot be made"),
        ("runs", "file", "--docs_dir: .*study cannot be made"),
        ("docs/study", "docs", "must lie elsewhere than the runs"),
    ],
)
def test_reproduce_refuses_folders_before_anything_is_trained(
    model_dir, docs_dir, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    result = _report_all(model_dir, docs_dir, capsys)
    assert result.code == 2 and re.search(text, result.err), result.err


def test_reproduce_of_a_damaged_run_still_writes_the_other_studies(tmp_path, capsys):
    runs = _runs(tmp_path)
    (training, *_) = definitions.define(SCALE)["table3"].trainings
    folder = runs.folder_of(training, 0)
    folder.mkdir(parents=True)
    (folder / "study.json").write_text('{"cpu_seconds": 1}')
    (folder / "evaluation.json").write_text("{")
    result = run_tool(
        "reproduce",
        "--study=table3,table2",
        "--report_only",
        f"--model_dir={tmp_path}",
        capsys=capsys,
    )
    assert result.code == 1
    assert re.search(r"FAILED table3: .*evaluation.json: cannot be read", result.err)
    assert "246.460" in (tmp_path / "table2.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_reproduce_trains_resumes_and_reports(tmp_path, capsys, tiny):
    params = tiny.params("schedule.joint_steps = 1", "run.log_every_steps = 1")
    given = ("teachers_dir", "images_dir")  # by flags
    arguments = [
        "--study=fig5",
        "--seeds=2",
        "--steps=3",
        "--jobs=1",
        "--data=taskonomy",
        f"--model_dir={tmp_path}",
        f"--teachers_dir={tiny.teachers}",
        f"--taskonomy_dir={tiny.labelled}",
        *(f"--gin_param={p}" for p in params if not p.startswith(given)),
    ]
    result = run_tool("reproduce", *arguments, capsys=capsys)
    assert result.code == 0, result.err
    page = (tmp_path / "fig5.md").read_text(encoding="utf-8")
    assert "rate 0.001" in page and "not run" not in page
    for picture in ("fig5.png", "fig5_curves.png"):
        assert picture in page and (tmp_path / picture).stat().st_size > 1000
    (table,) = json.loads((tmp_path / "fig5.json").read_text())["tables"]
    *rows, median = table["rows"]
    found = [cell["ours"]["values"] for row in rows for cell in row["cells"]]
    assert len(found) == 4 and all(len(set(values)) == 2 for values in found)
    assert median["title"] == "median image" and len(median["cells"]) == 2
    records = sorted(tmp_path.rglob("seed*/study.json"))
    assert len(records) == 4
    before = {path: path.stat().st_mtime_ns for path in records}
    records[0].unlink()
    result = run_tool("reproduce", *arguments, capsys=capsys)
    assert result.code == 0
    after = {path: path.stat().st_mtime_ns for path in records}
    assert [p for p in records if after[p] != before[p]] == records[:1]


@pytest.mark.slow
def test_reproduce_with_a_wrong_binding_says_which_runs_failed(tmp_path, capsys):
    result = run_tool(
        "reproduce",
        "--study=fig3",
        "--seeds=1",
        f"--model_dir={tmp_path}",
        "--gin_param=objective.soft_los = 'l1'",
        capsys=capsys,
    )
    assert result.code == 1
    assert "FAILED depth-edge2d-normal/soka:" in result.err and "soft_los" in result.err
    assert "depth-edge2d-normal/soka: begun; its messages are in" in result.err
    page = (tmp_path / "fig3.md").read_text(encoding="utf-8")
    assert re.search("(?m)^Not run: depth, 2D edges, normals: .*soft_los", page)


def test_clause_is_short_and_names_no_folder():
    said = "/data/a b/x.npz: cannot be read (at 7 m). Remove /data/x. " + "long " * 90
    clause = results.clause(said)
    assert "/data" not in clause and clause.endswith("cannot be read (at 7 m)")
    assert len(results.clause("word " * 90)) <= 120
    assert (
        results.clause("https://a.org/b/c: 0.5 of 1") == "https://a.org/b/c: 0.5 of 1"
    )


def test_documents_name_no_path_of_a_machine():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    assert len(pages) > 5
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert not re.search(r"(?<![\w./}])/[a-z]+/", text), page
        folder = pathlib.Path(page).parent
        for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
            assert (folder / picture).is_file(), picture
