"""Every table and figure of the paper, and its open questions: what to train for each.

The paper's values are those of its printed tables; None where our copy of the paper
cannot be read or the paper has no number.
"""

import functools
from typing import Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from tools.studies.training import Setting, Training

DEPTH, EDGE2D = "depth_zbuffer", "edge_texture"
EDGE3D, NORMAL = "edge_occlusion", "normal"
SHORT = {DEPTH: "depth", EDGE2D: "edge2d", EDGE3D: "edge3d", NORMAL: "normal"}
PAIR = (DEPTH, EDGE2D)
THREE = (DEPTH, EDGE2D, NORMAL)
# Auxiliary teachers as in gin/paper/: named by Table 4 and Fig. 1 for two pairs only.
PAIRS = {
    PAIR: "['keypoints3d']",
    (DEPTH, NORMAL): "['edge_occlusion']",
    (DEPTH, EDGE3D): "'none'",
    (EDGE2D, NORMAL): "'none'",
    (EDGE2D, EDGE3D): "'none'",
    (EDGE3D, NORMAL): "'none'",
}
Column = Tuple[str, str]  # task, metric


class Scale(NamedTuple):
    """A size at which everything can be run.

    Attributes:
      files: gin files of all runs.
      steps: length of a run.
      single_student: bindings of a student of n-to-n, so that n of them have about
        the parameters of ours.
      ours: the gin file of the whole method; the paper's has the CGAN term.
      rates: of Fig. 5; the second is the files' own.
    """

    files: Sequence[str]
    steps: int
    single_student: Sequence[str]
    ours: str
    rates: Tuple[str, str]


class Row(NamedTuple):
    """A row of a table.

    Attributes:
      title: as the paper calls it.
      trainings: what to train; with several, each task is the one's that has it.
        Empty: the teachers.
      paper: column -> the paper's value.
      parameters: the paper's count, as it prints it.
    """

    title: str
    trainings: Sequence[Training]
    paper: Mapping[Column, Optional[float]] = {}
    parameters: str = ""


class Comparison(NamedTuple):
    """What a table is to show: one row better than another in these columns.

    Less is better in all of them.
    """

    better: str
    worse: str
    columns: Sequence[Column]


class Table(NamedTuple):
    """A table of runs.

    Attributes:
      title: of the table.
      columns: what is measured, against the truth.
      rows: of which the first may be the teachers.
      comparisons: what the paper claims of them, or the question at hand.
    """

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row]
    comparisons: Sequence[Comparison] = ()


class Study(NamedTuple):
    """A table or figure of the paper, or an open question.

    Attributes:
      name: as --study takes it.
      title: one line.
      text: what is compared, in a few sentences.
      tables: of runs.
      curves: rows whose losses and task weights are drawn over the steps.
      panels: rows whose students are shown beside their teachers.
      command: name of a further measurement: "parameters", "inference", "similarity",
        "unseen".
      small_only: whether it is a question for small runs, whose values it names.
    """

    name: str
    title: str
    text: str
    tables: Sequence[Table] = ()
    curves: Sequence[Row] = ()
    panels: Sequence[Row] = ()
    command: Optional[str] = None
    small_only: bool = False

    @property
    def trainings(self) -> List[Training]:
        """All that is to be trained, each once."""
        rows = [row for table in self.tables for row in table.rows]
        rows += [*self.curves, *self.panels]
        return list(dict.fromkeys(t for row in rows for t in row.trainings))


def _method(
    tasks: Sequence[str], method: str, *params: str, name: str = "", share: float = 1.0
) -> Training:
    """A run of gin/methods/<method>.gin."""
    return Training(
        "-".join(SHORT[task] for task in tasks) + f"/{name or method}",
        tuple(tasks),
        (f"gin/methods/{method}.gin",),
        tuple(params),
        share,
    )


