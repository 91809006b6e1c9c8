"""tools/reproduce.py --study=comparison: jobs, records, refusals, the page."""

import collections
import contextlib
import functools
import io
import json
import math
import re
import subprocess

import pytest
from scipy.stats import qmc

from soka_tf.errors import UserError
from soka_tf.runs.gin_text import read_gin
from tests.tools import ROOT, run_tool
from tools.studies import figures, training, worker
from tools.studies import records as study_records
from tools.studies.comparison import (
    answer,
    command,
    inference,
    page,
    plan,
    protocol,
    run_records,
)
from tools.studies.comparison.plan import Plan
from tools.studies.comparison.protocol import FINAL, TUNE, Protocol, Rooms
from tools.studies.training import Runs, Setting

DEPTH, EDGES = "depth_zbuffer", "edge_texture"
METHODS = {method.name: method for method in protocol.METHODS}
SMALL = Protocol(
    methods=tuple(METHODS[n]._replace(seeds=3) for n in ("kd", "kd_mia", "n_to_n")),
    train=Rooms(11, 2, 2),
    tune=Rooms(12, 2, 1),
    test=Rooms(13, 4, 2),
    steps=100,
    budgets=(1, 4),
    confirmation=(8, 2),
    tuning_steps=50,
    trials=protocol.TRIALS[:2],
    pairs=(("kd_mia", "kd"),),
)
# CPU seconds of a trial; of n_to_n for each student.
COSTS = {"kd": 5.0, "kd_mia": 10.0, "n_to_n": 2.5}
FOUND = {
    "seconds": 2.0,
    "processor": "a processor",
    "cores": 2,
    "versions": {"tensorflow": "2"},
    "commit": "0123",
    "failed": None,
}


@pytest.fixture
def study(tmp_path):
    """An empty plan of three small methods."""
    (tmp_path / "docs" / "records").mkdir(parents=True)
    return _fresh(tmp_path)


def _fresh(tmp_path, *params, of=SMALL):
    setting = Setting(of.files, 1, params)
    return Plan(of, Runs(tmp_path / "runs", setting, 1), tmp_path / "docs" / "records")


def _write(study, job, rmse, cpu_seconds=1.0, **found):
    """A record of a run whose rmse is `rmse` in every room and task."""
    rooms = study.protocol.rooms_of(job.portion).count
    squares = [10.0 * rmse**2 for _ in range(rooms)]
    tasks = [job.task] if job.task else [DEPTH, EDGES]
    errors = {task: {"units": squares, "network": squares} for task in tasks}
    found = {**FOUND, "cpu_seconds": cpu_seconds, "errors": errors, **found}
    who = run_records.identity(study.runs, study.training(job))
    content = run_records.record_of(job, study.steps(job), who, found)
    run_records.write(study.path(job), content)


def _write_reference(study, portion, teacher=1.0, median=3.0):
    rooms = study.protocol.rooms_of(portion).count

    def sums(rmse):
        squares = [10.0 * rmse**2] * rooms
        return {t: {"units": squares, "network": squares} for t in (DEPTH, EDGES)}

    content = {
        "protocol": protocol.VERSION,
        "teachers": {},
        "rooms": [f"rooms/point_{i}" for i in range(rooms)],
        "pixels": {DEPTH: [10] * rooms, EDGES: [10] * rooms},
        "teacher": sums(teacher),
        "median": sums(median),
        "teachers_cpu_seconds_an_image": 0.01,
    }
    run_records.write(study.reference_path(portion), content)


def _tuned(study):
    """All trials: trial 1 is the better one of all but kd."""
    _write_reference(study, TUNE)
    for job in study.jobs(TUNE):
        better = (job.trial == 1) is not (job.method.name == "kd")
        _write(study, job, 1.5 if better else 2.0, COSTS[job.method.name])


def _finished(study, kd_mia=1.2, kd=1.5):
    _tuned(study)
    study.open_test_rooms()
    _write_reference(study, FINAL)
    for job in study.jobs(FINAL):
        rmse = {"kd_mia": kd_mia, "kd": kd}.get(job.method.name, 2.0)
        _write(study, job, rmse * (1 + 0.001 * job.seed), 10.0 * job.budget)


# ------------------------------------------------------------------- the protocol


