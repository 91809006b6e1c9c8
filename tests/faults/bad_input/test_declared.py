"""Every setting declares what it may be; what it may not be is refused in one line."""

import collections.abc
import math
import random
import re
from typing import Annotated, Optional, Sequence, Union, get_args, get_origin

import gin
import pytest

from soka_tf import evaluate, train
from soka_tf.errors import UserError
from soka_tf.kinds import (
    Reference,
    checked,
    either,
    kind_of,
    list_of,
    number,
    one_of,
    whole,
)
from soka_tf.runs import build_run, config, gin_text
from soka_tf.runs.config import parse_gin
from soka_tf.runs.declared import check_bound, parameters_named
from soka_tf.runs.dry_run import describe

pytestmark = pytest.mark.usefixtures("fresh_gin")

# Wrong for every setting of a type, whatever its range.
_NO_NUMBERS = ("a", "3", "np.float32(1)", [1], {}, True, math.nan, math.inf, -math.inf)
_WRONG = {
    bool: (0, 1, 2.5, "True", "np.True_", [True], {}, math.nan),
    int: (*_NO_NUMBERS, 2.5, -1, -5, 1e30, 10**400),
    float: (*_NO_NUMBERS, -7, -1.5, 1e31, 10**400),
    str: (3, True, 2.5, ["a"], {}, math.nan, Reference("@Encoder"), "a\0"),
    collections.abc.Sequence: (3, True, 2.5, {}, [], [True], [[1, 2, 3]], [math.nan]),
}


def settings():
    """Every binding of base.gin -> the annotation of its parameter."""
    parse_gin([], [])
    found = {}
    for name in config.bound_values():
        selector, _, parameter = name.rpartition(".")
        if selector:
            annotation = parameters_named(selector)[parameter].annotation
            found[name] = annotation
    return found


def types_of(annotation):
    """The types of a parameter, None aside, without what they are of."""
    plain = annotation.__origin__
    each = get_args(plain) if get_origin(plain) is Union else [plain]
    return {get_origin(one) or one for one in each} - {type(None)}


def test_every_setting_of_base_declares_its_kind():
    found = settings()
    assert len(found) > 100
    assert [name for name, each in found.items() if kind_of(each) is None] == []


def wrong_values(annotation):
    """Values of other types and out of every range, and some more that are drawn."""
    types = types_of(annotation)
    drawn = random.Random(str(annotation))
    wrong = {kind: list(_WRONG[kind]) for kind in types & set(_WRONG)}
    if types == {int}:
        part = drawn.uniform(0.1, 0.9)
        wrong[int] += [-drawn.randrange(1, 10**6), drawn.randrange(10) + part]
    if types == {float}:
        wrong[float] += [-drawn.uniform(2, 1e6), 10 ** drawn.uniform(31, 300)]
    # Wrong for one type may be right for another that the parameter has.
    if len(types) == 1 and wrong:
        return wrong.popitem()[1]
    takes_numbers = Sequence[float] in get_args(annotation.__origin__)
    return [3, 2.5, [-3] if takes_numbers else [3], "a\0"]


def test_no_setting_takes_a_wrong_value():
    for name, annotation in settings().items():
        for value in wrong_values(annotation):
            with pytest.raises(UserError) as refused:
                check_bound({name: value})
                pytest.fail(f"{name} = {value!r} is accepted")
            message = str(refused.value)
            assert message.startswith(name) and "\n" not in message, message
            assert re.search("Received: |no task named", message), message
            assert len(message) < 600, message


def test_no_setting_takes_a_wrong_binding():
    for name, annotation in settings().items():
        for value in wrong_values(annotation):
            with pytest.raises(UserError) as refused:
                parse_gin([], [f"{name} = {value!r}"], base=None)
                pytest.fail(f"{name} = {value!r} is accepted")
            message = str(refused.value)
            assert name in message and "\n" not in message, message
            gin.clear_config()


@pytest.mark.parametrize(
    "binding, message",
    [
        ("schedule.joint_steps = -5", r"a whole number of at least 0 .*Received: -5\."),
        ("image_size = True", "a whole number .*Received: True, bound as image_size."),
        ("seed = 'a'", "a whole number .*Received: 'a', bound as seed."),
        ("max_steps = 1e30", r"a whole number .*Received: 1e\+30, bound as max_steps."),
        ("tasks = []", r"a list of one or more tasks.*Received: \[\], bound as tasks."),
        ("small/Encoder.width = 0", r"a number in \(0, 100\]. Received: 0\."),
        ("run.precision = 'flaot32'", "did you mean 'float32'"),
        ("build_student.backbone = 3", "a reference, @YourBackbone. Received: 3"),
        ("images_dir = @Encoder", "a text or None. Received: @Encoder"),
        ("tasks = ['normal', 'egde_texture']", r"run.tasks .* 'edge_texture'"),
        ("initialize_student.decoders = {'normal': 'nromal'}", "'normal'"),
        ("build_optimizers.power = 1e999", "a number must be finite"),
        ("build_optimizers.power = nan", "a number must be finite"),
        ("seed = %seed", "the macro %seed refers to itself"),
        ("max_step = 3", "no gin file uses %max_step; did you mean max_steps"),
    ],
)
def test_wrong_binding_is_refused_in_one_line(binding, message):
    with pytest.raises(UserError, match=message) as refused:
        parse_gin(["gin/rooms/soka.gin"], [binding])
    assert binding.split(" =")[0].split(".")[-1] in str(refused.value)
    assert "\n" not in str(refused.value)


