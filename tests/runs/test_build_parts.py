"""From bindings to parts; what does not fit is told by the binding's name."""

import re

import gin
import pytest
import tensorflow as tf

from soka_tf.errors import UserError, plain_message
from soka_tf.networks.decoder import Decoder
from soka_tf.networks.encoder import Encoder
from soka_tf.runs import build_networks, build_parts
from soka_tf.runs.config import parse_gin
from soka_tf.runs.dry_run import describe
from soka_tf.soka.amalgamation import Amalgamation
from soka_tf.soka.schedule import Schedule
from soka_tf.teachers.pool import TeacherPool
from soka_tf.teachers.taskonomy.network import TaskonomyTeacher
from tests.stacks import needs_tfa

pytestmark = pytest.mark.usefixtures("fresh_gin")

TASKS = ["depth_zbuffer", "edge_texture"]
SMALL = dict(units=(1, 1, 1, 1), width=1 / 32)
OF_100 = Schedule(max_steps=100)


# Networks and losses


class Student:
    """All that the amalgamation asks of a student."""

    def __init__(self, encoder):
        self.encoder = encoder


@pytest.fixture(scope="module")
def student():
    return Student(Encoder(strides=(2, 2, 1, 1), **SMALL))


@pytest.fixture(scope="module")
def pools():
    """A pool of teachers of output stride 4, and one of 8."""
    return [
        TeacherPool(
            {
                "depth_zbuffer": TaskonomyTeacher(
                    "depth_zbuffer",
                    Encoder(strides=strides, **SMALL),
                    Decoder(1, 1 / 64, 0, 2),
                )
            }
        )
        for strides in ((2, 2, 1, 1), (2, 2, 2, 1))
    ]


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"layers": ["block9"]}, r"build_amalgamation\.layers .*\['block9'\]"),
        ({"layers": []}, r"build_amalgamation\.layers must be some of"),
        ({"layers": [3]}, r"build_amalgamation\.layers must be .*pairs.*\[3\]"),
        ({"layers": [("block3", "c4")]}, r"build_amalgamation\.layers must be .*'c4'"),
        (
            {"layers": [("c4", "block3")]},
            "'depth_zbuffer' has no layer c4 for the student's block3. It has block1",
        ),
        ({"variant": "magic"}, "build_amalgamation: .*'magic'"),
    ],
)
def test_amalgamation_unknown_choice_names_the_binding(student, pools, wrong, message):
    with pytest.raises(UserError, match=message):
        build_parts.build_amalgamation(student, pools[0], **wrong)


def test_amalgamation_unknown_mixing_names_the_binding(student, pools):
    gin.bind_parameter("Amalgamation.mixing", "magic")
    with pytest.raises(UserError, match="Amalgamation: mixing .*'magic'"):
        build_parts.build_amalgamation(student, pools[0])


def test_amalgamation_takes_teachers_of_other_strides(student, pools):
    one, other = (build_parts.build_amalgamation(student, pool) for pool in pools)
    assert other.get_config() == one.get_config()


def test_amalgamation_takes_pairs_of_layers(student, pools):
    pairs = (("block4", "block3"), "representation")
    amalgamation = build_parts.build_amalgamation(student, pools[0], layers=pairs)
    layers = dict(amalgamation.teacher_layers)
    assert layers == {"block3": ("block4",), "representation": ("representation",)}
    (mixing,) = amalgamation.amalgamations["block3"].mixing_weights
    assert mixing.shape == (64, 32)
    again = Amalgamation.from_config(amalgamation.get_config())
    assert again.teacher_layers == amalgamation.teacher_layers


def test_amalgamation_none_is_none(student, pools):
    assert build_parts.build_amalgamation(student, pools[1], variant=None) is None


@pytest.mark.parametrize("name, wrong", [("norm", "l7"), ("floor", 0.6)])
def test_gradnorm_wrong_value_names_the_binding(name, wrong):
    gin.bind_parameter(f"GradNorm.{name}", wrong)
    with pytest.raises(UserError, match=f"GradNorm: {name} .*Received"):
        build_parts.build_balancing(TASKS)


@pytest.mark.parametrize(
    "binding, message",
    [
        ("schedule.settle_share = 1.5", r"must be a number in \[0, 1\]. Received: 1.5"),
        ("schedule.order = 'any'", "must be one of .*'any'"),
        ("objective.soft_loss = 'huber'", "must be one of .*'huber'"),
    ],
)
def test_settings_wrong_value_names_the_binding(binding, message, tiny, tmp_path):
    name = re.escape(binding.split(" =")[0])
    with pytest.raises(UserError, match=f"^{name} {message}"):
        tiny.build(tmp_path, binding)