def test_trials_are_of_the_stated_sequence_and_stand_in_the_document():
    points = qmc.Sobol(4, scramble=True, seed=20).random(8)
    drawn = [[float(f"{v:.4g}") for v in protocol.trial_of(p)] for p in points]
    assert [list(t) for t in protocol.TRIALS] == [
        [*trial[:3], round(trial[3], 3)] for trial in drawn
    ]
    text = (ROOT / "docs/study/protocol.md").read_text(encoding="utf-8")
    for number, values in enumerate(protocol.TRIALS):
        assert "| ".join([f"| {number} ", *(f"{v:g} " for v in values)]) in text


def test_document_has_the_numbers_of_the_protocol():
    found, text = Protocol(), (ROOT / "docs/study/protocol.md").read_text("utf-8")
    for rooms in (found.train, found.tune, found.test):
        cells = f"| {rooms.seed} | {rooms.count} | {rooms.views} |"
        assert f"{cells} {rooms.count * rooms.views} |" in text
    for method in found.methods:
        assert re.search(
            rf"(?m)^\| {re.escape(method.title)} \| `{method.file}.gin` .*\| "
            rf"{method.seeds} \|$",
            text,
        ), method.title
    assert f"Version {protocol.VERSION}, of" in text
    assert "Budgets of 1, 4 and 16" in text and found.budgets == (1, 4, 16)
    units = [found.steps * budget for budget in found.budgets]
    assert "{}, {} and {} steps of KD".format(*units) in " ".join(text.split())
    assert "budget of 80, 20 000" in text and found.confirmation == (80, 3)
    tests = f"{len(found.pairs)} pairs, {len(protocol.ENDPOINTS)} endpoints"
    assert f"Tested: {tests}, Holm over the fifteen" in text
    assert "in\n  [0.99, 1.01]" in text and inference.SAME == (0.99, 1.01)
    assert f"(seed {found.tuning_seed}) for {found.tuning_steps} steps" in text
    rows = re.findall(r"(?m)^\| .* \| (\d+) \| \d+\.\d \|$", text)
    counts = collections.Counter(
        (job.portion, job.budget, job.method.name in found.main())
        for job in protocol.all_jobs(found)
    )
    main = [counts[FINAL, budget, True] for budget in (1, 4, 16)]
    others = [counts[FINAL, budget, False] for budget in (1, 4, 16)]
    trials = counts[TUNE, 0, True] + counts[TUNE, 0, False]
    afterwards = len(protocol.AFTERWARDS) * found.confirmation[1]
    of_80 = counts[FINAL, 80, True] + counts[FINAL, 80, False]
    long_runs = [of_80 - afterwards, afterwards]
    assert [int(n) for n in rows] == [trials, *main, *others, *long_runs]
    assert found.train.count >= 1000 and found.train.count * found.train.views >= 20000
    assert found.test.count >= 400 and found.test.count * found.test.views >= 2000
    taken = {1, 2, 3, 4, 5, 6, 7}
    seeds = {rooms.seed for rooms in (found.train, found.tune, found.test)}
    assert len(seeds) == 3 and not seeds & taken


def test_tuned_weights_are_of_the_tasks_and_of_features_and_sum_to_one():
    for values in protocol.TRIALS:
        (line,) = protocol.trial_bindings(METHODS["kd_mia_fixed"], values)[3:]
        weights = read_gin((), [line])["Fixed.weights"]
        assert len(weights) == 3 and sum(weights) == pytest.approx(1.0, abs=1e-9)
        assert weights[0] / sum(weights[:2]) == pytest.approx(values[3], abs=1e-3)
        assert len(protocol.trial_bindings(METHODS["kd"], values)) == 3


def test_every_method_has_as_many_trials_and_the_seeds_of_the_pairs_are_paired():
    found = Protocol()
    counts = {}
    for job in protocol.tune_jobs(found):
        counts.setdefault((job.method.name, job.task), set()).add(job.trial)
    assert set(map(len, counts.values())) == {8}
    any_trial = {method.name: 0 for method in found.methods}
    seeds = {}
    for job in protocol.final_jobs(found, any_trial):
        seeds.setdefault((job.method.name, job.budget), []).append(job.seed)
    for name in found.main():
        assert all(seeds[name, budget] == list(range(10)) for budget in found.budgets)


# ------------------------------------------------------------- what is left to do


