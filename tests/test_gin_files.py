"""Every shipped gin file: it parses, builds, trains, and is complete."""

import csv
import math
import pathlib
import re

import gin
import pytest

from soka_tf.errors import UserError
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.runs import (
    auxiliary,
    build_data,
    build_networks,
    build_parts,
    own_tasks,
    strategy,
)
from soka_tf.runs.config import parse_gin, unused_bindings
from soka_tf.runs.declared import parameters_of
from soka_tf.runs.settings import Settings
from soka_tf.runs.training_loop import train
from tools.teachers.settings import read_settings

ROOT = pathlib.Path(__file__).resolve().parents[1]
GIN = ROOT / "gin"
TEACHERS = "gin/rooms/teachers.gin"
# Read by others, not runs of their own.
_SHARED = ("gin/base.gin", "gin/paper/common.gin")
ALL = sorted(path.relative_to(ROOT).as_posix() for path in GIN.rglob("*.gin"))
LEAVES = [name for name in ALL if name not in _SHARED]
RUNS = ["gin/base.gin", *(name for name in LEAVES if name != TEACHERS)]
# These train all players together, to the end.
_LABELLED = ("gin/methods/dmtl.gin", "gin/methods/dmtl_gradnorm.gin")
# Files with another rule than GradNorm -> its terms of a task, and its losses.
_SHOWN_OF_RULES = {
    "gin/methods/uncertainty.gin": (("encoder_share",), ("loss/weighting",)),
    "gin/methods/upgrad.gin": (("encoder_share", "gradient_norm"), ()),
}
_OF_MIA = ("kd_mia", "kd_mia_fixed", "kd_mia_mended")
_OF_METHODS = ("kd", "kd_hints", *_OF_MIA, "n_to_n")
_JOINT_ONLY = (*(f"gin/methods/{name}.gin" for name in _OF_METHODS), *_LABELLED)
# The decoders alone, from the first step on.
_TAIL_ONLY = ("gin/methods/frozen_encoder.gin",)
# A difference, too, though none of a method.
_ON_TOP = ("gin/paper/literal.gin",)
# Every stage and kind of target; the others are built here, and trained by
# `make test-full`.
_TRAINED_ALWAYS = (
    "gin/base.gin",
    "gin/rooms/soka.gin",
    *(f"gin/methods/{name}.gin" for name in ("soka_gan", "upgrad", "dmtl_gradnorm")),
)
# Differ from one that is trained in tasks and auxiliary teachers only: never trained.
_TRAINED_PAPER = (
    *("gin/paper/depth_edge2d.gin", "gin/paper/depth_edge2d_normal.gin"),
    *_ON_TOP,
)
_BUILT_ONLY = [
    name
    for name in LEAVES
    if name.startswith("gin/paper/") and name not in _TRAINED_PAPER
]

# Configurable -> its gin name, "" for its own, and the parameters that a run passes
# itself, and which no binding may set therefore.
_GIVEN = {
    own_tasks.define_tasks: ("",),
    Settings: ("run",),
    build_data.build_data: (
        *("", "tasks", "image_size", "split_file", "draw", "train_labels"),
        "measure_only",
    ),
    build_data.find_in_folders: ("folders", "domains"),
    build_data.rooms: ("rooms",),
    build_data.split: ("split", "samples", "path"),
    build_networks.build_student: ("", "tasks", "seed"),
    build_networks.bound_encoder: (
        *("", "representation_channels", "image_channels", "synchronized", "name"),
    ),
    build_networks.bound_application: (
        *("", "architecture", "representation_channels", "synchronized", "name"),
    ),
    build_networks.bound_decoder: (
        *("", "channels", "upsamplings", "representation_channels", "layout"),
        *("synchronized", "name", "activation"),
    ),
    build_parts.find_teachers: ("", "tasks", "auxiliaries"),
    auxiliary.select_auxiliary: (
        *("", "tasks", "samples", "image_size", "antialias", "model_dir"),
    ),
    auxiliary.Comparison: ("similarity",),
    build_parts.load_pool: ("", "found"),
    build_parts.build_amalgamation: ("", "student", "teachers", "measure", "seed"),
    build_parts.bound_amalgamation: (
        *("", "teacher_channels", "channels", "variant", "auxiliaries"),
        *("teacher_layers", "standardized", "transfer", "kwargs"),
    ),
    build_parts.transfer: ("transfer", "seed"),
    build_parts.build_balancing: ("", "tasks", "transfer_as_task"),
    build_parts.bound_gradnorm: ("", "tasks", "initial_weights"),
    build_parts.Fixed: ("", "tasks"),
    build_parts.Uncertainty: ("", "tasks"),
    build_parts.UPGrad: ("", "tasks"),
    build_parts.build_adversary: ("", "tasks", "seed"),
    build_parts.bound_adversary: ("", "discriminators", "noise", "seed"),
    build_parts.bound_discriminator: ("", "channels", "name"),
    build_parts.schedule: ("schedule", "max_steps"),
    build_parts.objective: ("objective", "weight_decay"),
    build_parts.decay: ("decay",),
    build_networks.initialize_student: ("", "student", "teachers"),
    build_parts.build_optimizers: ("", "schedule"),
    strategy.build_strategy: ("", "facts"),
}

