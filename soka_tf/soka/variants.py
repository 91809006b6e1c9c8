"""Readings of Eq. 3: how the student is drawn to sigma, and what trains W and C.

docs/deviations.md says why there are four, and `Hints` beside them.
"""

import math
from typing import TYPE_CHECKING, List, NamedTuple, Optional, Sequence, Union

import tensorflow as tf

from soka_tf.networks.replicas import (
    gather_replicas,
    mean_over_replicas,
    replica_count,
)

if TYPE_CHECKING:
    from soka_tf.soka.amalgamation import LayerAmalgamation

_EPSILON = 1e-12


class AmalgamationLosses(NamedTuple):
    """Two losses, float32 scalars: of a layer, or of a step.

    Attributes:
      transfer: L_A of Eqs. 3 and 4, what the student's encoder minimises.
      amalgamation: what W, C (and V) minimise; may be L_A itself, the same tensor.
    """

    transfer: tf.Tensor
    amalgamation: tf.Tensor


class Variant:
    """A reading of Eq. 3. It has no variables: `LayerAmalgamation` has them.

    Attributes:
      reconstructs: whether it needs the heads V_i of `reconstruct_teachers`.
      mixes: whether it needs sigma, hence W and C.
      compares_directions: whether `transfer` is the mean over elements of the squared
        difference of vectors of unit length, one a position.
    """

    reconstructs: bool = False
    mixes: bool = True
    compares_directions: bool = False

    def elements(self, student: tf.Tensor) -> Union[int, tf.Tensor]:
        """How many elements of an image `transfer` is the mean over.

        Args:
          student: A_S, [B, h, w, c].
        """
        return math.prod(student.shape[1:])

    def losses(
        self,
        amalgamate: "LayerAmalgamation",
        teachers: Sequence[tf.Tensor],
        student: tf.Tensor,
        weights: Sequence[float],
        presence: Optional[tf.Tensor] = None,
    ) -> AmalgamationLosses:
        """The losses of one layer of the student; a replica's, of its own images.

        Gradients reach the student by `transfer` and W, C and V_i by `amalgamation`
        only, whatever else the two depend on.

        Args:
          amalgamate: the layer's `LayerAmalgamation`: sigma from activations.
          teachers: A_T of every teacher, float32 [B, h, w, c_i], constants.
          student: A_S, float32 [B, h, w, c].
          weights: 1 for a target's teacher, `auxiliary_weight` for an auxiliary.
          presence: what each teacher counts for each image in the student's target,
            float32 [B, m]; given with `transfer.teacher_dropping` only.
        """
        raise NotImplementedError


class Literal(Variant):
    """Eq. 3 as printed, but for its reduction; W and C minimise L_A with the student.

    It collapses: all three shrink together.
    """

    def losses(self, amalgamate, teachers, student, weights, presence=None):
        """See `Variant`."""
        sigma = amalgamate(teachers, presence)
        transfer = tf.reduce_mean(tf.square(student - sigma))
        return AmalgamationLosses(transfer, transfer)


class Normalized(Variant):
    """Eq. 3 on activations L2-normalised at every position."""

    compares_directions = True

    def losses(self, amalgamate, teachers, student, weights, presence=None):
        """See `Variant`."""
        transfer = distance_of_directions(student, amalgamate(teachers, presence))
        return AmalgamationLosses(transfer, transfer)


class OuterProduct(Variant):
    """The sentence before Eq. 3: the batch's outer products A A^T, rows L2-normalised.

    Similarity-preserving distillation (Tung and Mori, 2019).
    """

    def elements(self, student):
        """An image's row: its product with every image of the global batch."""
        return tf.cast(tf.shape(student)[0] * replica_count(), tf.float32)

    def losses(self, amalgamate, teachers, student, weights, presence=None):
        """See `Variant`."""
        # A replica's rows of the global batch's products; the mean over the replicas
        # of what it returns is the loss of the global batch.
        sigma = amalgamate(teachers, presence)
        difference = _outer_product(student) - _outer_product(sigma)
        size = tf.cast(tf.size(difference), difference.dtype)
        transfer = tf.reduce_sum(tf.square(difference)) / size
        return AmalgamationLosses(transfer, transfer)


