"""Every table and figure of the paper, and its open questions: what to train for each.

The paper's values are in `tools.studies.paper`.
"""

from typing import Dict, List, Mapping, Optional, Sequence, Tuple

from tools.studies import paper
from tools.studies.methods import (
    DEPTH,
    NORMAL,
    PAIR,
    PAIRS,
    RMSES,
    THREE,
    TITLE,
    Scale,
    ablation,
    method_run,
    rate_run,
    short_name,
    soka_run,
    variant_run,
)
from tools.studies.questions import define_questions
from tools.studies.regimes import define_regimes
from tools.studies.study import Column, Row, Study, Table
from tools.studies.training import Setting, Training


def define(scale: Scale) -> Dict[str, Study]:
    """Returns name -> study, in the order of the paper, open questions last."""
    studies = [
        _table1(scale),
        Study(
            "table2",
            "Table 2: parameters of the teachers, the student and the MTL network",
            "Counted at full size. The paper counts a training checkpoint; "
            "docs/parameters.md has the arithmetic.",
            command="parameters",
        ),
        *_methods(scale),
        _supplement2(scale),
        *_measurements_and_figures(scale),
        *define_questions(scale),
        *(study._replace(small_only=True) for study in define_regimes(scale)),
    ]
    return {study.name: study for study in studies}


def setting(scale: Scale, steps: Optional[int], params: Sequence[str]) -> Setting:
    """What all runs of a scale share."""
    return Setting(tuple(scale.files), steps or scale.steps, tuple(params))


def _table(
    title: str,
    printed: str,
    trainings: Mapping[str, Sequence[Training]],
    comparisons: Sequence[Tuple[str, str]] = (),
) -> Table:
    """A table of the paper: its printed values, and what is trained for each row."""
    (_, *head), *lines = (line.split("|") for line in printed.strip().splitlines())
    columns: List[Column] = []
    for task, *metrics in map(str.split, head):
        columns += [(task, metric) for metric in metrics]
    values, parameters = {}, {}
    for row, *cells in lines:
        words = " ".join(cells[: len(head)]).split()
        numbers = [None if word == "-" else float(word) for word in words]
        values[row.strip()] = dict(zip(columns, numbers))
        parameters[row.strip()] = "".join(cells[len(head) :]).strip()
    rows = [
        Row(row, runs, values.get(row, {}), parameters.get(row, ""))
        for row, runs in trainings.items()
    ]
    return Table(title, columns, rows, comparisons)


def _table1(scale: Scale) -> Study:
    pairs = {short_name(pair): (soka_run(scale, pair),) for pair in PAIRS}
    tables = []
    for task, printed in paper.TABLE1.items():
        titles = [line.split("|")[0].strip() for line in printed.splitlines()[2:]]
        rows = {title: pairs.get(title, ()) for title in titles}
        tables.append(_table(task, printed, rows))
    return Study(
        "table1",
        "Table 1: students of six pairs of tasks against their teachers",
        "Every student has a decoder for each task of its pair; each table shows one "
        "task, for the teacher and for the students that have it.",
        tables,
    )


def _methods(scale: Scale) -> List[Study]:
    """Tables 3 to 5, and the supplement's Table 1: methods against each other."""
    dmtl = {
        "dMTL": (method_run(PAIR, "dmtl"),),
        "dMTL + GradNorm": (method_run(PAIR, "dmtl_gradnorm"),),
    }
    weak = variant_run(scale, "vanishing_point", "auxiliary = ['vanishing_point']")
    auxiliaries = {
        "w/o auxiliary": (variant_run(scale, "no_auxiliary", "auxiliary = 'none'"),),
        "vanishing point": (weak,),
        "keypoint3d": (soka_run(scale),),
    }
    three = {
        "teachers": (),
        "KD": (method_run(THREE, "kd"),),
        "ours": (soka_run(scale, THREE),),
    }
    table3 = {"teacher": (), **dmtl, "ours": (soka_run(scale),)}
    tables = {
        "table3": _table(TITLE, paper.TABLE3, table3, [("ours", row) for row in dmtl]),
        "table4": _table(
            TITLE,
            paper.TABLE4,
            {"teacher": (), **auxiliaries},
            [
                ("keypoint3d", "w/o auxiliary"),
                ("keypoint3d", "vanishing point"),
                ("w/o auxiliary", "vanishing point"),
            ],
        ),
        "table5": _table(
            TITLE,
            paper.TABLE5,
            ablation(scale),
            [("KD + MIA", "KD"), ("KD + MIA + ACCT", "KD + MIA")],
        ),
        "supp1": _table(
            "depth, 2D edges, normals", paper.SUPP1, three, [("ours", "KD")]
        ),
    }
    return [Study(name, *_METHODS[name], [table]) for name, table in tables.items()]


