"""A teacher of a SavedModel, run as its manifest says."""

import concurrent.futures
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

import tensorflow as tf

from soka_tf.errors import UserError, did_you_mean, reason
from soka_tf.networks.backbone import FeatureLayer
from soka_tf.networks.untrusted import refuse_programs
from soka_tf.teachers.saved_model.manifest import PREDICTION, Manifest
from soka_tf.teachers.saved_model.preprocessing import prepared
from soka_tf.teachers.saved_model.resizing import resize
from soka_tf.teachers.saved_model.student_range import into_student_range
from soka_tf.teachers.teacher import Teacher

# Side in pixels that a network of any size is tried at; every usual stride divides it.
_TRIED_SIDE = 128
_FLOATS = (tf.float16, tf.bfloat16, tf.float32, tf.float64)
_ACTIVATIONS: Dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
    "none": tf.identity,
    "sigmoid": tf.sigmoid,
    "softmax": tf.nn.softmax,
    "tanh": tf.tanh,
}


class SavedModelTeacher(Teacher):
    """A frozen SavedModel; its layers are those that the manifest names.

    Called on images of any size, it shows them to the network at the network's own, and
    brings the prediction back to theirs: [B, H, W, C] in the range that
    `prediction.range` names. `in_student_range` turns that into the task's encoding.
    Layers are [B, h, w, c] as the network gives them.
    """

    def __init__(self, manifest: Manifest, trust_saved_model: bool = False):
        """Loads the SavedModel and runs it once.

        Args:
          manifest: its description.
          trust_saved_model: whether it may do more than compute; a SavedModel is a
            program.

        Raises:
          UserError: if the files are not those that the manifest names, the SavedModel
            does more than compute, or is not what the manifest says.
        """
        manifest.check_files()
        if not trust_saved_model:
            refuse_programs(manifest.saved_model, "Fetch it again.")
        self.manifest = manifest
        self.task = manifest.task
        self.fingerprint = manifest.fingerprint()
        # A function alone does not keep its variables alive.
        self._model = load_saved_model(manifest.saved_model)
        self._function = self._signature()
        self._name, self._spec = self._argument()
        self._shapes: Dict[Tuple[int, int], Dict[str, List[int]]] = {}
        size = manifest.input.size or (_TRIED_SIDE, _TRIED_SIDE)
        height, width = size
        shapes = self._shapes_at(height, width)
        received = [None, *shapes[PREDICTION]]
        if received[-1] != self.task.channels:
            raise self._refusal(
                f"prediction.output must have the {self.task.channels} channels of "
                f"{self.task.name}. Received: {received} (as nhwc; prediction.layout "
                f"is {manifest.prediction.layout!r})."
            )
        self.layers = {
            name: FeatureLayer(shape[-1], max(1, round(height / shape[0])))
            for name, shape in shapes.items()
            if name != PREDICTION
        }

    def __call__(
        self, images: tf.Tensor, layers: Optional[Sequence[str]] = None
    ) -> Dict[str, tf.Tensor]:
        """Runs the network, see `Teacher`; the prediction in the manifest's range."""
        images = tf.convert_to_tensor(images, tf.float32)
        shape = tf.shape(images)
        height, width = (images.shape[i] or shape[i] for i in (1, 2))
        own_height, own_width = self.manifest.input.size or (height, width)
        outputs = self._run(resize(images, own_height, own_width))
        if images.shape[1:3].is_fully_defined():
            for name, known in self._shapes_at(own_height, own_width).items():
                outputs[name] = tf.ensure_shape(outputs[name], [None, *known])
        prediction = _ACTIVATIONS[self.manifest.prediction.activation](
            outputs[PREDICTION]
        )
        answer = {
            name: outputs[name] for name in (self.layers if layers is None else layers)
        }
        answer[PREDICTION] = resize(prediction, height, width)
        return {name: tf.stop_gradient(value) for name, value in answer.items()}

    def in_student_range(self, prediction: tf.Tensor) -> tf.Tensor:
        """See `Teacher`."""
        return into_student_range(self.task, prediction, self.manifest.prediction.range)

    def count_parameters(self) -> int:
        """Scalars of constants and of trainable variables; of all where none is."""
        variables = self._function.variables
        trainable = [v for v in variables if v.trainable] or variables
        return self._constants() + sum(v.shape.num_elements() for v in trainable)

    @property
    def takes_integers(self) -> bool:
        """Whether the network is shown uint8."""
        return self._spec.dtype.is_integer

    def _constants(self) -> int:
        """Scalars of weights that are constants of the graph or captured by it."""
        graph = self._function.graph.as_graph_def()
        nodes = [n for f in graph.library.function for n in f.node_def] + [*graph.node]
        shapes = [
            tf.TensorShape(node.attr["value"].tensor.tensor_shape)
            for node in nodes
            if node.op == "Const" and tf.as_dtype(node.attr["dtype"].type) in _FLOATS
        ]
        shapes += [
            t.shape for t in self._function.captured_inputs if t.dtype in _FLOATS
        ]
        return sum(shape.num_elements() for shape in shapes if shape.rank)

    def _refusal(self, what: str) -> UserError:
        return UserError(f"{self.manifest.path}: {what}")

    def _signature(self) -> Any:
        """The function that the manifest names, with all outputs that it names."""
        name = self.manifest.signature
        known = self._model.signatures
        if name not in known:
            raise self._refusal(
                f"signature must be one of the SavedModel's, "
                f"{', '.join(known) or 'which has none'}. Received: {name!r}"
                f"{did_you_mean(name, known) or '.'}"
            )
        function = known[name]
        there = sorted(function.structured_outputs)
        for place, output in self._outputs().items():
            if output.output not in there:
                raise self._refusal(
                    f"{place}.output must be one of the outputs of the signature "
                    f"{name!r}, {', '.join(there)}. Received: {output.output!r}"
                    f"{did_you_mean(output.output, there) or '.'}"
                )
        return function

    def _outputs(self) -> Dict[str, Any]:
        """Place in the manifest -> output."""
        layers = self.manifest.layers.items()
        named = {f"layers.{name}": layer for name, layer in layers}
        return {PREDICTION: self.manifest.prediction, **named}

    def _argument(self) -> Tuple[str, tf.TensorSpec]:
        """Name and specification of the signature's one argument."""
        given = self.manifest.input
        arguments = self._function.structured_input_signature[1]
        names = ", ".join(arguments)
        if given.name is not None and given.name not in arguments:
            raise self._refusal(
                "input.name must be the argument of the signature "
                f"{self.manifest.signature!r}, {names}. Received: {given.name!r}"
                f"{did_you_mean(given.name, arguments) or '.'}"
            )
        if len(arguments) != 1:
            raise self._refusal(
                "signature must be one that takes images and nothing else. Received: "
                f"{self.manifest.signature!r}, which takes {names or 'nothing'}."
            )
        ((name, spec),) = arguments.items()
        self._check_argument(spec)
        return name, spec

    def _check_argument(self, spec: tf.TensorSpec) -> None:
        given = self.manifest.input
        if spec.dtype not in (*_FLOATS, tf.uint8):
            raise self._refusal(
                f"signature must be one that takes floating-point numbers or uint8. "
                f"Received: {self.manifest.signature!r}, which takes {spec.dtype.name}."
            )
        plain = list(given.range) == [0, 255] and not (given.mean or given.std)
        if spec.dtype == tf.uint8 and not plain:
            raise self._refusal(
                "input.range must be [0, 255], without mean and std, for a signature "
                f"that takes uint8. Received: {list(given.range)}."
            )
        size = list(given.size or (None, None))
        wanted = {"nhwc": [None, *size, 3], "nchw": [None, 3, *size]}[given.layout]
        if not tf.TensorShape(wanted).is_compatible_with(spec.shape):
            raise self._refusal(
                f"input.size and input.layout make images {wanted}. The signature "
                f"{self.manifest.signature!r} takes {spec.shape}."
            )
        shape = spec.shape.as_list() if spec.shape.rank else wanted
        if shape[0] is not None:
            raise self._refusal(
                "signature must be one that takes any number of images. Received: "
                f"{self.manifest.signature!r}, which takes {spec.shape}. Export the "
                "network with a free batch dimension."
            )
        fixed = [length for length in shape[1:] if length not in (None, 3)]
        if given.size is None and fixed:
            raise self._refusal(
                f"input.size must be {fixed}, what the signature "
                f"{self.manifest.signature!r} takes. Received: None."
            )

    def _shapes_at(self, height: int, width: int) -> Dict[str, List[int]]:
        """Name -> [h, w, c] of each output for images of a size, found by running it.

        Exported graphs often do not know the shapes of their outputs.
        """
        if (height, width) not in self._shapes:
            with tf.init_scope():
                try:
                    outputs = self._run(tf.zeros([1, height, width, 3]))
                except (ValueError, TypeError, tf.errors.OpError) as error:
                    raise self._refusal(
                        f"the SavedModel cannot be run on images of {height} x {width} "
                        f"pixels ({reason(error)}). input.size must be one that it "
                        f"takes. Received: {self.manifest.input.size}."
                    ) from error
            self._shapes[height, width] = {
                name: value.shape[1:].as_list() for name, value in outputs.items()
            }
        return self._shapes[height, width]

    def _run(self, images: tf.Tensor) -> Dict[str, tf.Tensor]:
        """Images of the network's size to its outputs, float32 [B, h, w, c]."""
        ready = prepared(self.manifest.input, images, self._spec.dtype)
        said = self._function(**{self._name: ready})
        outputs = {}
        for place, output in self._outputs().items():
            value = said[output.output]
            if value.shape.rank not in (None, 4) or value.dtype not in _FLOATS:
                raise self._refusal(
                    f"{place}.output must be floating-point numbers of 4 dimensions. "
                    f"Received: {output.output!r}, {value.dtype.name} {value.shape}."
                )
            value = tf.ensure_shape(tf.cast(value, tf.float32), [None] * 4)
            if output.layout == "nchw":
                value = tf.transpose(value, [0, 2, 3, 1])
            outputs[place.partition(".")[2] or PREDICTION] = value
        return outputs


def load_saved_model(saved_model: str) -> Any:
    """Loads a SavedModel.

    Raises:
      UserError: if TensorFlow cannot.
    """
    try:
        # The scope of a strategy is its thread's, and what is loaded within one can be
        # run by a replica only, not to be looked at.
        with concurrent.futures.ThreadPoolExecutor(1) as thread:
            return thread.submit(tf.saved_model.load, saved_model).result()
    except Exception as error:  # of damaged files TensorFlow raises nearly any
        raise UserError(
            f"{saved_model}: TensorFlow {tf.__version__} cannot load it "
            f"({reason(error)}). It is damaged, or has operations of another version."
        ) from error