pytestmark = pytest.mark.usefixtures("fresh_gin")


def files_of(name):
    """A method is a small difference, for the rooms' run."""
    on_top = "/methods/" in name or name in _ON_TOP
    return ["gin/rooms/soka.gin", name] if on_top else [name]


def build_three_steps(name, tiny, folder):
    steps = ["max_steps = 3", "Adversary.start_step = 2"]
    if name not in _JOINT_ONLY:
        steps.append("schedule.joint_steps = 1")
    if name in _LABELLED:
        steps += tiny.with_labels
    run = tiny.build(folder, *steps, files=files_of(name))
    unused = (
        [] if run.model.adversary else ["Adversary.start_step", "Discriminator.width"]
    )
    assert unused_bindings() == unused
    return run


@pytest.mark.parametrize("name", [n for n in RUNS if n not in _TRAINED_ALWAYS])
def test_shipped_file_builds(name, tiny, tmp_path):
    build_three_steps(name, tiny, tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        name if name in _TRAINED_ALWAYS else pytest.param(name, marks=pytest.mark.slow)
        for name in RUNS
        if name not in _BUILT_ONLY
    ],
)
def test_shipped_file_builds_and_its_stages_train_finite_steps(name, tiny, tmp_path):
    run = build_three_steps(name, tiny, tmp_path)
    train(run, str(tmp_path))

    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    last = "cycle_gan" if run.model.adversary is not None else "cycle"
    stages = ["joint", "cycle", last]
    if name in _JOINT_ONLY:
        stages = ["joint"] * 3
    if name in _TAIL_ONLY:
        stages = ["tail"] * 3
    assert [row["stage"] for row in rows] == stages
    for row in rows:
        values = {k: float(v) for k, v in row.items() if v and k != "stage"}
        assert all(map(math.isfinite, values.values())), values
        shown = {"loss/soft/" + task for task in run.model.tasks}
        if row["stage"].startswith("cycle"):
            of_tasks, losses = _SHOWN_OF_RULES.get(
                name, (("gradient_norm",), ("loss/gradnorm",))
            )
            shown |= {f"{kind}/{task}" for kind in of_tasks for task in run.model.tasks}
            shown |= {"loss/transfer", "loss/amalgamation", *losses}
        if row["stage"] == "cycle_gan":
            shown |= {"loss/discriminator/" + task for task in run.model.tasks}
        if name == "gin/methods/dmtl_gradnorm.gin":
            shown |= {"gradient_norm/" + task for task in run.model.tasks}
        assert shown <= set(values)


def test_the_paper_pairs_and_the_three_task_set_are_there():
    pairs = set()
    for name in ALL:
        if name.startswith("gin/paper/") and name not in (*_SHARED, *_ON_TOP):
            gin.clear_config()
            parse_gin([name], [])
            pairs.add(tuple(gin.query_parameter("%tasks")))
    depth, edge2d, edge3d = "depth_zbuffer", "edge_texture", "edge_occlusion"
    assert pairs == {
        (depth, "normal"),
        (depth, edge2d),
        (depth, edge3d),
        (edge2d, "normal"),
        (edge2d, edge3d),
        (edge3d, "normal"),
        (depth, edge2d, "normal"),
    }


