r"""Makes a teacher's folder of a SavedModel, and shows what it says of images.

Example (a minute; on drawn rooms without --images):

    python tools/wrap_teacher.py --saved_model=runs/demo/saved_model \
        --signature=edge_texture_float --task=edge_texture \
        --out_dir=runs/teachers/edges

It prints the signatures with their shapes, and the activations of the graph that can be
layers. Into --out_dir go a copy of the SavedModel, whose signature also returns the
activations named by --layer, a draft of teacher.json, and panel.png: images, the map,
up to three layers, and the map under other ranges and orders of the channels, so that a
wrong guess is seen. A teacher.json that is there is used and stays: correct it
(docs/teachers.md has the fields) and give the same command again.
"""

import copy
import dataclasses
import itertools
import os
import tempfile
from typing import Any, Dict, List, Tuple

from absl import flags, logging

from soka_tf import cli
from soka_tf.errors import UserError

FLAGS = flags.FlagValues()
_SAVED_MODEL = flags.DEFINE_string(
    "saved_model",
    None,
    "folder of the SavedModel, or a run's with one in saved_model/",
    required=True,
    flag_values=FLAGS,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "the teacher's folder; by default beside the SavedModel, NAME_teacher",
    flag_values=FLAGS,
)
_SIGNATURE = flags.DEFINE_string(
    "signature", None, "which function teaches, if there are several", flag_values=FLAGS
)
_LAYER = flags.DEFINE_multi_string(
    "layer",
    [],
    "an activation of the graph, as listed, to become a layer; repeatable",
    flag_values=FLAGS,
)
_TASK = flags.DEFINE_string(
    "task", None, "what the network does, for the draft", flag_values=FLAGS
)
_IMAGES = flags.DEFINE_string(
    "images", None, "folder of photographs; by default drawn rooms", flag_values=FLAGS
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    192,
    "side in pixels of the images, as of a run's",
    lower_bound=16,
    upper_bound=2048,
    flag_values=FLAGS,
)
_TRUST_SAVED_MODEL = cli.define_trust_saved_model(FLAGS)

_ROWS, _LAYERS_SHOWN, _TRIED_SIDE = 4, 3, 128
_ROOMS_SEED = 2
_COPY = "saved_model"
_ORDERS = ("rgb", "bgr")
_FILLED = 0.25  # of prediction.range; less is worth a look


def main() -> None:
    """Lists, writes the draft, draws."""
    from soka_tf.networks.untrusted import refuse_programs
    from soka_tf.serving.exported import saved_model_in
    from soka_tf.teachers.saved_model import manifest

    saved_model = os.path.abspath(os.path.expanduser(_SAVED_MODEL.value))
    saved_model = saved_model_in(saved_model) or saved_model
    if not _TRUST_SAVED_MODEL.value:
        refuse_programs(saved_model, "Export it again.")
    signature = _list_signatures(saved_model)
    out_dir = os.path.expanduser(_OUT_DIR.value or f"{saved_model}_teacher")
    path = os.path.join(out_dir, manifest.FILE)
    images, source = _find_images()
    if os.path.exists(path):
        logging.info("%s is there and is used as it is.", path)
    else:
        _write_draft(saved_model, signature, out_dir, images)
        print(f"\nA draft, to be corrected: {path}")
    teacher = _load(path)
    _describe(teacher, images)
    _draw(teacher, images, source, os.path.join(out_dir, "panel.png"))
    print(f"What it says of images: {os.path.join(out_dir, 'panel.png')}")


def _load(path: str) -> Any:
    from soka_tf.teachers import load_teacher

    try:
        return load_teacher(path, trust_saved_model=_TRUST_SAVED_MODEL.value)
    except UserError as error:
        raise UserError(f"{error} Correct it and give the command again.") from error


def _list_signatures(saved_model: str) -> str:
    """Prints what the SavedModel can be asked; returns which signature is meant."""
    import tensorflow as tf
    from tabulate import tabulate

    from soka_tf.teachers.saved_model.network import load_saved_model

    signatures = load_saved_model(saved_model).signatures
    rows = []
    for name, function in signatures.items():
        for kind, specs in (
            ("takes", function.structured_input_signature[1]),
            ("returns", function.structured_outputs),
        ):
            rows += [
                (name, kind, key, spec.dtype.name, spec.shape)
                for key, spec in sorted(specs.items())
            ]
    titles = ["signature", "", "tensor", "type", "shape"]
    print(tabulate(rows, titles, disable_numparse=True))
    default = tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY
    chosen = _SIGNATURE.value or (
        default if default in signatures else next(iter(signatures), None)
    )
    if chosen not in signatures:
        raise UserError(
            f"{saved_model}: --signature must be one of "
            f"{', '.join(signatures) or 'which it has none'}. Received: {chosen}."
        )
    return chosen