# Study -> title and text.
_METHODS = {
    "table3": (
        "Table 3: SOKA, without labels, against learning from labels",
        "dMTL trains the same student on ground truth of the same images. Four of the "
        "paper's numbers of dMTL are not legible in the copy that we have.",
    ),
    "table4": (
        "Table 4: without an auxiliary teacher, with a weak and with a strong one",
        "The caption speaks of normals, the columns of 2D edges; the last row is "
        "Table 5's but for two numbers, so that we take the columns' word.",
    ),
    "table5": (
        "Table 5: what each part of the method adds",
        "KD: soft targets only. KD + MIA: and the amalgamated features, encoder and "
        "decoders together. KD + MIA + ACCT: the whole method, in cycles. All have the "
        "same number of steps; docs/study/comparison.md compares them at equal cost. "
        "At --scale=full the whole method has the supplement's CGAN term, too.",
    ),
    "supp1": (
        "Supplement, Table 1: three tasks in one student",
        "Depth, 2D edges and surface normals; no auxiliary teacher, for the paper "
        "names none.",
    ),
}


def _supplement2(scale: Scale) -> Study:
    tables = []
    for tasks, (title, printed) in zip((PAIR, THREE), paper.SUPP2.items()):
        single = tuple(method_run([t], "n_to_n", *scale.single_student) for t in tasks)
        ours, kd = f"ours {len(tasks)}-to-1", f"KD {len(tasks)}-to-{len(tasks)}"
        runs = {kd: single, ours: (soka_run(scale, tasks),)}
        tables.append(_table(title, printed, runs, [(ours, kd)]))
    return Study(
        "supp2",
        "Supplement, Table 2: one student of n tasks against n students of one",
        "The n students of n-to-n are distilled from one teacher each (KD). Together "
        "they have about the parameters of our one student of two tasks, and more than "
        "that of three, as in the paper.",
        tables,
    )


def _measurements_and_figures(scale: Scale) -> List[Study]:
    pair, three = (soka_run(scale),), (soka_run(scale, THREE),)
    fast, own = scale.rates
    rates = [Row(f"rate {fast}", (rate_run(scale, fast),)), Row(f"rate {own}", pair)]
    return [
        Study(
            "supp3",
            "Supplement, Table 3: time to predict",
            "Networks with random weights, in float32, as Keras runs them, all on the "
            "same images in turns. The paper's seconds are of an unnamed number of "
            "images: only ratios can be compared.",
            command="inference",
        ),
        Study(
            "fig1",
            "Supplement, Fig. 1: similarity of the tasks by RSA",
            "Spearman's correlation of the teachers' representation dissimilarity "
            "matrices.",
            command="similarity",
        ),
        Study(
            "fig2",
            "Supplement, Fig. 2: one student of three tasks, beside its teachers",
            "Validation images that are always the same; seed 0.",
            panels=[Row("depth, 2D edges, normals", three)],
        ),
        Study(
            "fig4",
            "Fig. 4: students of two tasks, beside their teachers",
            "Validation images that are always the same; seed 0.",
            panels=[
                Row(TITLE, pair),
                Row("depth and normals", (soka_run(scale, (DEPTH, NORMAL)),)),
            ],
        ),
        Study(
            "fig3",
            "Supplement, Fig. 3: losses and task weights of three tasks",
            "Means over the seeds, with the range from the least to the largest.",
            curves=[Row("depth, 2D edges, normals", three)],
        ),
        Study(
            "fig5",
            "Fig. 5: losses and task weights for two rates of the task weights",
            "The paper's rates are 1e-3 and 1e-4, in runs of 600 000 steps; short runs "
            "need larger ones for their weights to move.",
            [Table(TITLE, RMSES, rates)],
            curves=rates,
        ),
    ]