def _soka(
    scale: Scale, tasks: Sequence[str] = PAIR, *params: str, name: str = "soka"
) -> Training:
    """The whole method; with the pair's auxiliary teacher unless bound."""
    if not any(param.startswith("auxiliary") for param in params):
        params = (f"auxiliary = {PAIRS.get(tuple(tasks), repr('none'))}", *params)
    return _method(tasks, scale.ours, *params, name=name)


def _values(columns: Sequence[Column], *values: Optional[float]) -> Dict[Column, float]:
    if len(columns) != len(values):
        raise ValueError(f"{len(columns)} columns, {len(values)} values: {values}.")
    return dict(zip(columns, values))


def _of(task: str, *metrics: str) -> List[Column]:
    return [(task, metric) for metric in metrics]


_NEW_BATCH = "schedule.new_batch_in_collaboration = True"
_RMSES = [(task, "rmse") for task in PAIR]


def define(scale: Scale) -> Dict[str, Study]:
    """Returns name -> study, in the order of the paper, open questions last."""
    studies = [
        _table1(scale),
        _table2(),
        _table3(scale),
        _table4(scale),
        _table5(scale),
        _supp1(scale),
        _supp2(scale),
        _supp3(),
        _figure1(),
        *_panels(scale),
        *_curves(scale),
        *(study._replace(small_only=True) for study in _open_questions(scale)),
    ]
    return {study.name: study for study in studies}


def setting(scale: Scale, steps: Optional[int], params: Sequence[str]) -> Setting:
    """What all runs of a scale share."""
    return Setting(tuple(scale.files), steps or scale.steps, tuple(params))


def _table1(scale: Scale) -> Study:
    ratio = ("rmse", "delta1", "delta2")
    depth = _of(DEPTH, "rmse", "rel", "delta1")
    printed = {
        DEPTH: (
            depth,
            (10.22, 1.57, 0.6687),
            {
                PAIR: (10.21, 1.22, 0.6581),
                (DEPTH, NORMAL): (10.32, 1.32, 0.4656),
                (DEPTH, EDGE3D): (10.21, 1.25, 0.5841),
            },
        ),
        NORMAL: (
            _of(NORMAL, *ratio),
            (7.52, 0.6767, 0.7943),
            {
                (DEPTH, NORMAL): (7.56, 0.6400, 0.7283),
                (EDGE2D, NORMAL): (7.51, 0.6587, 0.7845),
                (EDGE3D, NORMAL): (7.57, 0.6323, 0.7215),
            },
        ),
        EDGE2D: (
            _of(EDGE2D, *ratio),
            (6.07, 0.4841, 0.7256),
            {
                PAIR: (6.40, 0.4586, 0.7112),
                (EDGE2D, NORMAL): (6.51, 0.4508, 0.6997),
                (EDGE2D, EDGE3D): (6.06, 0.4774, 0.7231),
            },
        ),
        EDGE3D: (
            _of(EDGE3D, *ratio),
            (6.11, 0.4840, 0.7056),
            {
                (DEPTH, EDGE3D): (6.12, 0.4706, 0.6988),
                (EDGE3D, NORMAL): (6.43, 0.3913, 0.6731),
                (EDGE2D, EDGE3D): (6.09, 0.4763, 0.7159),
            },
        ),
    }
    tables = []
    for task, (columns, teacher, students) in printed.items():
        rows = [Row("teacher", (), _values(columns, *teacher))]
        for pair, values in students.items():
            title = "-".join(SHORT[t] for t in pair)
            rows.append(Row(title, (_soka(scale, pair),), _values(columns, *values)))
        tables.append(Table(SHORT[task], columns, rows))
    return Study(
        "table1",
        "Table 1: students of six pairs of tasks against their teachers",
        "Every student has a decoder for each task of its pair; each table shows one "
        "task, for the teacher and for the students that have it.",
        tables,
    )


def _table2() -> Study:
    return Study(
        "table2",
        "Table 2: parameters of the teachers, the student and the MTL network",
        "Counted at full size. The paper counts a training checkpoint; "
        "docs/parameters.md has the arithmetic.",
        command="parameters",
    )


