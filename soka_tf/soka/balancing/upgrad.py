"""UPGrad: an encoder's step that conflicts with no task (Quinton and Rey, 2024).

"Jacobian Descent for Multi-Objective Optimization", arXiv 2406.16232: every task's
gradient is projected onto the dual cone of all of them, the vectors that conflict with
none; the mean of the projections is the step. The projection of g_i is sum_j v_j g_j
with v the least of v' G v over v >= e_i, so that the Gram matrix G of the gradients
suffices.

The gradients are the pulls at the shared representation, on the whole batch, and not at
the encoder's parameters: one backward pass of the encoder remains one.
"""

from typing import Annotated

import tensorflow as tf

from soka_tf.kinds import check_arguments, number
from soka_tf.soka.balancing.fixed import Fixed
from soka_tf.soka.balancing.rule import Observation

_TOLERANCE = 1e-10  # of a matrix of trace 1, in float64


def projections(gram: tf.Tensor, regularization: float) -> tf.Tensor:
    """Row i: v, the least of v' (G / trace(G) + regularization * I) v, v >= e_i.

    All rows are solved together by principal pivoting: the free coordinates of a row
    solve its linear system, the others rest at their bound; while some are on the wrong
    side, the last such coordinate of each row changes sides. For a positive definite
    matrix that ends (Murty 1974), in about n rounds.

    Args:
      gram: positive semi-definite, of finite numbers, [n, n].
      regularization: see `UPGrad`.

    Returns:
      float64 [n, n].
    """
    gram = tf.cast(gram, tf.float64)
    bounds = tf.eye(gram.shape[0], dtype=tf.float64)
    gram = tf.math.divide_no_nan(gram, tf.linalg.trace(gram)) + regularization * bounds

    def on_the_wrong_side(free, v):
        return tf.where(free, v < bounds - _TOLERANCE, v @ gram < -_TOLERANCE)

    def change_sides(free, v):
        wrong = on_the_wrong_side(free, v)
        still = tf.cumsum(tf.cast(wrong, tf.int32), axis=1, reverse=True)
        free = free ^ (wrong & (still == 1))
        at_bound = tf.where(free, tf.zeros_like(v), bounds)
        systems = tf.where(free[:, :, None] & free[:, None, :], gram, bounds)
        right = tf.where(free, -at_bound @ gram, bounds)
        factors = tf.linalg.cholesky(systems)
        return free, tf.linalg.cholesky_solve(factors, right[..., None])[..., 0]

    _, v = tf.while_loop(
        lambda free, v: tf.reduce_any(on_the_wrong_side(free, v)),
        change_sides,
        (tf.zeros(bounds.shape, tf.bool), bounds),
    )
    return v


class UPGrad(Fixed):
    """Shares of the encoder by UPGrad; the decoders' task weights are 1 / n each.

    Decoders share nothing, so that they have no conflicts to resolve.
    """

    needs = frozenset({"gram"})
    shares_encoder = True

    def __init__(
        self,
        tasks: int,
        # Below, rounding decides.
        regularization: Annotated[float, number(1e-6, 1.0)] = 1e-4,
    ):
        """Creates the rule.

        Args:
          tasks: the number n of tasks.
          regularization: added to the diagonal of the Gram matrix of trace 1. Pulls of
            less than its square root of all are not amplified until they are heard;
            shares stay below about n times half the inverse of that root.
        """
        super().__init__(tasks)
        check_arguments(UPGrad.__init__, regularization=regularization)
        self.regularization = regularization

    def encoder_shares(self, seen: Observation) -> tf.Tensor:
        """The mean projection's weights times n: 1 each for orthogonal pulls.

        NaN where the Gram matrix is not finite, for its pulls are not either.
        """
        finite = tf.reduce_all(tf.math.is_finite(seen.gram))
        gram = tf.where(finite, seen.gram, tf.zeros_like(seen.gram))
        shares = tf.reduce_sum(projections(gram, self.regularization), axis=0)
        return tf.where(finite, tf.cast(shares, tf.float32), float("nan"))