def test_base_binds_every_parameter_that_a_run_does_not_give():
    parse_gin([], [])
    keys = re.findall(r"^([\w.]+\.\w+)\s*=", gin.config_str(), re.M)
    bound = {tuple(key.rsplit(".", 2)[-2:]) for key in keys}
    wanted = set()
    for configurable, (name, *given) in _GIVEN.items():
        parameters = set(parameters_of(configurable))
        assert set(given) <= parameters
        name = name or configurable.__name__
        wanted |= {(name, parameter) for parameter in parameters - set(given)}
    assert bound == wanted


def test_no_configurable_of_the_package_is_left_out_of_base():
    count = 0
    for path in (ROOT / "soka_tf").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        count += len(re.findall(r"^@gin\.(?:configurable|register)", text, re.M))
        count += len(re.findall(r"gin\.external_configurable\(", text))
    assert count == len(_GIVEN)


@pytest.mark.parametrize("name", LEAVES)
def test_header_names_the_command_that_runs_this_file(name):
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    header = []
    for line in lines:
        if not line.startswith("#"):
            break
        header.append(line.lstrip("# "))
    text = " ".join(header).replace("\\ ", "")
    command = re.search(r"python (-m soka_tf\.train|tools/train_teachers\.py) .*", text)
    assert command, f"{name}: its first comment names no command"
    assert re.findall(r"--gin_file=(\S+)", command[0]) == files_of(name)
    if "soka_tf.train" in command[0]:
        assert re.search(r"--model_dir=runs/" + pathlib.Path(name).stem, command[0])


def test_make_demo_runs_the_demo_file():
    assert "--gin_file=gin/rooms/demo.gin" in (ROOT / "Makefile").read_text()


def _teachers_settings():
    return read_settings([TEACHERS], [])


def test_teachers_file_binds_what_the_tool_needs():
    settings = _teachers_settings()
    assert set(settings.losses) == set(settings.tasks)
    encoder = Encoder(**{**settings.encoder, "width": 1 / 32})
    assert encoder.output_stride == 2 ** settings.decoder["upsamplings"]
    Decoder(1, **{**settings.decoder, "width": 1 / 64})


def test_teachers_file_with_wrong_bindings_names_them():
    with pytest.raises(UserError, match="unknown train_teachers.step,"):
        read_settings(
            [TEACHERS], ["train_teachers.step = 1", "train_teachers.room = 1"]
        )
    with pytest.raises(UserError, match="missing train_teachers.tasks,"):
        read_settings([], [])


def test_teachers_fit_the_students_of_the_rooms():
    teacher = _teachers_settings()
    parse_gin(["gin/rooms/soka.gin"], [])
    # The same activations at the same places; a student has fewer channels.
    for name in ("units", "strides"):
        assert gin.query_parameter(f"Encoder.{name}") == teacher.encoder[name]
    assert gin.query_parameter("Encoder.width") <= teacher.encoder["width"]
    assert gin.query_parameter("%image_size") == teacher.image_size
    used = {*gin.query_parameter("%tasks"), *gin.query_parameter("%auxiliary")}
    assert used <= set(teacher.tasks)


def test_defaults_in_the_code_are_those_of_base():
    parse_gin([], [])
    differing = {}
    for configurable, (name, *_) in _GIVEN.items():
        name = name or configurable.__name__
        for parameter in parameters_of(configurable).values():
            if parameter.default is parameter.empty:
                continue
            try:
                bound = gin.query_parameter(f"{name}.{parameter.name}")
            except ValueError:  # given by a run
                continue
            if isinstance(bound, gin.config.ConfigurableReference):  # a macro
                continue
            if bound != parameter.default:
                differing[f"{name}.{parameter.name}"] = (bound, parameter.default)
    assert not differing