_TABLE3 = [
    *_of(DEPTH, "rmse", "rel", "delta1"),
    *_of(EDGE2D, "rmse", "delta1", "delta2", "delta3"),
]


def _table3(scale: Scale) -> Study:
    rows = [
        Row("teacher", ()),
        Row(
            "dMTL",
            (_method(PAIR, "dmtl"),),
            _values(_TABLE3, None, None, 0.4953, None, None, 0.3763, 0.5037),
        ),
        Row(
            "dMTL + GradNorm",
            (_method(PAIR, "dmtl_gradnorm"),),
            _values(_TABLE3, 10.23, 1.22, 0.5581, 7.48, 0.4191, 0.5270, 0.6402),
        ),
        Row(
            "ours",
            (_soka(scale),),
            _values(_TABLE3, 10.21, 1.22, 0.6176, 6.40, 0.4586, 0.7112, 0.7855),
        ),
    ]
    return Study(
        "table3",
        "Table 3: SOKA, without labels, against learning from labels",
        "dMTL trains the same student on ground truth of the same images. Four of the "
        "paper's numbers of dMTL are not legible in the copy that we have.",
        [
            Table(
                "depth and 2D edges",
                _TABLE3,
                rows,
                [
                    Comparison("ours", "dMTL", _RMSES),
                    Comparison("ours", "dMTL + GradNorm", _RMSES),
                ],
            )
        ],
    )


def _table4(scale: Scale) -> Study:
    none = _soka(scale, PAIR, "auxiliary = 'none'", name="soka_no_auxiliary")
    weak = _soka(
        scale, PAIR, "auxiliary = ['vanishing_point']", name="soka_vanishing_point"
    )
    rows = [
        Row(
            "teacher",
            (),
            _values(_TABLE3, 10.22, 1.57, 0.6687, 6.07, 0.4841, 0.7256, 0.8148),
        ),
        Row(
            "w/o auxiliary",
            (none,),
            _values(_TABLE3, 10.26, 1.23, 0.4953, 7.83, 0.4002, 0.5295, 0.6132),
        ),
        Row(
            "vanishing point",
            (weak,),
            _values(_TABLE3, 10.42, 1.23, 0.4737, 8.86, 0.2144, 0.3227, 0.5159),
        ),
        Row(
            "keypoint3d",
            (_soka(scale),),
            _values(_TABLE3, 10.21, 1.22, 0.6176, 6.70, 0.4586, 0.7112, 0.7981),
        ),
    ]
    return Study(
        "table4",
        "Table 4: without an auxiliary teacher, with a weak and with a strong one",
        "The caption speaks of normals, the columns of 2D edges; the last row is "
        "Table 5's but for two numbers, so that we take the columns' word.",
        [
            Table(
                "depth and 2D edges",
                _TABLE3,
                rows,
                [
                    Comparison("keypoint3d", "w/o auxiliary", _RMSES),
                    Comparison("keypoint3d", "vanishing point", _RMSES),
                    Comparison("w/o auxiliary", "vanishing point", _RMSES),
                ],
            )
        ],
    )


_TABLE5 = [
    *_of(DEPTH, "rmse", "rel"),
    *_of(EDGE2D, "rmse", "delta1", "delta2", "delta3"),
]


def _ablation(scale: Scale) -> List[Row]:
    return [
        Row("teacher", ()),
        Row(
            "KD",
            (_method(PAIR, "kd"),),
            _values(_TABLE5, 10.26, 1.23, 7.83, 0.2002, 0.3905, 0.5295),
        ),
        Row(
            "KD + MIA",
            (_method(PAIR, "kd_mia"),),
            _values(_TABLE5, 10.22, 1.25, 6.91, 0.3102, 0.5216, 0.7690),
        ),
        Row(
            "KD + MIA + ACCT",
            (_soka(scale),),
            _values(_TABLE5, 10.21, 1.22, 6.40, 0.4586, 0.7112, 0.7855),
        ),
    ]