@pytest.mark.parametrize(
    "binding, wrong, message",
    [
        ("Encoder.units", (1, 2), r"^Encoder: units must be 4 .*\(1, 2\)"),
        ("Decoder.width", -1, r"^Decoder: width must be .*\(0, 100\]. Received: -1"),
        ("Discriminator.strides", (9, 9, 9), "^Discriminator: strides must be 3 "),
    ],
)
def test_network_wrong_value_names_the_binding(binding, wrong, message):
    parse_gin(["gin/rooms/soka.gin"], [])
    gin.bind_parameter(binding, wrong)  # as a program does: no gin text is checked
    with pytest.raises(UserError, match=message):
        build_networks.build_student(TASKS)
        build_parts.build_adversary(TASKS, enabled=True)


def test_adversary_is_none_unless_enabled_and_calmer_for_depth():
    assert build_parts.build_adversary(TASKS) is None
    gin.bind_parameter("Discriminator.width", 1 / 32)
    adversary = build_parts.build_adversary(TASKS, enabled=True)
    assert adversary.noise == {"depth_zbuffer": 0.03, "edge_texture": 0.1}
    assert list(adversary.discriminators) == TASKS


@pytest.mark.parametrize(
    "binding, wrong", [("build_optimizers.optimizer", "lion"), ("decay.kind", "magic")]
)
def test_optimizers_unknown_name_is_refused(binding, wrong):
    gin.bind_parameter(binding, wrong)
    with pytest.raises(UserError, match=wrong):
        build_parts.build_optimizers(Schedule(max_steps=10))


def test_optimizers_follow_the_poly_policy_each_from_its_own_rate():
    optimizers, _ = build_parts.build_optimizers(
        OF_100, learning_rate=0.1, amalgamation_rate=0.2, task_weights_rate=0.3
    )
    for name, rate in (
        ("encoder", 0.1),
        ("decoders", 0.1),
        ("amalgamation", 0.2),
        ("task_weights", 0.3),
    ):
        schedule = optimizers[name]._hyper["learning_rate"]
        assert float(schedule(0)) == pytest.approx(rate)
        assert float(schedule(50)) == pytest.approx(rate * 0.5**0.9)
        assert float(schedule(100)) == 0.0
    assert optimizers["encoder"] is not optimizers["decoders"]


def test_optimizers_rates_fall_further_where_batch_norm_settles():
    gin.bind_parameter("build_optimizers.settle_rate", 0.25)
    for share, factor in ((0.6, 0.25), (0.5, 0.25), (0.49, 1.0), (0.0, 1.0)):
        schedule = Schedule(max_steps=100, settle_share=share)
        optimizers, learning = build_parts.build_optimizers(schedule)
        assert float(learning(50)) == pytest.approx(1e-3 * 0.5**0.9 * factor)
        for player in ("encoder", "decoders", "adapter", "amalgamation"):
            rate = optimizers[player]._hyper["learning_rate"]
            assert float(rate(50)) == pytest.approx(1e-3 * 0.5**0.9 * factor)
        assert optimizers["discriminators"]._hyper["learning_rate"] == 1e-5


def test_optimizers_sgd_has_the_momentum_that_is_bound():
    gin.bind_parameter("build_optimizers.optimizer", "sgd")
    gin.bind_parameter("build_optimizers.momentum", 0.5)
    optimizers, _ = build_parts.build_optimizers(OF_100, learning_rate=0.1, power=0.0)
    for player, rate in (("encoder", 0.1), ("adapter", 0.1), ("amalgamation", 1e-3)):
        moved = tf.Variable(0.0)
        for _ in range(2):
            optimizers[player].apply_gradients([(tf.constant(1.0), moved)])
        assert float(moved) == pytest.approx(-rate * (1 + 1.5), rel=1e-5)