def test_misspelt_macro_of_a_file_is_refused_with_its_line(tmp_path):
    path = tmp_path / "own.gin"
    path.write_text("n = 3\nschedule.joint_steps = %n\nmax_step = 3\n")
    with pytest.raises(UserError, match="own.gin, line 3: .*did you mean max_steps"):
        parse_gin([str(path)], [])


def test_value_that_a_later_binding_replaces_does_not_count():
    parse_gin([], ["run.panel_every_steps = -2", "run.panel_every_steps = 2"])


@gin.configurable(module="declared_test")
def own(size: int = 1, odd: Annotated[int, whole(1, 9)] = 3, later=None):
    return size, odd, later


def test_configurable_of_a_user_is_checked_only_where_it_declares_a_kind():
    parse_gin([], ["own.size = 'any'", "own.later = @own"], base=None)
    with pytest.raises(UserError, match="own.odd must be a whole number"):
        parse_gin([], ["own.odd = 10"], base=None)


def test_what_is_made_later_is_not_checked():
    parse_gin([], ["seed = @own()", "tasks = ['normal', @own()]"])


def test_whole_float_is_bound_as_a_whole_number():
    parse_gin([], ["max_steps = 6e5", "schedule.joint_steps = 1e3"])
    for name in ("%max_steps", "schedule.joint_steps"):
        assert isinstance(gin.query_parameter(name), int)
    stored = gin.config_str().replace("600000", "600000.0")
    assert gin_text.differing_bindings(stored, gin.config_str()) == []


# Nothing is made


@pytest.mark.parametrize("dry", [False, True])
def test_train_refuses_before_anything_is_built(dry, tmp_path, monkeypatch):
    monkeypatch.setattr(build_run, "build_run", never)
    monkeypatch.setattr("soka_tf.runs.dry_run.describe", never)
    folder = tmp_path / "run"
    flags = [f"--model_dir={folder}", "--gin_param=schedule.joint_steps = -5"]
    train.FLAGS(["train", *flags, *["--dry_run"] * dry])
    try:
        with pytest.raises(UserError, match="schedule.joint_steps must be"):
            train.main()
    finally:
        train.FLAGS.unparse_flags()
        for name in ("gin_param", "dry_run", "model_dir"):
            train.FLAGS[name].unparse()
    assert list(tmp_path.iterdir()) == []


def test_evaluate_refuses_what_the_folder_has(tmp_path):
    (tmp_path / "operative_config.gin").write_text("run.image_size = True\n")
    evaluate.FLAGS(["evaluate", f"--model_dir={tmp_path}"])
    try:
        with pytest.raises(UserError, match="run.image_size must be a whole number"):
            evaluate.main()
    finally:
        evaluate.FLAGS.unparse_flags()
        evaluate.FLAGS["model_dir"].unparse()
    assert [path.name for path in tmp_path.iterdir()] == ["operative_config.gin"]


@pytest.mark.parametrize(
    "bindings, message",
    [
        (["GradNorm.floor = 0.6"], "GradNorm: floor must be in"),
        (
            ["build_balancing.rule = @Fixed", "Fixed.weights = [1.0]"],
            "weights must be 2",
        ),
        (
            [
                "schedule.order = 'simultaneous'",
                "schedule.frozen_statistics = 'moving'",
            ],
            "schedule.order = 'simultaneous'",
        ),
    ],
)
def test_dry_run_and_run_refuse_what_does_not_fit(bindings, message, tiny, tmp_path):
    parse_gin(["gin/rooms/soka.gin"], tiny.params(*bindings, "teachers_dir = '/no'"))
    for start in (describe, build_run.build_run):
        with pytest.raises(UserError, match=message):
            start(str(tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []


def test_run_without_images_to_validate_on_is_refused(tiny, tmp_path):
    rooms = f"rooms.dir = {str(tmp_path / 'rooms')!r}"
    small = ("rooms.count = 1", "rooms.train_views = 1", "batch_size = 1")
    none = ("images_dir = None", "rooms.validation_views = 0")
    with pytest.raises(UserError, match="needs images to validate on.*_views to 1"):
        tiny.build(tmp_path / "run", rooms, *small, *none)
    assert not (tmp_path / "run").exists()


def never(*_):
    raise AssertionError("begun in spite of a wrong binding")


# Kinds


@pytest.mark.parametrize(
    "kind, right, wrong",
    [
        (whole(0, 9), (0, 9, 3.0), (-1, 10, 0.5, True, "3", None, math.nan)),
        (number(0, 1, above=True), (1, 0.5), (0, 2, False, math.inf)),
        (number(0, 1, below=True), (0, 0.5), (1,)),
        (one_of(["a", "b"]), ("a",), ("c", ["a"], 1, {})),
        (list_of(whole(1), "two", 2), ([1, 2], (1, 2)), ([1], "12", [1, 0], 12)),
        (either(one_of("ab"), whole(1)), ("a", 1), ("c", 0)),
    ],
)
def test_kind_accepts_what_it_says(kind, right, wrong):
    annotation = Annotated[int, kind]
    for value in right:
        assert checked("it", annotation, value) == value
    for value in wrong:
        with pytest.raises(UserError, match="^it must be .* Received: "):
            checked("it", annotation, value)
    assert checked("it", Annotated[Optional[int], kind], None) is None