def test_steps_follow_costs_and_trials_follow_steps(study):
    assert not study.jobs(FINAL)
    # Of trials 2 x 4, of final ones 2 x 3 x 4 and 2 x 2 long ones.
    assert study.counts() == (0, 36)
    _tuned(study)
    assert {study.steps(job) for job in study.jobs(TUNE)} == {50}
    steps = {j.method.name: study.steps(j) for j in study.jobs(FINAL) if j.budget == 4}
    # A step of KD + MIA costs twice one of KD, those of two students as much as KD's.
    assert steps == {"kd": 400, "kd_mia": 200, "n_to_n": 400}
    long = [j for j in study.jobs(FINAL) if j.budget == 8 and j.method.name == "kd"]
    assert [study.steps(job) for job in long] == [800, 800]
    assert study.counts() == (8, 36)


def test_cost_is_the_median_of_the_trials_of_one_machine(study):
    study.protocol = study.protocol._replace(trials=protocol.TRIALS[:4])
    jobs = [job for job in study.jobs(TUNE) if job.method.name == "kd"]
    for job, seconds in zip(jobs, (5.0, 45.0, 10.0)):
        _write(study, job, 2.0, seconds)
    assert study.cost("kd") is None
    _write(study, jobs[3], 2.0, None)  # it was interrupted
    assert study.cost("kd") == pytest.approx(0.2) and study.cost("kd_mia") is None
    study.check_costs()
    _write(study, study.jobs(TUNE)[1], 2.0, processor="another")
    again = _again(study)
    with pytest.raises(UserError, match="machines: 2 cores of a.*Remove tune-.*json"):
        again.check_costs()


def test_method_of_which_no_cost_is_known_keeps_the_test_rooms_shut(study):
    _tuned(study)
    for job in study.jobs(TUNE):
        if job.method.name == "kd_mia":
            _write(study, job, 2.0, None)
    again = _again(study)
    with pytest.raises(UserError, match="trials of kd_mia were interrupted.* Remove"):
        again.open_test_rooms()
    assert again.opened() is None


def test_trials_of_the_first_version_are_those_of_the_second(study):
    _tuned(study)
    study.open_test_rooms()
    _write_reference(study, FINAL)
    trial, final = study.jobs(TUNE)[0], study.jobs(FINAL)[0]
    _write(study, final, 2.0)
    paths = [study.path(trial), study.path(final)]
    paths += [study.reference_path(portion) for portion in (TUNE, FINAL)]
    for path in paths:
        content = json.loads(path.read_text())
        run_records.write(path, {**content, "protocol": 1})
    again = _again(study)
    assert again.record(trial) and again.reference(TUNE)
    for read, of in ((again.record, final), (again.reference, FINAL)):
        with pytest.raises(UserError, match="of protocol version 1, not 2"):
            read(of)


def test_chosen_is_the_trial_of_the_least_error_and_a_failed_one_never(study):
    _tuned(study)
    assert _chosen(study) == {"kd": 0, "kd_mia": 1, "n_to_n": 1}
    for job in study.jobs(TUNE):
        if job.trial == 1 and job.method.name == "kd_mia":
            why = "Training stopped: loss was NaN or infinite."
            _write(study, job, 1.0, None, failed=why, errors=None)
    assert _chosen(study)["kd_mia"] == 0


def _again(study, **how):
    """The plan of the next call."""
    return Plan(study.protocol, study.runs, study.folder, **how)


def _chosen(study):
    return _again(study).chosen()


def test_test_rooms_are_refused_until_all_trials_are_recorded(study):
    _tuned(study)
    job = study.jobs(TUNE)[3]
    study.path(job).unlink()
    again = _again(study)
    with pytest.raises(UserError, match="opens the test rooms.* 1 runs of .*Run these"):
        again.open_test_rooms()
    assert again.opened() is None and not again.jobs(FINAL)
    _write(again, job, 1.5)
    again.open_test_rooms()
    opened = again.opened()
    assert re.match(r"\d{4}-\d\d-\d\dT.*\+00:00$", opened["opened"])
    assert opened["chosen"] == again.chosen() and len(again.jobs(FINAL)) == 28
    assert all(
        "rooms.validation_seed = 13" in study.runs.setting.config(again.training(job))
        for job in again.jobs(FINAL)
    )