class Reconstruction(Variant):
    """W, C and linear heads V_i minimise ||V_i sigma - A_i||^2, A_i of unit deviation.

    The deviation is the batch's, unless fixed statistics have made it one.
    Thus sigma keeps what every teacher knows; the student sees it as a constant,
    compared as in `Normalized`.
    """

    reconstructs = True
    compares_directions = True

    def losses(self, amalgamate, teachers, student, weights, presence=None):
        """See `Variant`."""
        if not amalgamate.standardized:
            teachers = unit_deviation(teachers)
        sigma = amalgamate(teachers)
        errors = [
            weight * tf.reduce_mean(tf.square(read - activation))
            for weight, read, activation in zip(
                weights, amalgamate.reconstruct_teachers(sigma), teachers
            )
        ]
        if presence is not None:
            sigma = amalgamate(teachers, presence)
        transfer = distance_of_directions(student, tf.stop_gradient(sigma))
        return AmalgamationLosses(transfer, tf.add_n(errors))


class Hints(Variant):
    """FitNet's hints (Romero et al., ICLR 2015): no sigma, a regressor V_i a teacher.

    Student and V_i minimise the mean over the teachers of ||V_i A_S - A_i||^2, A_i of
    unit deviation, the batch's unless fixed statistics have made it one.
    """

    reconstructs = True
    mixes = False

    def losses(self, amalgamate, teachers, student, weights, presence=None):
        """See `Variant`."""
        if not amalgamate.standardized:
            teachers = unit_deviation(teachers)
        errors = []
        read = amalgamate.reconstruct_teachers(student)
        for i, (weight, mine, activation) in enumerate(zip(weights, read, teachers)):
            error = tf.square(mine - activation)
            if presence is not None:
                error *= presence[:, i, None, None, None]
            errors.append(weight * tf.reduce_mean(error))
        transfer = tf.add_n(errors) / float(sum(weights))
        return AmalgamationLosses(transfer, transfer)


VARIANTS = {
    "literal": Literal,
    "normalized": Normalized,
    "outer_product": OuterProduct,
    "reconstruction": Reconstruction,
    "hints": Hints,
}


def find_variant(variant: Union[str, Variant]) -> Variant:
    """The variant of a name of `VARIANTS`; a `Variant` is itself, else ValueError."""
    if isinstance(variant, Variant):
        return variant
    if variant not in tuple(VARIANTS):
        raise ValueError(
            f"variant must be one of {tuple(VARIANTS)}, or a "
            f"soka_tf.soka.variants.Variant. Received: {variant!r}."
        )
    return VARIANTS[variant]()


def distance_of_directions(student: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Mean square of the difference of unit vectors, [B, h, w, c] each."""
    # A mean over channels, too: a layer of unit vectors weighs as 1 / channels.
    difference = _unit_length(student) - _unit_length(sigma)
    return tf.reduce_mean(tf.square(difference))


def unit_deviation(activations: Sequence[tf.Tensor]) -> List[tf.Tensor]:
    """Divides by the standard deviation over the batch, one scalar a teacher."""
    if replica_count() == 1:
        deviations = [tf.math.reduce_std(a) for a in activations]
    else:
        means = mean_over_replicas([tf.reduce_mean(a) for a in activations])
        variances = mean_over_replicas(
            [tf.reduce_mean(tf.square(a - m)) for a, m in zip(activations, means)]
        )
        deviations = [tf.sqrt(variance) for variance in variances]
    return [a / (deviation + 1e-6) for a, deviation in zip(activations, deviations)]


def _unit_length(activation: tf.Tensor) -> tf.Tensor:
    return tf.math.l2_normalize(activation, axis=-1, epsilon=_EPSILON)


def _outer_product(activation: tf.Tensor) -> tf.Tensor:
    """Row-normalised similarities [B, B] of the batch's flattened activations.

    Among replicas [B, R * B], the rows of a replica's images.
    """
    flat = tf.reshape(activation, [tf.shape(activation)[0], -1])
    product = tf.matmul(flat, gather_replicas(flat), transpose_b=True)
    return tf.math.l2_normalize(product, axis=1, epsilon=_EPSILON)
