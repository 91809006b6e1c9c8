"""How L_A is put together: reduction, layers, adapters, dropped teachers (Eqs. 2-4)."""

import dataclasses
from typing import Annotated, Any, Dict, Mapping, Optional, Sequence, Union

import tensorflow as tf

from soka_tf.kinds import Flag, check_fields, either, list_of, number, one_of
from soka_tf.networks.replicas import replica_count, replica_index
from soka_tf.soka.distillation import REDUCTIONS

ELEMENTS, EQUAL = LAYER_WEIGHTS = ("elements", "equal")
_NUMBERS = list_of(number(0.0), "a list of non-negative numbers, one a layer")


@dataclasses.dataclass(frozen=True)
class Transfer:
    """How L_A is put together (Eqs. 2 to 4).

    Attributes:
      reduction: of a layer's squared distance: the "mean" over an image's elements, or
        their "sum", as Eq. 3 is printed; either is averaged over the images.
      layer_weights: factors of the layers in Eq. 4. "elements" has none: unit vectors
        of C channels then weigh as 1 / C. "equal" has the squared distance of unit
        vectors at a position count the same in every layer, with the layers' sum as
        it was; for variants that compare directions. Or one number a layer.
      adapter: whether L_A sees the student's activations through a trained linear map,
        see `soka_tf.soka.linear.Adapter`.
      teacher_dropping: the probability with which a teacher is left out of sigma, for
        each image anew; what remains is scaled to the sum of all. Where all would be
        left out, all stay. What W, C and V_i minimise in `reconstruction` keeps all.
      seed: of these draws.

    Raises:
      ValueError: if a setting is out of range.
    """

    reduction: Annotated[str, one_of(REDUCTIONS)] = "mean"
    layer_weights: Annotated[
        Union[str, Sequence[float]], either(one_of(LAYER_WEIGHTS), _NUMBERS)
    ] = ELEMENTS
    adapter: Flag = False
    teacher_dropping: Annotated[float, number(0.0, 1.0, below=True)] = 0.0
    seed: int = 0

    def __post_init__(self):
        check_fields(self)

    def check(self, layers: Sequence[str], compares_directions: bool) -> None:
        """Refuses weights that do not fit the layers, or the variant.

        Args:
          layers: those amalgamated.
          compares_directions: of the `Variant`.

        Raises:
          ValueError: says what fits.
        """
        weights = self.layer_weights
        if weights == EQUAL and not compares_directions:
            raise ValueError(
                "transfer.layer_weights = 'equal' is for variants that compare unit "
                "vectors, 'normalized' and 'reconstruction'. Received: another. Bind "
                "'elements', or one number a layer."
            )
        if not isinstance(weights, str) and len(weights) != len(layers):
            raise ValueError(
                "transfer.layer_weights must be one number for each of "
                f"{list(layers)}. Received: {list(weights)}."
            )

    def factors(
        self, channels: Mapping[str, int], elements: Mapping[str, Any]
    ) -> Dict[str, Any]:
        """What each layer's mean over elements is multiplied by; None for 1.

        Args:
          channels: layer -> those of the student.
          elements: layer -> how many elements of an image there are.
        """
        given = {k: elements[k] if self.reduction == "sum" else None for k in channels}
        if self.layer_weights == ELEMENTS:
            return given
        sizes = {k: 1.0 if size is None else size for k, size in given.items()}
        if self.layer_weights == EQUAL:
            of_units = sum(sizes[k] / c for k, c in channels.items()) / len(channels)
            return {k: of_units * c for k, c in channels.items()}
        return {k: sizes[k] * w for k, w in zip(channels, self.layer_weights)}

    def presence(
        self, teachers: int, images: tf.Tensor, step: tf.Tensor
    ) -> Optional[tf.Tensor]:
        """What each teacher counts for each image; None where none is left out.

        The draws depend on seed, step and an image's place in the global batch alone,
        so that a resumed run repeats them, on any number of replicas.

        Args:
          teachers: how many there are.
          images: of this replica, an int scalar.
          step: int64 scalar, steps since the start.

        Returns:
          float32 [images, teachers]: 0, or teachers / those kept.
        """
        if not self.teacher_dropping:
            return None
        seed = tf.stack([tf.constant(self.seed, tf.int64), tf.cast(step, tf.int64)])
        shape = [replica_count() * images, teachers]
        drawn = tf.random.stateless_uniform(shape, seed)
        if replica_count() > 1:
            drawn = drawn[replica_index() * images :][:images]
        kept = tf.cast(drawn >= self.teacher_dropping, tf.float32)
        kept = tf.where(tf.reduce_any(kept > 0, 1, keepdims=True), kept, 1.0)
        return kept * float(teachers) / tf.reduce_sum(kept, 1, keepdims=True)