def _find_images() -> Tuple[Any, str]:
    """Some images, float32 [B, S, S, 3] in [-1, 1], and where they are from."""
    import tensorflow as tf

    from soka_tf.data.pipeline import preprocess_images
    from soka_tf.data.samples import drop_damaged, spread
    from soka_tf.data.sources import folder, rooms
    from soka_tf.runs.build_data import default_cache_dir

    side = _IMAGE_SIZE.value
    if _IMAGES.value:
        samples, source = folder.find(_IMAGES.value), _IMAGES.value
    else:
        wanted = rooms.Rooms(
            seed=_ROOMS_SEED, count=_ROWS, train_views=1, validation_views=0
        )
        samples = rooms.find(wanted, default_cache_dir(), [], side).train
        source = "drawn rooms"
    samples, _ = drop_damaged(spread(samples, _ROWS), [])
    if not samples:
        raise UserError(f"{source}: none of the images can be read.")
    shown = [preprocess_images(s.read("rgb")[None], side, True) for s in samples]
    return tf.concat(shown, 0), source


def _write_draft(saved_model: str, signature: str, out_dir: str, images: Any) -> None:
    """Copies the SavedModel with its new outputs, and writes a manifest of it."""
    from soka_tf.atomic import write_json
    from soka_tf.data.filesystem import sha256_of
    from soka_tf.tasks import get_task
    from soka_tf.teachers.saved_model import manifest
    from soka_tf.teachers.saved_model.draft_manifest import draft, draft_input
    from soka_tf.teachers.saved_model.graph_layers import expose
    from soka_tf.teachers.saved_model.network import load_saved_model

    target = os.path.join(out_dir, _COPY)
    if os.path.exists(target):
        raise UserError(
            f"{target} is there without a {manifest.FILE}. Remove it, or name another "
            "--out_dir."
        )
    os.makedirs(out_dir, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out_dir) as work:
        _list_candidates(saved_model, signature, os.path.join(work, "all"))
        place = os.path.join(work, _COPY)
        expose(saved_model, signature, place, _LAYER.value)
        function = load_saved_model(place).signatures[signature]
        ((name, spec),) = _one_argument(function, signature)
        given = draft_input(name, spec)
        outputs = _ask(function, given, spec, images)
        try:
            known = bool(_TASK.value and get_task(_TASK.value))
        except UserError:
            known = False
        content = draft(signature, given, outputs, _LAYER.value, _TASK.value, known)
        os.rename(place, target)
    files = manifest.files_of(target)
    content["sha256"] = {os.path.relpath(f, out_dir): sha256_of(f) for f in files}
    write_json(os.path.join(out_dir, manifest.FILE), content, indent=2)


def _one_argument(function: Any, signature: str) -> List[Tuple[str, Any]]:
    arguments = list(function.structured_input_signature[1].items())
    if len(arguments) != 1:
        raise UserError(
            f"The signature {signature!r} takes "
            f"{', '.join(name for name, _ in arguments) or 'nothing'}; that of a "
            "teacher takes images and nothing else. Choose another --signature."
        )
    return arguments


def _ask(function: Any, given: Any, spec: Any, images: Any) -> Dict[str, Any]:
    """What a signature answers to images, as numpy arrays."""
    import tensorflow as tf

    from soka_tf.errors import reason
    from soka_tf.teachers.saved_model.manifest import Input
    from soka_tf.teachers.saved_model.preprocessing import prepared
    from soka_tf.teachers.saved_model.resizing import resize

    own = given["size"] or images.shape[1:3]
    ready = prepared(Input(**given), resize(images, *own), spec.dtype)
    try:
        answers = function(**{given["name"]: ready})
    except (ValueError, TypeError, tf.errors.OpError) as error:
        raise UserError(
            f"The signature cannot be run on images of {list(own)} pixels "
            f"({reason(error)}). Give another --image_size."
        ) from error
    return {
        name: tf.cast(value, tf.float32).numpy()
        if value.dtype.is_floating
        else value.numpy()
        for name, value in answers.items()
    }


def _list_candidates(saved_model: str, signature: str, work: str) -> None:
    """Prints, of every size of activations, the last in the graph."""
    import tensorflow as tf
    from tabulate import tabulate

    from soka_tf.teachers.saved_model.draft_manifest import draft_input
    from soka_tf.teachers.saved_model.graph_layers import expose
    from soka_tf.teachers.saved_model.network import load_saved_model

    names = expose(saved_model, signature, work)
    function = load_saved_model(work).signatures[signature]
    ((name, spec),) = _one_argument(function, signature)
    given = draft_input(name, spec)
    side = given["size"] or [_TRIED_SIDE, _TRIED_SIDE]
    answers = _ask(function, given, spec, tf.zeros([1, *side, 3]))
    last: Dict[Tuple[int, ...], str] = {}
    for name in names:
        shape = answers[name].shape
        if len(shape) == 4 and min(shape[1:]) > 1:
            last.pop(shape[1:], None)  # so that the order is that of the graph
            last[shape[1:]] = name
    rows = [(name, *shape) for shape, name in last.items()]
    if rows:
        print(f"\nActivations for --layer, of images of {side[0]} x {side[1]} pixels:")
        sides = ["height", "width"]
        if given["layout"] == "nhwc":
            titles = [*sides, "channels"]
        else:
            titles = ["channels", *sides]
        print(tabulate(rows, ["layer", *titles]))
    else:
        print("\nNo activation of the graph can become a layer.")