def _table5(scale: Scale) -> Study:
    return Study(
        "table5",
        "Table 5: what each part of the method adds",
        "KD: soft targets only. KD + MIA: and the amalgamated features, encoder and "
        "decoders together. KD + MIA + ACCT: the whole method, in cycles. All of the "
        "same number of steps; the study 'compute' compares at equal cost. At "
        "--scale=full the whole method has the supplement's CGAN term, too.",
        [
            Table(
                "depth and 2D edges",
                _TABLE5,
                _ablation(scale),
                [
                    Comparison("KD + MIA", "KD", _RMSES),
                    Comparison("KD + MIA + ACCT", "KD + MIA", _RMSES),
                ],
            )
        ],
    )


_SUPP1 = [
    *_of(DEPTH, "rmse", "rel", "delta1"),
    *_of(EDGE2D, "rmse", "delta1"),
    *_of(NORMAL, "rmse", "delta1", "delta2"),
]


def _supp1(scale: Scale) -> Study:
    rows = [
        Row(
            "teachers",
            (),
            _values(_SUPP1, 10.22, 1.57, 0.6687, 6.07, 0.4841, 7.52, 0.6767, 0.7943),
            "360.27M",
        ),
        Row(
            "KD",
            (_method(THREE, "kd"),),
            _values(_SUPP1, 10.41, 1.36, 0.4548, 8.27, 0.2453, 9.68, 0.4527, 0.6178),
            "221.96M",
        ),
        Row(
            "ours",
            (_soka(scale, THREE),),
            _values(_SUPP1, 10.20, 1.25, 0.5543, 6.78, 0.4436, 7.81, 0.6213, 0.7832),
            "221.96M",
        ),
    ]
    return Study(
        "supp1",
        "Supplement, Table 1: three tasks in one student",
        "Depth, 2D edges and surface normals; no auxiliary teacher, for the paper "
        "names none.",
        [
            Table(
                "depth, 2D edges, normals",
                _SUPP1,
                rows,
                [Comparison("ours", "KD", [(task, "rmse") for task in THREE])],
            )
        ],
    )


def _supp2(scale: Scale) -> Study:
    depth, edges = _of(DEPTH, "rmse", "rel"), _of(EDGE2D, "rmse", "delta1")
    two = [*depth, *edges]
    three = [*two, *_of(NORMAL, "rmse", "delta1", "delta2")]
    single = {task: _method([task], "n_to_n", *scale.single_student) for task in THREE}
    return Study(
        "supp2",
        "Supplement, Table 2: one student of n tasks against n students of one",
        "The n students of n-to-n are distilled from one teacher each (KD). Together "
        "they have about the parameters of our one student of two tasks, and more than "
        "that of three, as in the paper.",
        [
            Table(
                "two tasks",
                two,
                [
                    Row(
                        "KD 2-to-2",
                        (single[DEPTH], single[EDGE2D]),
                        _values(two, 10.38, 1.47, 7.24, 0.2700),
                        "177.74M",
                    ),
                    Row(
                        "ours 2-to-1",
                        (_soka(scale),),
                        _values(two, 10.21, 1.22, 6.40, 0.4586),
                        "175.75M",
                    ),
                ],
                [Comparison("ours 2-to-1", "KD 2-to-2", _RMSES)],
            ),
            Table(
                "three tasks",
                three,
                [
                    Row(
                        "KD 3-to-3",
                        tuple(single.values()),
                        _values(three, 10.38, 1.47, 7.24, 0.2700, 8.41, 0.5829, 0.7296),
                        "266.61M",
                    ),
                    Row(
                        "ours 3-to-1",
                        (_soka(scale, THREE),),
                        _values(three, 10.20, 1.25, 6.78, 0.4436, 7.81, 0.6213, 0.7832),
                        "221.96M",
                    ),
                ],
                [
                    Comparison(
                        "ours 3-to-1", "KD 3-to-3", [(task, "rmse") for task in THREE]
                    )
                ],
            ),
        ],
    )