def test_protocol_that_changed_after_the_test_rooms_were_opened_is_refused(study):
    _tuned(study)
    study.open_test_rooms()
    assert _again(study).opened()
    study.protocol = study.protocol._replace(pairs=(("kd", "n_to_n"),))
    with pytest.raises(UserError, match="opened.json: methods, endpoints or tests are"):
        _again(study).opened()


def test_choice_made_before_the_test_rooms_were_opened_stands(study):
    _tuned(study)
    study.open_test_rooms()
    for job in study.jobs(TUNE):
        if job.trial == 0 and job.method.name == "kd_mia":
            _write(study, job, 0.1)
    with pytest.raises(UserError, match="trial 1 of kd_mia was chosen; its .* 0"):
        _chosen(study)


# --------------------------------------------------------------- refused records


def _changed(study, **changes):
    """The first record with other fields."""
    job = study.jobs(TUNE)[0]
    _write(study, job, 2.0)
    content = json.loads(study.path(job).read_text())
    run_records.write(study.path(job), {**content, **changes})
    return job


@pytest.mark.parametrize(
    "changes, text",
    [
        ({"protocol": 0}, "it is of protocol version 0, not 2"),
        ({"steps": 9}, "it is of steps 9, not 50"),
        ({"seed": 0}, "it is of seed 0, not 100"),
        ({"bindings": "seed = 1\n"}, "changed: its bindings are not those"),
        ({"teachers": {"normal.safetensors": "0"}}, "of other teachers .normal.safe"),
        ({"failed": "NaN"}, "damaged: a run has either errors or a reason"),
        ({"errors": {DEPTH: {"units": [1.0], "network": [1.0]}}}, "of other rooms"),
        ({"errors": {DEPTH: {"units": [-1.0, 2.0]}}}, "it is not a record"),
        ({"cpu_seconds": "long"}, "it is not a record .*cpu_seconds must be"),
    ],
)
def test_wrong_record_is_refused_in_one_line(changes, text, study):
    job = _changed(study, **changes)
    with pytest.raises(UserError, match=text) as error:
        study.record(job)
    message = str(error.value)
    assert message.startswith(f"{study.path(job)}: ") and "\n" not in message
    assert "Remove it" in message


def test_record_of_other_bindings_is_refused_by_name(study, tmp_path):
    job = study.jobs(TUNE)[0]
    _write(study, job, 2.0)
    other = _fresh(tmp_path, "objective.soft_loss = 'l2'")
    with pytest.raises(UserError, match=r"objective.soft_loss: 'l1' -> 'l2'"):
        other.record(job)
    # To be looked at, not to go on from.
    setting = other.runs.setting
    runs = Runs(tmp_path / "runs", setting, 1)
    assert Plan(SMALL, runs, other.folder, only_read=True).record(job)
    # Where teachers or rooms lie on a machine is no difference.
    assert _fresh(tmp_path, "rooms.dir = 'x'", "teachers_dir = 'y'").record(job)


def test_binding_that_is_new_with_its_default_is_no_difference():
    present = "GradNorm.floor = 0.02\nseed = 0\n"
    assert not run_records.differing("seed = 0\n", present)
    assert run_records.differing("seed = 0\n", "GradNorm.floor = 0.1\nseed = 0\n") == [
        "GradNorm.floor: not bound -> 0.1"
    ]
    assert len(run_records.differing(present, "seed = 0\n")) == 1  # one that is gone


def test_stranger_among_the_records_is_refused(study):
    _tuned(study)
    study.refuse_strangers()
    # One that is gone makes no strangers of the others.
    study.path(study.jobs(TUNE)[0]).unlink()
    _again(study).refuse_strangers()
    path = study.folder / "tune-kd-trial2-seed100.json"
    path.write_text("{}")
    with pytest.raises(UserError, match="trial2-seed100.json: it is of no run that"):
        study.refuse_strangers()


# ---------------------------------------------------------------------- the page


def _page(study):
    again = _again(study)
    return page.write(again, study.folder.parent).read_text(encoding="utf-8")


def _answered(text, title):
    """The rows of this title in the answer, without it."""
    found = re.findall(r"(?m)^\|([^|]+)\|(.*)\|$", page.answer_of(text))
    return [row.strip() for first, row in found if first.strip() == title]


def _reading(study):
    (row,) = _answered(_page(study), "KD + MIA / KD")
    return row


def _section(text, title):
    return text[text.index(title) :].split("\n## ")[0]