@pytest.mark.parametrize(
    "kind, expected",
    [
        pytest.param("tfa", 0.25 * 0.5**0.9, marks=needs_tfa),
        ("l2_loss", None),
    ],
)
def test_optimizers_decay_of_tfa_fades_with_the_rate(kind, expected):
    gin.bind_parameter("decay.rate", 0.25)
    gin.bind_parameter("decay.kind", kind)
    optimizers, _ = build_parts.build_optimizers(OF_100)
    optimizer = optimizers["encoder"]
    assert ("weight_decay" in optimizer.get_config()) == (expected is not None)
    if expected is not None:
        assert float(optimizer._hyper["weight_decay"](50)) == pytest.approx(expected)
    assert "weight_decay" not in optimizers["task_weights"].get_config()


# Dry run


def test_dry_run_of_the_paper_needs_no_file_and_leaves_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOKA_TF_CACHE", str(tmp_path / "cache"))
    parse_gin(["gin/paper/depth_edge2d.gin"], [])
    text = describe("no run")
    lines = {" ".join(line.split()) for line in text.splitlines()}
    assert "encoder 23655504" in lines
    assert "decoder depth_zbuffer 16453009" in lines
    assert "decoder edge_texture 16453009" in lines
    assert f"student {23655504 + 2 * 16453009}" in lines
    assert any("discriminator depth_zbuffer" in line for line in lines)
    for file in ("depth_zbuffer", "edge_texture", "keypoints3d"):
        path = f"data/taskonomy_teachers/{file}.safetensors"
        assert any(path in line and "MISSING" in line for line in lines)
    assert "data/taskonomy" in text and "MISSING, a real run needs them" in text
    assert "tasks = ['depth_zbuffer', 'edge_texture']" in lines
    assert any(line.startswith("CPU") for line in lines)
    assert not list(tmp_path.iterdir())


def test_dry_run_of_rooms_counts_what_is_there(tiny, tmp_path):
    params = ("images_dir = None", f"rooms.dir = {str(tmp_path)!r}")
    parse_gin(["gin/rooms/soka.gin"], tiny.params(*params))
    text = describe("no run")
    assert "0 to train on, 0 to validate on are there" in text
    assert "draws what is missing" in text and "MISSING" not in text
    assert not list(tmp_path.iterdir())


def test_dry_run_tells_what_cached_teachers_will_take(tiny, tmp_path):
    folder = tmp_path / "cache"
    params = ("run.teacher_cache = True", f"run.teacher_cache_dir = {str(folder)!r}")
    parse_gin(["gin/rooms/soka.gin"], tiny.params(*params))
    text = describe("no run")
    (images,) = re.findall(r"(\d+) to train on", text)
    told = rf"outputs of {images} images need [\d.]+ KiB in .*cache \([\d.]+ KiB an im"
    assert re.search(told, text) and not folder.exists()
    gin.clear_config()
    parse_gin(["gin/rooms/soka.gin"], tiny.params(*params, "teachers_dir = '/no'"))
    assert "Its size is known once the teachers are there." in describe("no run")


@pytest.mark.parametrize(
    "params, message",
    [
        (["objective.weighted_collaboration = True"], "weights the encoder's losses"),
        (
            [
                "objective.transfer_as_task = True",
                "build_amalgamation.variant = None",
            ],
            "Received: no amalgamation",
        ),
        (
            [
                "objective.transfer_as_task = True",
                "build_amalgamation.layers = ['block3']",
            ],
            "build_amalgamation.layers = ",
        ),
    ],
)
def test_dry_run_refuses_a_rule_that_does_not_fit_the_objective(
    params, message, tiny, tmp_path
):
    parse_gin(
        ["gin/rooms/soka.gin"], tiny.params("build_balancing.rule = @UPGrad", *params)
    )
    with pytest.raises(UserError, match=message):
        describe(str(tmp_path / "run"))


def test_dry_run_of_a_misspelt_task_is_refused(tiny):
    with pytest.raises(UserError, match="depth_zbuffer") as error:
        parse_gin(["gin/rooms/soka.gin"], tiny.params("tasks = ['depht_zbuffer']"))
        describe("no run")
    assert "\n" not in plain_message(error.value)


def test_student_is_the_same_for_the_same_seed():
    gin.bind_parameter("Encoder.units", SMALL["units"])
    gin.bind_parameter("Encoder.width", SMALL["width"])

    def kernel(seed):
        student = build_networks.build_student(["edge_texture"], seed=seed)
        return student.encoder.last_shared_kernel

    one, same, other = kernel(1), kernel(1), kernel(2)
    tf.debugging.assert_equal(one, same)
    assert not gin.config_is_locked()
    assert tf.reduce_any(one != other)