def _supp3() -> Study:
    return Study(
        "supp3",
        "Supplement, Table 3: time to predict",
        "Networks with random weights, in float32, as Keras runs them, all on the same "
        "images in turns. The paper's seconds are of an unnamed number of images: only "
        "ratios can be compared.",
        command="inference",
    )


def _figure1() -> Study:
    return Study(
        "fig1",
        "Supplement, Fig. 1: similarity of the tasks by RSA",
        "Spearman's correlation of the teachers' representation dissimilarity "
        "matrices.",
        command="similarity",
    )


def _panels(scale: Scale) -> List[Study]:
    pair, normals = _soka(scale), _soka(scale, (DEPTH, NORMAL))
    return [
        Study(
            "fig2",
            "Supplement, Fig. 2: one student of three tasks, beside its teachers",
            "Validation images that are always the same; seed 0.",
            panels=[Row("depth, 2D edges, normals", (_soka(scale, THREE),))],
        ),
        Study(
            "fig4",
            "Fig. 4: students of two tasks, beside their teachers",
            "Validation images that are always the same; seed 0.",
            panels=[
                Row("depth and 2D edges", (pair,)),
                Row("depth and normals", (normals,)),
            ],
        ),
    ]


def _rate(scale: Scale, rate: str) -> Training:
    return _soka(
        scale,
        PAIR,
        f"build_optimizers.task_weights_rate = {rate}",
        name=f"soka_rate_{rate}",
    )


def _curves(scale: Scale) -> List[Study]:
    fast, own = scale.rates
    rates = [
        Row(f"rate {fast}", (_rate(scale, fast),)),
        Row(f"rate {own}", (_soka(scale),)),
    ]
    return [
        Study(
            "fig3",
            "Supplement, Fig. 3: losses and task weights of three tasks",
            "Means over the seeds, with the range from the least to the largest.",
            curves=[Row("depth, 2D edges, normals", (_soka(scale, THREE),))],
        ),
        Study(
            "fig5",
            "Fig. 5: losses and task weights for two rates of the task weights",
            "The paper's rates are 1e-3 and 1e-4, in runs of 600 000 steps; short runs "
            "need larger ones for their weights to move.",
            [Table("depth and 2D edges", _RMSES, rates)],
            curves=rates,
        ),
    ]


def _question(
    scale: Scale,
    name: str,
    title: str,
    text: str,
    default: str,
    variants: Mapping[str, Training],
) -> Study:
    """A comparison of the whole method, as bound, with other choices."""
    rows = [Row("teacher", ()), Row(f"{default} (default)", (_soka(scale),))]
    rows += [Row(title, (training,)) for title, training in variants.items()]
    return Study(
        name,
        title,
        text,
        [
            Table(
                "depth and 2D edges",
                _RMSES,
                rows,
                [Comparison(rows[1].title, other, _RMSES) for other in variants],
            )
        ],
    )