def test_page_before_the_end_says_how_far_it_is(study):
    assert "\n\nNo answer yet: 0 of 36 runs.\n" in _page(study)
    _tuned(study)
    text = _page(study)
    assert "No answer yet: 8 of 36 runs." in text
    assert "| KD + MIA | 2.0000 | **1.5000** |".replace(" ", "") in text.replace(
        " ", ""
    )
    study.open_test_rooms()
    _write_reference(study, FINAL)
    (job, *_) = study.jobs(FINAL)
    _write(study, job, 2.0)
    text = _page(study)
    assert "No answer yet: 9 of 36 runs." in text and "1, 2 missing" in text


def test_page_at_the_end_begins_with_the_answer_and_has_the_median_image(study):
    _finished(study)
    text = _page(study)
    (first,) = _answered(text, "KD + MIA / KD")
    assert first.startswith("0.800") and first.count(": lower") == 3
    (of_teachers,) = _answered(text, "KD + MIA, budget 4")
    assert (
        of_teachers.startswith("1.20")
        and "36 of 36 runs of the comparison are done" in text
    )
    assert [row[:4] for row in _answered(text, "median image")] == ["3.00"]
    budget = _section(text, "## Budget 4")
    (median,) = re.findall(r"(?m)^\| median image .*$", budget)
    cells = [cell.strip() for cell in median.split("|")]
    # Three times the teachers' error; a skill of 0.
    assert cells[2].startswith("3.00") and cells[6].startswith("0.00")
    assert cells[4] == f"{3 * math.log(2**16):#.3g}"  # network range, as logarithms
    (row,) = re.findall(r"(?m)^\| KD \+ MIA .*$", budget)
    cells = [cell.strip() for cell in row.split("|")]
    # rmse 1.2 where the teacher has 1 and the median image 3: skill 0.9.
    assert cells[2].startswith("1.20") and cells[6].startswith("0.89")
    assert re.search(r"\[0\.89\d+, 0\.90\d*\]", cells[6]) and cells[-3:-1] == [
        "200",
        "3",
    ]
    assert (study.folder.parent / "comparison.png").stat().st_size > 10000


def test_figure_has_errors_over_the_teachers_by_the_seconds_of_budgets(
    study, monkeypatch
):
    drawn = {}
    monkeypatch.setattr(figures, "draw_costs", lambda *found: drawn.update(found[0]))
    _finished(study)
    job = next(j for j in study.jobs(FINAL) if j.method.name == "kd_mia")
    study.path(job).unlink()  # an incomplete budget is no point
    _page(study)
    for curves in drawn.values():
        found = {
            c.title: ([p[0] for p in c.points], c.points[-1][1], c.is_main)
            for c in curves
        }
        # 100 steps of KD take 10 seconds; both methods of the pair are confirmed.
        assert found == {
            "KD": ([10.0, 40.0, 80.0], pytest.approx(1.5, rel=0.01), True),
            "KD + MIA": ([40.0, 80.0], pytest.approx(1.2, rel=0.01), True),
            "KD, a student a task": ([10.0, 40.0], pytest.approx(2, rel=0.01), False),
        }
    assert len(drawn) == len(protocol.ENDPOINTS)


def test_methods_added_afterwards_are_confirmed_and_named_on_the_page(
    study, monkeypatch
):
    monkeypatch.setattr(protocol, "AFTERWARDS", ("n_to_n",))
    monkeypatch.setattr(answer, "AFTERWARDS", ("n_to_n",))
    _finished(study)
    added = study.jobs(FINAL)[-1]
    assert (added.method.name, added.budget, added.seed) == ("n_to_n", 8, 1)
    said = "Budget 8 of KD, a student a task was added after the test rooms were opened"
    assert said in page.answer_of(_page(study))


def test_page_shows_untested_pairs_without_a_reading(study, monkeypatch):
    pairs = (("kd", "kd_mia"), ("kd", "soka"), ("kd", "no method"))
    monkeypatch.setattr(answer, "_ASKED", pairs)
    _finished(study)
    (row,) = _answered(_page(study), "KD / KD + MIA")
    assert row.startswith("1.25") and row.count(": no test") == 3


