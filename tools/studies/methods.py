"""The sizes, tasks and methods that studies train."""

from typing import Dict, NamedTuple, Sequence, Tuple

from tools.studies.training import Training

DEPTH, EDGE2D = "depth_zbuffer", "edge_texture"
EDGE3D, NORMAL = "edge_occlusion", "normal"
CLASSES = "segment_semantic"
SHORT = {
    DEPTH: "depth",
    EDGE2D: "edge2d",
    EDGE3D: "edge3d",
    NORMAL: "normal",
    CLASSES: "classes",
}
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
TITLE = "depth and 2D edges"
RMSES = [(task, "rmse") for task in PAIR]


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


SCALES = {
    "small": Scale(
        files=("gin/rooms/study.gin",),
        steps=1000,
        single_student=(
            "Encoder.units = (1, 1, 1, 1)",
            "Encoder.width = 0.085",
        ),
        ours="soka",
        rates=("0.01", "0.001"),
    ),
    "full": Scale(
        files=("gin/paper/common.gin",),
        steps=600_000,
        single_student=(),
        ours="soka_gan",
        rates=("0.001", "0.0001"),
    ),
}


def method_run(
    tasks: Sequence[str], method: str, *params: str, name: str = "", share: float = 1.0
) -> Training:
    """A run of gin/methods/<method>.gin."""
    title = f"{short_name(tasks)}/{name or method}"
    return Training(
        title, tuple(tasks), (f"gin/methods/{method}.gin",), tuple(params), share
    )


def short_name(tasks: Sequence[str]) -> str:
    """Tasks as titles and folders name them."""
    return "-".join(SHORT[task] for task in tasks)


def soka_run(
    scale: Scale, tasks: Sequence[str] = PAIR, *params: str, name: str = "soka"
) -> Training:
    """The whole method; with the pair's auxiliary teacher unless bound."""
    if not any(param.startswith("auxiliary") for param in params):
        params = (f"auxiliary = {PAIRS.get(tuple(tasks), repr('none'))}", *params)
    return method_run(tasks, scale.ours, *params, name=name)


def variant_run(scale: Scale, name: str, *params: str) -> Training:
    """The whole method with one thing changed."""
    return soka_run(scale, PAIR, *params, name=f"soka_{name}")


def rate_run(scale: Scale, rate: str) -> Training:
    """The whole method with this learning rate of the task weights."""
    bound = f"build_optimizers.task_weights_rate = {rate}"
    return variant_run(scale, f"rate_{rate}", bound)


def ablation(scale: Scale) -> Dict[str, Sequence[Training]]:
    """The rows of Table 5, and what is trained for each."""
    return {
        "teacher": (),
        "KD": (method_run(PAIR, "kd"),),
        "KD + MIA": (method_run(PAIR, "kd_mia"),),
        "KD + MIA + ACCT": (soka_run(scale),),
    }
