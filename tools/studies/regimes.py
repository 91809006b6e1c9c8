"""Where parts of the method could matter: their factorial, and tasks in conflict."""

import itertools
from typing import Dict, List, Mapping, Sequence, Tuple

from tools.studies.methods import (
    CLASSES,
    DEPTH,
    EDGE2D,
    NORMAL,
    PAIR,
    PAIRS,
    RMSES,
    TITLE,
    Scale,
    ablation,
    method_run,
    soka_run,
)
from tools.studies.study import Column, Row, Study, Table

UNLIKE = (DEPTH, EDGE2D, NORMAL, CLASSES)
_HALF_AS_WIDE = ("Encoder.width = 0.0625",)
_REGIMES: Mapping[str, Tuple[Sequence[str], Sequence[str]]] = {
    TITLE: (PAIR, ()),
    f"{TITLE}, encoder half as wide": (PAIR, _HALF_AS_WIDE),
    "four unlike tasks": (UNLIKE, ()),
    "four unlike tasks, encoder half as wide": (UNLIKE, _HALF_AS_WIDE),
}
EQUAL = "equal weights"
# All weigh the encoder's losses, not only those of the decoders.
_RULES: Mapping[str, Sequence[str]] = {
    EQUAL: ("GradNorm.adaptive = False",),
    "GradNorm": ("objective.weighted_collaboration = True",),
    "uncertainty": (
        "build_balancing.rule = @Uncertainty",
        "build_optimizers.task_weights_rate = 0.01",
    ),
    "UPGrad": ("build_balancing.rule = @UPGrad",),
}


def define_regimes(scale: Scale) -> List[Study]:
    """Both studies, for small runs."""
    return [_factorial(scale), _conflict()]


def _factorial(scale: Scale) -> Study:
    orders: Dict[str, Sequence[str]] = {
        "joint": ("schedule.joint_steps = %max_steps",),
        "simultaneous": ("schedule.order = 'simultaneous'",),
        "alternating": ("schedule.order = 'alternating'",),
    }
    features: Dict[str, Sequence[str]] = {
        "no MIA": ("auxiliary = 'none'", "build_amalgamation.variant = None"),
        "MIA": (f"auxiliary = {PAIRS[PAIR]}",),
    }
    fixed, joint = _cell("MIA", "joint", False), _cell("no MIA", "joint", False)
    table5 = ablation(scale)
    shared = {
        joint: table5["KD"],
        fixed: table5["KD + MIA"],
        _cell("MIA", "alternating", True): table5["KD + MIA + ACCT"],
    }
    rows = [Row("teacher")]
    for mia, order, adaptive in itertools.product(features, orders, (False, True)):
        weights = [f"GradNorm.adaptive = {adaptive}"]
        if order == "joint":
            weights.append(f"schedule.joint_weighting = {adaptive}")
        title = _cell(mia, order, adaptive)
        name = "factorial_" + title.replace(", ", "_").replace(" ", "_")
        params = (*features[mia], *orders[order], *weights)
        run = (soka_run(scale, PAIR, *params, name=name),)
        rows.append(Row(title, shared.get(title, run)))
    comparisons = [(fixed, joint)]
    comparisons += [(_cell("MIA", o, False), fixed) for o in list(orders)[1:]]
    comparisons += [(_cell("MIA", o, True), _cell("MIA", o, False)) for o in orders]
    return Study(
        "factorial",
        "Amalgamation, order of the phases and task weights, each with each",
        "`build_amalgamation.variant` and the auxiliary teacher; joint steps "
        "(`schedule.joint_steps`) or cycles (`schedule.order`); weights of 1 / n or "
        "GradNorm's (`GradNorm.adaptive`). In cycles the weights enter the decoders' "
        "losses, as printed, in joint steps those of all players "
        "(`schedule.joint_weighting`). All cells have the same steps; the last column "
        "is what they took in one sitting, to be compared within this page only.",
        [Table(TITLE, RMSES, rows, comparisons)],
    )


def _cell(mia: str, order: str, adaptive: bool) -> str:
    return f"{mia}, {order}, {'adaptive' if adaptive else 'fixed'}"


def _conflict() -> Study:
    tables = []
    for number, (title, (tasks, params)) in enumerate(_REGIMES.items()):
        rows = [Row("teacher")]
        for rule, bound in _RULES.items():
            name = f"regime_{number}_{rule.replace(' ', '_').lower()}"
            run = method_run(
                tasks,
                "soka_mended",
                "auxiliary = 'none'",
                "run.conflict_every_steps = 25",
                *(*params, *bound),
                name=name,
            )
            rows.append(Row(rule, (run,)))
        comparisons = [(rule, EQUAL) for rule in list(_RULES)[1:]]
        tables.append(Table(title, [_column(t) for t in tasks], rows, comparisons))
    return Study(
        "conflict",
        "Tasks whose pulls conflict: does balancing pay?",
        "Two tasks and four, the fourth of classes with a loss of another kind, with "
        "the encoder of all studies and with one half as wide; gin/methods/"
        "soka_mended.gin, so that nothing but the rule differs: weights of 1 / n, "
        "GradNorm and learnt uncertainty that weigh the encoder's losses, too, and "
        "UPGrad.",
        tables,
        command="conflict",
    )


def _column(task: str) -> Column:
    return (task, "accuracy" if task == CLASSES else "rmse")