def _describe(teacher: Any, images: Any) -> None:
    import numpy as np

    values = np.asarray(teacher(images, ())["prediction"])
    low, high = teacher.manifest.prediction.range
    outside = np.mean((values < low) | (values > high))
    least, largest = values.min(), values.max()
    print(
        f"\n{teacher.task.name}: {teacher.count_parameters():,} parameters. Of its "
        f"range [{low:g}, {high:g}] the answers have {least:.3g} to {largest:.3g}, "
        f"mean {values.mean():.3g}; {outside:.1%} are outside."
    )
    if teacher.task.encoding is not None and largest - least < _FILLED * (high - low):
        ends = [low if least - low < 0.01 * (high - low) else least, largest]
        print(
            "They fill less than a quarter of it, so that maps are nearly one colour. "
            "If other images give no more, narrow prediction.range, to "
            f"[{ends[0]:.2g}, {ends[1]:.2g}] for instance."
        )
    for name, layer in teacher.layers.items():
        print(f"  layer {name}: {layer.channels} channels, stride {layer.stride}")


def _draw(teacher: Any, images: Any, source: str, path: str) -> None:
    """A row an image: image, map, layers; the map of other inputs."""
    if teacher.task.encoding is None:
        raise UserError(
            f"{teacher.task.name} has no units and no colours, and can be an auxiliary "
            "only. Write another task into the manifest to see a picture."
        )
    import numpy as np

    from soka_tf.data import encodings
    from soka_tf.evaluation import image_grid, map_pictures, panels

    side = images.shape[1]

    def in_units(of: Any) -> Any:
        said = of.in_student_range(of(images, ())["prediction"])
        return np.asarray(encodings.decode(teacher.task, said))

    def column(title: str, cells: Any) -> Any:
        return image_grid.Column(title, list(cells))

    own = in_units(teacher)
    low, high = map_pictures.display_range(teacher.task, own)
    activations = teacher(images)
    shown = list(teacher.layers)[-_LAYERS_SHOWN:]
    layers = [column(name, _as_pictures(activations[name], side)) for name in shown]
    others = {title: in_units(other) for title, other in _other_inputs(teacher)}

    def maps(of: Any) -> Any:
        return panels.map_columns(teacher.task, of, low, high, side)

    groups = [
        image_grid.Group("image", [column("", encodings.rgb_pixels(images))]),
        image_grid.Group(teacher.task.title, maps({_input_of(teacher): own})),
        image_grid.Group("layers (mean of sizes)", layers),
        image_grid.Group("with another input", maps(others)),
    ]
    page = image_grid.compose([group for group in groups if group.columns], source)
    image_grid.write_png(path, page)


def _input_of(teacher: Any) -> str:
    given = teacher.manifest.input
    low, high = given.range
    return f"[{low}, {high}] {given.channel_order}"


def _other_inputs(teacher: Any) -> Any:
    """Yields the teacher with every other range and order of the channels."""
    given = teacher.manifest.input
    ranges = [given.range] if teacher.takes_integers else ([0, 1], [-1, 1], [0, 255])
    for ends, order in itertools.product(ranges, _ORDERS):
        changed = dataclasses.replace(given, range=ends, channel_order=order)
        if changed != given:
            other = copy.copy(teacher)
            other.manifest = dataclasses.replace(teacher.manifest, input=changed)
            yield _input_of(other), other


def _as_pictures(activation: Any, side: int) -> Any:
    """Mean absolute activations, each image's from its least to its largest."""
    import tensorflow as tf

    from soka_tf.evaluation import image_grid
    from soka_tf.teachers.saved_model.resizing import resize

    sizes = tf.reduce_mean(tf.abs(activation), -1, keepdims=True)
    sizes -= tf.reduce_min(sizes, [1, 2], keepdims=True)
    sizes /= tf.maximum(tf.reduce_max(sizes, [1, 2], keepdims=True), 1e-12)
    return image_grid.apply_colormap(resize(sizes, side, side).numpy()[..., 0], "gray")


if __name__ == "__main__":
    cli.run(main, FLAGS)
