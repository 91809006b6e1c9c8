"""What the paper leaves open: each choice of ours against others, in short runs."""

from typing import List, Mapping, NamedTuple, Optional, Sequence

from tools.studies.methods import (
    PAIR,
    PAIRS,
    RMSES,
    TITLE,
    Scale,
    method_run,
    soka_run,
    variant_run,
)
from tools.studies.study import Row, Study, Table
from tools.studies.training import Training

_SIMULTANEOUS = "schedule.order = 'simultaneous'"
_STANDARDIZED = "build_amalgamation.standardize = True"
_ADAPTED = "transfer.adapter = True"
_EQUAL_LAYERS = "transfer.layer_weights = 'equal'"
_GAN_START = "Adversary.start_step = {quarter}"
_LEARNING = (
    "build_optimizers.discriminator_optimizer = 'adam'",
    "build_optimizers.discriminator_rate = 1e-4",
)


def define_questions(scale: Scale) -> List[Study]:
    """The open questions, all for small runs."""
    studies = [_long_runs(scale), *(_question(scale, q) for q in _QUESTIONS)]
    return [study._replace(small_only=True) for study in studies]


def _long_runs(scale: Scale) -> Study:
    """How near students come to teachers: more steps, or the teachers' weights."""
    lent = (
        "Encoder.width = 0.25",  # the teachers'
        "initialize_student.encoder = 'edge_texture'",
        "initialize_student.decoders = True",
        "build_optimizers.learning_rate = 0.002",
        # The features are the teachers' from the start: what is left to learn is in the
        # predictions, and in BatchNorm's moving statistics.
        "objective.soft_weight = 0.2",
        "schedule.settle_share = 0.6",
    )
    many_images = (  # of the comparison, as are the settings: its choice
        *("rooms.seed = 11", "rooms.count = 1000", "rooms.train_views = 20"),
        "build_optimizers.learning_rate = 0.007325",
        *("objective.soft_weight = 0.05118", "schedule.settle_share = 0.1696"),
    )
    auxiliary = f"auxiliary = {PAIRS[PAIR]}"
    rows = [Row("teacher"), Row("KD + MIA + ACCT", (soka_run(scale),))]
    rows += [
        Row(
            f"{title}, {share} times the steps",
            (method_run(PAIR, method, auxiliary, *params, name=name, share=share),),
        )
        for title, method, name, share, params in (
            ("random start", "soka", "soka_long", 2, ()),
            ("mended, 20 000 images", "soka_mended", "mended_long", 20, many_images),
            ("started from teachers", "soka", "soka_lent", 5, lent),
        )
    ]
    return Study(
        "long",
        "Longer runs, and a start from the teachers",
        "The whole method for longer than the other studies have time for: from random "
        "weights, as in the paper's Step 1, as it is and with what mends it, there "
        "with images and settings of docs/study/protocol.md; and from teachers, "
        "encoder and decoders, which differs in more than its start: "
        f"`{'`, `'.join(lent)}`.",
        [Table(TITLE, RMSES, rows, [(row.title, "teacher") for row in rows[1:]])],
        command="unseen",
    )


class _Question(NamedTuple):
    """The whole method as bound, its default, against variants of it.

    Attributes:
      name: of the study, as are title and text.
      title: one line.
      text: which bindings are varied.
      default: title of the method as bound.
      variants: title -> name of the runs, after "soka_", and bindings, in which
        "{quarter}" is a quarter of the scale's steps.
      method: gin file of the variants; None: the scale's.
      share: of the scale's steps, for all rows.
      others: title -> method of gin/methods/ that is a row, too.
      command: of the study.
    """

    name: str
    title: str
    text: str
    default: str
    variants: Mapping[str, Sequence[str]]
    method: Optional[str] = None
    share: float = 1.0
    others: Mapping[str, str] = {}
    command: Optional[str] = None