def _compute(scale: Scale) -> Study:
    """The ablation where all cost the same, as nearly as can be said."""
    ours, two_batches = "KD + MIA + ACCT", "KD + MIA + ACCT, two batches"
    new_batch = _soka(scale, PAIR, _NEW_BATCH, name="soka_new_batch")
    rows = [row._replace(paper={}) for row in _ablation(scale)]
    rows.append(Row(two_batches, (new_batch,)))
    longer = {
        f"{title}, {share:g} times the steps": _method(
            PAIR, method, name=name, share=share
        )
        for title, method, name, share in (
            ("KD", "kd", "kd_longer", 1.6),
            ("KD + MIA", "kd_mia", "kd_mia_longer", 1.1),
            ("KD + MIA", "kd_mia", "kd_mia_equal", 1.3),
        )
    }
    rows += [Row(title, (training,)) for title, training in longer.items()]
    comparisons = [
        Comparison("KD + MIA", "KD", _RMSES),
        Comparison(ours, "KD + MIA", _RMSES),
        *(Comparison(ours, title, _RMSES) for title in longer),
        Comparison(two_batches, list(longer)[-1], _RMSES),
    ]
    return Study(
        "compute",
        "Steps-matched and compute-matched",
        "A cycle costs more than a joint step on the same losses: 1.2 times at full "
        "size, teachers included (`python tools/benchmark.py cycle --scale=full`), and "
        "1.3 times in these networks, teachers' answers given (`python "
        "tools/benchmark.py methods`, both in docs/performance.md). So KD and KD + MIA "
        "are given more steps, to bracket equal cost. The last column of the second "
        "table is no measure of that: it is what the runs took beside whatever else "
        "the machine did. Two batches: competition and collaboration see different "
        "images, twice as many in a cycle.",
        [Table("depth and 2D edges", _RMSES, rows, comparisons)],
    )


def _long_runs(scale: Scale) -> Study:
    """How near students come to their teachers, with more time or lent weights."""
    lent = (
        "initialize_student.encoder = 'edge_texture'",
        "initialize_student.decoders = True",
        "build_optimizers.learning_rate = 0.002",
        # Features are lent already: what is left to learn is in the answers, and in
        # BatchNorm's moving statistics, with which the teachers ended.
        "objective.soft_weight = 0.2",
        "schedule.settle_share = 0.6",
    )
    auxiliary = f"auxiliary = {PAIRS[PAIR]}"
    rows = [Row("teacher", ()), Row("KD + MIA + ACCT", (_soka(scale),))]
    rows += [
        Row(
            f"{title}, {share} times the steps",
            (_method(PAIR, "soka", auxiliary, *params, name=name, share=share),),
        )
        for title, name, share, params in (
            ("random start", "soka_long", 4, ()),
            ("started from teachers", "soka_lent", 10, lent),
        )
    ]
    comparisons = [Comparison(row.title, "teacher", _RMSES) for row in rows[1:]]
    return Study(
        "long",
        "Longer runs, and a start from the teachers",
        "The whole method for longer than the other studies have time for: from random "
        "weights, as in the paper's Step 1, and from teachers, encoder and decoders. "
        f"The second differs in more than its start: `{'`, `'.join(lent)}`. They "
        "are the best of three sets that were tried, with a seed or two: 1500 steps "
        "with rate 0.003, the usual soft_weight and settle_share, and 3000 steps with "
        "soft_weight 0.4, came less near in 2D edges.",
        [Table("depth and 2D edges", _RMSES, rows, comparisons)],
        command="unseen",
    )


def _open_questions(scale: Scale) -> List[Study]:
    return [
        _compute(scale),
        _long_runs(scale),
        *_questions_of_amalgamation(scale),
        *_questions_of_weights(scale),
        *_questions_of_training(scale),
    ]


def _variant(scale: Scale, name: str, *params: str) -> Training:
    """The whole method with one thing changed."""
    return _soka(scale, PAIR, *params, name=f"soka_{name}")


def _questions_of_amalgamation(scale: Scale) -> List[Study]:
    soka = functools.partial(_variant, scale)

    def variant(name: str) -> Training:
        return soka(f"mia_{name}", f"build_amalgamation.variant = {name!r}")

    return [
        _question(
            scale,
            "mia",
            "Which amalgamation",
            "`build_amalgamation.variant`: Eq. 3 as printed, on L2-normalised "
            "activations, on their outer products, or with sigma learnt by "
            "reconstruction; and none, with the cycles kept.",
            "reconstruction",
            {
                "literal": variant("literal"),
                "normalized": variant("normalized"),
                "outer_product": variant("outer_product"),
                "none": soka(
                    "mia_none",
                    "auxiliary = 'none'",
                    "build_amalgamation.variant = None",
                ),
            },
        ),
        _question(
            scale,
            "joint_start",
            "The joint start with the amalgamated features or without",
            "`schedule.joint_amalgamation`. Step 2 names inputs and predictions "
            "only; its loss is then ten times that of Eq. 8, and Adam's second "
            "moments make the encoder's steps small for as long as they remember it.",
            "with",
            {
                "soft targets only": soka(
                    "joint_soft", "schedule.joint_amalgamation = False"
                )
            },
        ),
    ]