def test_page_says_how_far_the_errors_of_costs_reach(study):
    _finished(study)
    for job in study.jobs(FINAL):
        if (job.method.name, job.budget) == ("kd", 1):
            _write(study, job, 3.0)
        elif (job.method.name, job.budget) == ("kd", 4):
            _write(study, job, 1.5)
    # Half of the error for four times the cost: 1.05 ** 0.5 is exp(0.024).
    text = _page(study)
    assert "known to some 5 %, which moves a ratio by up to 2.4 %: a ratio" in text
    assert ": lower, within the error of costs" not in page.answer_of(text)
    for job in study.jobs(FINAL):
        if (job.method.name, job.budget) == ("kd_mia", 4):
            _write(study, job, 1.48)
    assert _reading(study).count(": lower, within the error of costs") == 3


def test_page_names_runs_that_have_lost_a_task_and_counts_them(study):
    _finished(study)
    assert "three times the median image's" not in page.answer_of(_page(study))
    # The median image has an rmse of 3.
    for seed, rmse in ((0, 8.9), (1, 9.1)):
        for job in study.jobs(FINAL):
            if (job.method.name, job.budget, job.seed) == ("kd", 4, seed):
                _write(study, job, rmse)
    said = page.answer_of(_page(study))
    lost = "all others: KD, budget 4, seed 1, depth; KD, budget 4, seed 1, 2D edges."
    assert lost in said
    (row,) = _answered(said, "KD, budget 4")
    assert row.startswith("5 [")  # (8.9 * 9.1 * 1.5) ** (1 / 3)


def test_page_says_of_how_many_seeds_a_ratio_is_that_misses_some(study):
    _finished(study)
    for job in study.jobs(FINAL):
        if (job.method.name, job.budget, job.seed) == ("kd", 4, 0):
            study.path(job).unlink()
    text = _page(study)
    for budget, marked in ((1, False), (4, True)):
        (row,) = re.findall(r"(?m)^\| KD  .*$", _section(text, f"## Budget {budget}"))
        assert "KD + MIA: 1.25" in row and ("(2 seeds)" in row) == marked


def test_page_does_not_say_that_undecided_errors_are_the_same(study):
    _finished(study, kd_mia=1.5, kd=1.5)
    assert _reading(study).count(": the same within 1 %") == 3
    for job in study.jobs(FINAL):
        if job.method.name == "kd":
            _write(study, job, 1.5 * (1 + 0.05 * (job.seed - 1)))
    assert _reading(study).count(": undecided") == 3


def test_page_names_runs_that_were_not_finite_and_leaves_their_seeds_out(study):
    _finished(study)
    for job in study.jobs(FINAL):
        if (job.method.name, job.seed, job.budget) == ("kd", 1, 4):
            _write(
                study, job, 1.0, None, failed="loss was NaN or infinite.", errors=None
            )
    text = _page(study)
    assert "final-kd-x4-seed1: loss was NaN or infinite." in text
    # Seeds that are left are not chosen by chance: nothing is read from them.
    assert _reading(study).count(": undecided, 1 not finite") == 3
    (row,) = re.findall(r"(?m)^\| KD  .*$", _section(text, "## Budget 4"))
    assert "2, 1 not finite" in row
    assert not text.startswith("# Comparison\n\nNo answer")


def test_batches_keep_a_training_together_but_split_long_ones(study):
    _tuned(study)
    study.open_test_rooms()
    jobs = study.jobs(FINAL)
    found = plan.batches(study, jobs, most_seconds=150.0)  # 50 s each, then 80 s
    assert [job for _, some in found for job in some] == jobs
    assert [len(some) for _, some in found[:4]] == [3, 3, 1, 1]


# -------------------------------------------------------------------- the command