def _question(scale: Scale, question: _Question) -> Study:
    def row(title: str, training: Training) -> Row:
        if question.share != 1.0:
            longer = f"{training.name}_x{question.share:g}"
            training = training._replace(name=longer, steps_share=question.share)
        return Row(title, (training,))

    rows = [Row("teacher"), row(f"{question.default} (default)", soka_run(scale))]
    on_pair = scale._replace(ours=question.method or scale.ours)
    for title, (name, *params) in question.variants.items():
        bound = [param.format(quarter=scale.steps // 4) for param in params]
        rows.append(row(title, variant_run(on_pair, name, *bound)))
    for title, method in question.others.items():
        rows.append(row(title, method_run(PAIR, method)))
    comparisons = [(rows[1].title, title) for title in question.variants]
    table = Table(TITLE, RMSES, rows, comparisons)
    head = (question.name, question.title, question.text)
    return Study(*head, [table], command=question.command)


_QUESTIONS = (
    _Question(
        "mia",
        "Which amalgamation",
        "`build_amalgamation.variant`: Eq. 3 as printed, on L2-normalised activations, "
        "on their outer products, or with sigma learnt by reconstruction; and none, "
        "with the cycles kept.",
        "reconstruction",
        {
            "literal": ("mia_literal", "build_amalgamation.variant = 'literal'"),
            "normalized": (
                "mia_normalized",
                "build_amalgamation.variant = 'normalized'",
            ),
            "outer_product": (
                "mia_outer_product",
                "build_amalgamation.variant = 'outer_product'",
            ),
            "none": (
                "mia_none",
                "auxiliary = 'none'",
                "build_amalgamation.variant = None",
            ),
        },
    ),
    _Question(
        "mends",
        "What mends the amalgamation and the schedule",
        "One thing at a time on top of the simultaneous cycle, at twice the "
        "steps: fixed statistics of the teachers' features, a linear map on the "
        "student's side, layers of equal weight, teachers left out at random; losses "
        "of one scale from the joint start on, a soft_weight that grows twenty-fold "
        "(with all three, six-fold), decoders alone at the end; weights that act on "
        "the encoder. KD and KD + MIA have the same steps.",
        "alternating",
        {
            "simultaneous": ("simultaneous", _SIMULTANEOUS),
            "+ standardised features": ("mend_fixed", _SIMULTANEOUS, _STANDARDIZED),
            "+ adapter": ("mend_adapter", _SIMULTANEOUS, _ADAPTED),
            "+ equal layers": ("mend_layers", _SIMULTANEOUS, _EQUAL_LAYERS),
            "+ adapter, equal layers": (
                "mend_two",
                *(_SIMULTANEOUS, _ADAPTED, _EQUAL_LAYERS),
            ),
            "+ all three": (
                "mend_three",
                *(_SIMULTANEOUS, _STANDARDIZED, _ADAPTED, _EQUAL_LAYERS),
            ),
            "+ all three, hints first": (
                "mend_three_hints_first",
                *(_SIMULTANEOUS, _STANDARDIZED, _ADAPTED, _EQUAL_LAYERS),
                "objective.final_soft_weight = 0.3",
                "objective.soft_weight_steps = %max_steps",
            ),
            "+ teachers left out": (
                "mend_dropping",
                *(_SIMULTANEOUS, "transfer.teacher_dropping = 0.2"),
            ),
            "+ one scale of losses": (
                "mend_scale",
                *(_SIMULTANEOUS, "schedule.joint_loss = 'of_cycle'"),
            ),
            "+ hints first": (
                "mend_hints_first",
                *(_SIMULTANEOUS, "objective.final_soft_weight = 1.0"),
                "objective.soft_weight_steps = %max_steps",
            ),
            "+ decoders alone at the end": (
                "mend_tail",
                *(_SIMULTANEOUS, "schedule.tail_share = 0.15"),
            ),
            "+ weighted collaboration": (
                "mend_weighted",
                *(_SIMULTANEOUS, "objective.weighted_collaboration = True"),
            ),
            "+ L_A as a task": (
                "mend_task",
                *(_SIMULTANEOUS, "objective.transfer_as_task = True"),
            ),
        },
        share=2.0,
        others={"KD": "kd", "KD + MIA": "kd_mia"},
    ),
    _Question(
        "joint_start",
        "The joint start with the amalgamated features or without",
        "`schedule.joint_amalgamation`. Step 2 names inputs and predictions only; "
        "its loss is then ten times that of Eq. 8, and Adam's second moments make the "
        "encoder's steps small for as long as they remember it.",
        "with",
        {"soft targets only": ("joint_soft", "schedule.joint_amalgamation = False")},
    ),
    _Question(
        "collaboration",
        "Collaboration loss weighted or not",
        "`objective.weighted_collaboration`: whether omega_i multiplies L_i in Eq. "
        "8, which as printed has none.",
        "not weighted",
        {
            "weighted": ("weighted", "objective.weighted_collaboration = True"),
            "weighted, alpha 3": (
                "weighted_alpha_3",
                "objective.weighted_collaboration = True",
                "GradNorm.alpha = 3.0",
            ),
        },
    ),
    _Question(
        "gradnorm_alpha",
        "GradNorm's exponent, and fixed weights",
        "`GradNorm.alpha` of Eq. 7, and `GradNorm.adaptive = False`: "
        "weights of 1 / n throughout.",
        "alpha 1.5",
        {
            "alpha 0.5": ("alpha_0.5", "GradNorm.alpha = 0.5"),
            "alpha 3": ("alpha_3", "GradNorm.alpha = 3.0"),
            "fixed weights": ("fixed", "GradNorm.adaptive = False"),
        },
    ),
    _Question(
        "gradnorm_rate",
        "Learning rate of the task weights",
        "`build_optimizers.task_weights_rate` (Adam).",
        "0.001",
        {
            "0.005": ("rate_0.005", "build_optimizers.task_weights_rate = 0.005"),
            "0.01": ("rate_0.01", "build_optimizers.task_weights_rate = 0.01"),
        },
    ),
    _Question(
        "gradnorm_w",
        "What GradNorm's W is",
        "`GradNorm.layer`: the kernel of the last shared layer, or the shared "
        "representation itself.",
        "last shared layer",
        {
            "representation": (
                "w_representation",
                "GradNorm.layer = 'representation'",
            )
        },
    ),
    _Question(
        "batch",
        "Same batch or a new one for the collaboration",
        "`schedule.new_batch_in_collaboration`: whether collaboration and weighting "
        "see other images than the competition.",
        "same batch",
        {"new batch": ("new_batch", "schedule.new_batch_in_collaboration = True")},
    ),
    _Question(
        "batch_norm",
        "BatchNorm: of frozen parts, and at the end",
        "`schedule.frozen_statistics`: with which statistics a frozen part "
        "normalises. `schedule.settle_share`: for which share of the steps, at the "
        "end, moving statistics are used by all. `build_optimizers.settle_rate`: the "
        "factor of the learning rates in these steps.",
        "batch's, settling",
        {
            "moving ones": (
                "frozen_moving",
                "schedule.frozen_statistics = 'moving'",
            ),
            "no settling": ("no_settling", "schedule.settle_share = 0.0"),
            "settling at 0.3": ("settle_rate", "build_optimizers.settle_rate = 0.3"),
        },
    ),
    _Question(
        "cgan",
        "With the adversarial term or without",
        "`build_adversary.enabled`, from an eighth of the steps on, which are twice "
        "the other studies', with the original's plain SGD of rate 1e-5 for the "
        "discriminators, and with Adam.",
        "without",
        {
            "with, SGD 1e-5": ("gan", _GAN_START),
            "with, Adam 1e-4": ("gan_adam", _GAN_START, *_LEARNING),
            "with, Adam 1e-4, weight 0.1": (
                *("gan_heavy", _GAN_START, *_LEARNING),
                "Adversary.weight = 0.1",
            ),
        },
        method="soka_gan",
        share=2.0,
        command="discriminators",
    ),
    _Question(
        "soft_loss",
        "Squared or absolute soft loss",
        "`objective.soft_loss`: Eq. 5 squares.",
        "l1",
        {"l2": ("l2", "objective.soft_loss = 'l2'")},
    ),
)