def _questions_of_weights(scale: Scale) -> List[Study]:
    soka = functools.partial(_variant, scale)
    return [
        _question(
            scale,
            "collaboration",
            "Collaboration loss weighted or not",
            "`objective.weighted_collaboration`: whether omega_i multiplies L_i in "
            "Eq. 8, which as printed has none.",
            "not weighted",
            {
                "weighted": soka("weighted", "objective.weighted_collaboration = True"),
                "weighted, alpha 3": soka(
                    "weighted_alpha_3",
                    "objective.weighted_collaboration = True",
                    "GradNorm.alpha = 3.0",
                ),
            },
        ),
        _question(
            scale,
            "gradnorm_alpha",
            "GradNorm's exponent, and fixed weights",
            "`GradNorm.alpha` of Eq. 7, and `GradNorm.adaptive = False`: "
            "weights of 1 / n throughout.",
            "alpha 1.5",
            {
                "alpha 0.5": soka("alpha_0.5", "GradNorm.alpha = 0.5"),
                "alpha 3": soka("alpha_3", "GradNorm.alpha = 3.0"),
                "fixed weights": soka("fixed", "GradNorm.adaptive = False"),
            },
        ),
        _question(
            scale,
            "gradnorm_rate",
            "Learning rate of the task weights",
            "`build_optimizers.task_weights_rate` (Adam).",
            "0.001",
            {"0.005": _rate(scale, "0.005"), "0.01": _rate(scale, "0.01")},
        ),
        _question(
            scale,
            "gradnorm_w",
            "What GradNorm's W is",
            "`GradNorm.layer`: the kernel of the last shared layer, or the "
            "shared representation itself.",
            "last shared layer",
            {
                "representation": soka(
                    "w_representation", "GradNorm.layer = 'representation'"
                )
            },
        ),
    ]


def _questions_of_training(scale: Scale) -> List[Study]:
    soka = functools.partial(_variant, scale)
    return [
        _question(
            scale,
            "batch",
            "Same batch or a new one for the collaboration",
            "`schedule.new_batch_in_collaboration`: whether collaboration and "
            "weighting see other images than the competition.",
            "same batch",
            {"new batch": soka("new_batch", _NEW_BATCH)},
        ),
        _question(
            scale,
            "batch_norm",
            "BatchNorm: of frozen parts, and at the end",
            "`schedule.frozen_statistics`: with which statistics a frozen part "
            "normalises. `schedule.settle_share`: for which share of the steps, at "
            "the end, moving statistics are used by all.",
            "batch's, settling",
            {
                "moving ones": soka(
                    "frozen_moving", "schedule.frozen_statistics = 'moving'"
                ),
                "no settling": soka("no_settling", "schedule.settle_share = 0.0"),
            },
        ),
        _question(
            scale,
            "cgan",
            "With the adversarial term or without",
            "`build_adversary.enabled`, from half of the steps on.",
            "without",
            {
                "with": _method(
                    PAIR,
                    "soka_gan",
                    f"auxiliary = {PAIRS[PAIR]}",
                    f"Adversary.start_step = {scale.steps // 2}",
                )
            },
        ),
        _question(
            scale,
            "soft_loss",
            "Squared or absolute soft loss",
            "`objective.soft_loss`: Eq. 5 squares.",
            "l1",
            {"l2": soka("l2", "objective.soft_loss = 'l2'")},
        ),
    ]