@pytest.mark.parametrize(
    "arguments, text",
    [
        (["--study=comparison,table5"], "is run by itself. Received beside it: table5"),
        (["--study=comparison", "--steps=3"], "has its own value of --steps"),
        (["--study=comparison", "--scale=full"], "has its own value of --scale"),
        (["--study=table5", "--hours=1"], "--portion and --hours are of"),
        (["--study=comparison", "--portion=all"], "--portion"),
        (["--study=comparison", "--portion=final"], "opens the test rooms"),
        (
            ["--study=comparison", "--gin_param=max_steps=5"],
            "its own value of max_steps",
        ),
    ],
)
def test_comparison_of_wrong_flags_says_what_is_allowed(
    arguments, text, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(command, "PROTOCOL", SMALL)
    folders = [f"--model_dir={tmp_path}/runs", f"--records_dir={tmp_path}/docs/records"]
    result = run_tool("reproduce", *arguments, *folders, capsys=capsys)
    assert result.code == 2 and text in result.err, result.err


def test_sums_of_rooms_are_those_of_any_evaluation(tiny, tmp_path, fresh_gin):
    from soka_tf.runs.run_evaluation import evaluate_run
    from tools.studies.comparison import room_sums

    bound = ["split.validation_fraction = 0.6", "max_steps = 1"]
    run = tiny.build(tmp_path, *tiny.with_labels, *bound)
    evaluation = evaluate_run(run, str(tmp_path))
    student, reference = room_sums.student_sums(run), room_sums.reference_sums(run)
    count = len(reference["rooms"])
    assert count == len({sample.point for sample in run.data.validation}) > 2
    answers = {"student": student, "teacher": reference["teacher"]}
    answers["baseline_median"] = reference["median"]
    for task, entries in evaluation["tasks"].items():
        pixels = reference["pixels"][task]
        assert len(pixels) == count and len(set(pixels)) <= 2
        for name, sums in answers.items():
            rmse = math.sqrt(sum(sums[task]["units"]) / sum(pixels))
            assert rmse == pytest.approx(entries[name]["rmse"], rel=1e-4), name
    assert reference["teachers_cpu_seconds_an_image"] > 0
    # Depth is masked where nothing was read, a quarter of each image.
    assert set(reference["pixels"][DEPTH]) == {12 * 16}


class _InThisProcess:
    """In place of the process of tools/studies/worker.py: starts in no time."""

    PIPE = None

    def __init__(self, *_, **how):
        self.stdin, self.returncode = io.StringIO(), 0
        self.stdin.close = lambda: None

    Popen = classmethod(lambda cls, *words, **how: cls(*words, **how))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def stdout(self):
        job, printed = io.StringIO(self.stdin.getvalue()), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(worker.sys, "stdin", job)
            with contextlib.redirect_stdout(printed):
                worker.main()
        return printed.getvalue().splitlines()


def _build_eagerly(build, *arguments):
    run = build(*arguments)
    run.model.run_eagerly = True
    return run


@pytest.mark.slow
def test_comparison_from_the_first_run_to_the_page(
    tmp_path, tiny, capsys, monkeypatch, fresh_gin
):
    params = [p for p in tiny.params() if "s_dir" not in p]
    params += ["run.teacher_cache = False", f"rooms.dir = {str(tmp_path / 'rooms')!r}"]
    of = SMALL._replace(
        methods=tuple(METHODS[name]._replace(seeds=2) for name in ("kd", "kd_mia")),
        tune=Rooms(12, 2, 1),
        test=Rooms(13, 3, 1),
        steps=3,
        budgets=(1,),
        confirmation=(2, 1),
        tuning_steps=3,
        trials=protocol.TRIALS[:1],
        params=tuple(params),
    )
    monkeypatch.setattr(command, "PROTOCOL", of)
    monkeypatch.setattr(training, "subprocess", _InThisProcess)
    build = functools.partial(_build_eagerly, worker._build)
    monkeypatch.setattr(worker, "_build", build)
    # Steps follow what steps cost, which is nothing to repeat.
    monkeypatch.setattr(worker.Cost, "total", lambda cost, steps: 1.5)
    docs = tmp_path / "docs"
    records = docs / "study" / "records"
    records.mkdir(parents=True)
    (docs / "results.md").write_text("# Results\n")

    def call(*words, model_dir="runs"):
        folders = [f"--model_dir={tmp_path / model_dir}", f"--records_dir={records}"]
        teachers = f"--teachers_dir={tiny.teachers}"
        words = ["--study=comparison", "--jobs=1", teachers, *folders, *words]
        result = run_tool("reproduce", *words, capsys=capsys)
        assert result.code == 0, result.err
        return result

    def contents():
        return {path.name: path.read_text() for path in records.iterdir()}

    # No time for a single run: nothing is begun.
    for hours in ("0.0001", "0"):
        assert "tune: 2 of 2 runs, about" in call(f"--hours={hours}").out
    assert not contents()
    found = call().out
    assert "tune" not in found.split("Left:")[1] and "--portion=final" in found
    assert len(contents()) == 3  # trials, the reference
    found = call("--portion=final").out
    assert "Left: nothing." in found
    before, made = contents(), (records.parent / "comparison.md").read_text()
    assert len(before) == 3 + 4 + 2 + 2  # and two long runs
    assert made.splitlines()[2].startswith("What each part is worth")
    assert " 8 of 8 runs of the comparison are done" in made
    results = (docs / "results.md").read_text(encoding="utf-8")
    assert results.startswith(
        "# Results\n\n## At equal cost\n\nWhat each part is worth"
    )
    for text in before.values():
        assert len(text) < 12000 and str(tmp_path) not in text

    # All is recorded: nothing is trained, and the page needs no run.
    monkeypatch.setattr(worker, "main", None)
    call()
    call("--portion=final")
    call("--report_only", model_dir="gone")
    assert contents() == before
    assert (records.parent / "comparison.md").read_text() == made

    # A record that is gone comes back from its run's folder; without, by training.
    name = "final-kd_mia-x1-seed1.json"
    (records / name).unlink()
    call("--portion=final")
    assert contents() == before
    monkeypatch.undo()
    monkeypatch.setattr(command, "PROTOCOL", of)
    monkeypatch.setattr(training, "subprocess", _InThisProcess)
    monkeypatch.setattr(worker, "_build", build)
    monkeypatch.setattr(worker.Cost, "total", lambda cost, steps: 1.5)
    (records / name).unlink()
    call("--portion=final", model_dir="elsewhere")
    again, old = (json.loads(text[name]) for text in (contents(), before))
    free = {"seconds": 0, "commit": None}
    assert {**again, **free} == {**old, **free}

    # The sums are those of the evaluation of any run.
    reference = json.loads(before["reference-test.json"])
    assert reference["rooms"] == [f"rooms/point_{i}" for i in range(3)]
    assert reference["pixels"][EDGES] == [16 * 16] * 3


# The beginning of a row of the README -> the row of the page it is from.
README_ROWS = {
    "the cycle /": "the whole method / KD + MIA",
    "the cycle, mended": "whole, mended / KD + MIA, mended",
    "KD + MIA / KD |": "KD + MIA / KD",
    "KD + MIA, mended / KD + MIA": "KD + MIA, mended / KD + MIA",
    "KD + MIA, mended / KD + hints (": "KD + MIA, mended / KD + hints",
    "KD + hints / the same": "KD + hints / multi-task from labels",
    "KD + hints, at five times": "KD + hints, budget 80",
    "median image": "median image",
}


def test_readme_has_the_numbers_of_the_comparison():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "study" / "comparison.md").read_text(encoding="utf-8")
    page = page[: page.index("## Tests")]
    for number in (r"(\d+) CPU seconds", r"(\d+\.\d) %"):
        assert re.search(number, readme)[1] == re.search(number, page)[1]
    section = readme[readme.index("## Results") : readme.index("## Documents")]
    decimal = r"\d+\.\d+"
    rows = re.findall(r"(?m)^\| (?!rmse)(.*)$", section)
    assert len(rows) == len(README_ROWS)
    for row, (beginning, title) in zip(rows, README_ROWS.items()):
        assert row.startswith(beginning)
        (line,) = re.findall(rf"(?m)^\| {re.escape(title)} +\|.*$", page)
        shown = [re.findall(decimal, cell) for cell in row.split(" | ")[1:]]
        found = [re.findall(decimal, cell) for cell in line.split("|")[2:-1]]
        assert [len(texts) for texts in shown] == [3, 1, 1]
        for texts, exact in zip(shown, found):
            for text, one in zip(texts, exact):
                half = 0.501 * 10 ** -len(text.split(".")[1])
                assert float(text) == pytest.approx(float(one), rel=0, abs=half)


def test_commit_of_a_record_is_the_checkouts_and_marks_changed_code(
    tmp_path, monkeypatch
):
    def git(*words):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(
            ["git", "-C", tmp_path, *who, *words],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    monkeypatch.setattr(study_records, "__file__", str(tmp_path / "tools" / "x.py"))
    of = study_records.commit.__wrapped__
    for name in ("tools", "docs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text("1")
    git("init", "-q")
    assert of() is None  # without any commit
    git("add", ".")
    git("commit", "-qm", "x")
    head = git("rev-parse", "HEAD")
    assert of() == head
    (tmp_path / "docs" / "x.py").write_text("2")
    (tmp_path / "new").write_text("2")
    assert of() == head
    (tmp_path / "tools" / "x.py").write_text("2")
    assert of() == f"{head}+"
