"""The training cycle without any sharing: plain, slow, to be read beside the paper.

Every phase runs the teachers and the whole student anew, under one ordinary
GradientTape, and differentiates one scalar loss. Whoever stands still is put back to
the moving statistics it had. GradNorm differentiates Eq. 7 through the gradient.

It borrows from a `SokaModel` the networks, the optimizers and the settings, and calls
none of its methods. It runs eagerly, to be trusted, and in a graph, to be the baseline
of `tools/benchmark.py cycle`. One choice the paper leaves open: the gradient norms are
taken at the encoder as it was when the cycle began, where its own gradient is taken,
too, with the decoders as competition left them.
"""

import numpy as np
import scipy.optimize
import tensorflow as tf

from soka_tf.soka.balancing.gradnorm import GradNorm
from soka_tf.soka.balancing.uncertainty import Uncertainty
from soka_tf.soka.balancing.upgrad import UPGrad


def joint_step(model, images):
    """Step 2: everybody minimises the weighted soft-target losses.

    With `joint_weighting` the encoder's are weighted by a rule that does so, and
    learned uncertainty takes its step; GradNorm's has a test of its own.
    """
    taught = run_teachers(model, images)
    count, decay = len(model.tasks), model.objective.weight_decay
    of_cycle = model.schedule.joint_loss == "of_cycle"
    scaled = model.joint_amalgamation or of_cycle
    factor = soft_weight(model) * count if scaled else 1.0
    shares = None
    if model.schedule.joint_weighting:
        alpha = factor / count
        shares = encoder_shares(model, images, alpha=alpha, joint=True)
    if shares is None and model.objective.transfer_as_task:
        shares = (count + 1) * tf.identity(model.balancing.task_weights)
    with tf.GradientTape(persistent=True) as tape:
        predictions, features = run_student(model, images)
        losses = soft_losses(model, taught, predictions)
        total = tf.reduce_sum(task_weights(model) * losses)
        encoder_loss, transfer = factor * total, tf.zeros([])
        if shares is not None:
            encoder_loss = factor * tf.reduce_mean(shares[:count] * losses)
        if model.joint_amalgamation:
            transfer, own = amalgamation_losses(model, taught, features)
            as_task = model.objective.transfer_as_task
            encoder_loss += shares[count] * transfer if as_task else transfer
        encoder_loss += penalty(decay, moving_encoder(model) + adapters(model))
        decoder_loss = total if of_cycle else factor * total
        decoder_loss += penalty(decay, moving_decoders(model))
    move(model, tape, encoder_loss, "encoder", moving_encoder(model))
    move(model, tape, decoder_loss, "decoders", moving_decoders(model))
    if model.joint_amalgamation:
        move(model, tape, encoder_loss, "adapter", adapters(model))
        move(model, tape, own, "amalgamation", amalgamators(model))
    due = model.step >= model.schedule.initial_losses_step
    if model.objective.transfer_as_task:
        losses = tf.concat([losses, [transfer]], 0)
    record_initial_losses(model, losses, due)
    if model.schedule.joint_weighting:
        uncertainty_step(model, losses)
    model.step.assign_add(1)


def tail(model, images, adversarial=False):
    """Step 3 alone."""
    competition(model, images, adversarial)
    model.step.assign_add(1)


def cycle(model, images, adversarial=False, other_images=None):
    """Steps 3 to 5, phase by phase; with the CGAN term where it is told to.

    `other_images` are those of collaboration and weighting, unless they are the same.
    """
    before = values(moved_in_collaboration(model))
    competition(model, images, adversarial)
    images = images if other_images is None else other_images
    collaboration(model, images, adversarial)
    weighting(model, images, adversarial, before)
    model.step.assign_add(1)


def simultaneous_cycle(model, images, adversarial=False):
    """Steps 3 to 5, each from where the cycle began, put together at the end."""
    rivals = [*model.student.decoders.values(), *model.discriminators.values()]
    rivals = [v for network in rivals for v in network.variables]
    before = values(moved_in_collaboration(model))
    rivals_at_start = values(rivals)
    competition(model, images, adversarial)
    rivals_at_end = values(rivals)
    assign(rivals, rivals_at_start)
    # The competition's pass is the collaboration's, its instance noise included.
    collaboration(model, images, adversarial, noise=0)
    weighting(model, images, adversarial, before, noise=0)
    assign(rivals, rivals_at_end)
    model.step.assign_add(1)


def competition(model, images, adversarial):
    """Step 3: the decoders minimise Eq. 6, the discriminators their own loss."""
    taught = run_teachers(model, images)
    kept = statistics_of(model.student.encoder, *model.discriminators.values())
    variables = moving_decoders(model)
    with tf.GradientTape() as tape:
        predictions, _ = run_student(model, images, resting="encoder")
        losses = soft_losses(model, taught, predictions)
        if adversarial:
            losses = mixed(
                model, losses, generator_losses(model, images, predictions, 0)
            )
        total = tf.reduce_sum(task_weights(model) * losses)
        total += penalty(model.objective.weight_decay, variables)
    put_back(kept)
    move(model, tape, total, "decoders", variables)
    if adversarial:
        discrimination(model, images, taught, predictions)


def discrimination(model, images, taught, predictions):
    variables = [
        v for task in model.tasks for v in model.discriminators[task].trainable_weights
    ]
    with tf.GradientTape() as tape:
        total = penalty(model.adversary.weight_decay, variables)
        for i, task in enumerate(model.tasks):
            real = logits(model, images, task, taught[task]["prediction"], 100 + i)
            fake = logits(model, images, task, predictions[task], 200 + i)
            total += 0.5 * cross_entropy(real, 0.9) + 0.5 * cross_entropy(fake, 0.0)
    move(model, tape, total, "discriminators", variables)


def collaboration(model, images, adversarial, noise=300):
    """Step 4: the encoder minimises Eq. 8."""
    taught = run_teachers(model, images)
    own_shares = encoder_shares(model, images, adversarial, noise)
    kept = statistics_of(
        *model.student.decoders.values(), *model.discriminators.values()
    )
    variables, count = moving_encoder(model), len(model.tasks)
    with tf.GradientTape(persistent=True) as tape:
        predictions, features = run_student(model, images, resting="decoders")
        losses = soft_losses(model, taught, predictions)
        if adversarial:
            losses = mixed(
                model, losses, generator_losses(model, images, predictions, noise)
            )
        shares = tf.ones(count + 1)
        if model.objective.weighted_collaboration:
            shares = count * tf.stop_gradient(model.balancing.task_weights)
        if model.objective.transfer_as_task:
            shares = (count + 1) * tf.stop_gradient(model.balancing.task_weights)
        if own_shares is not None:
            shares = own_shares
        total = soft_weight(model) * tf.reduce_sum(shares[:count] * losses)
        total += penalty(model.objective.weight_decay, variables + adapters(model))
        if model.amalgamation is not None:
            transfer, own = amalgamation_losses(model, taught, features)
            as_task = model.objective.transfer_as_task
            total += shares[count] * transfer if as_task else transfer
    put_back(kept)
    move(model, tape, total, "encoder", variables)
    if model.amalgamation is not None:
        move(model, tape, total, "adapter", adapters(model))
        move(model, tape, own, "amalgamation", amalgamators(model))


def weighting(model, images, adversarial, before, noise=300):
    """Step 5: the task weights minimise Eq. 7, at the encoder of the cycle's start."""
    taught = run_teachers(model, images)
    encoder = model.student.encoder
    kept = statistics_of(model.student, *model.discriminators.values())
    moved = moved_in_collaboration(model)
    now = values(moved)
    assign(moved, before)

    state = model.balancing
    if not isinstance(state, GradNorm):
        predictions, features = run_student(model, images, resting="decoders")
        losses = soft_losses(model, taught, predictions)
        if model.objective.transfer_as_task:
            transfer, _ = amalgamation_losses(model, taught, features)
            losses = tf.concat([losses, [transfer]], 0)
        uncertainty_step(model, losses)
        put_back(kept)
        assign(moved, now)
        return
    weights = tf.identity(state.task_weights)
    with tf.GradientTape() as outer:
        outer.watch(weights)
        with tf.GradientTape(persistent=True) as inner:
            predictions, features = run_student(model, images, resting="decoders")
            losses = soft = soft_losses(model, taught, predictions)
            if adversarial:
                losses = mixed(
                    model, soft, generator_losses(model, images, predictions, noise)
                )
            if model.objective.transfer_as_task:
                transfer, _ = amalgamation_losses(model, taught, features)
                losses = tf.concat([soft_weight(model) * losses, [transfer]], 0)
                soft = tf.concat([soft, [transfer]], 0)
            weighted = tf.unstack(weights * losses)
        places = {
            "compress": encoder.last_shared_kernel,
            "representation": features["representation"],
        }
        place = places[state.layer]
        norms = [tf.norm(inner.gradient(loss, place)) for loss in weighted]
        if state.norm == "squared_l2":
            norms = [tf.square(norm) for norm in norms]
        norms = tf.stack(norms)
        record_initial_losses(model, soft, True)
        rates = soft / state.initial_losses
        rates /= tf.reduce_mean(rates)
        targets = tf.stop_gradient(tf.reduce_mean(norms) * rates**state.alpha)
        loss = tf.reduce_sum(tf.abs(norms - targets))
    gradient = outer.gradient(loss, weights)

    put_back(kept)
    assign(moved, now)
    if not state.adaptive:
        return
    optimizer = model.optimizers["task_weights"]
    optimizer.apply_gradients([(gradient, state.task_weights)])
    excess = tf.maximum(state.task_weights - state.floor, 0.0)
    share = 1.0 - state.floor * excess.shape[0]
    state.task_weights.assign(state.floor + share * excess / tf.reduce_sum(excess))


def uncertainty_step(model, losses):
    """Kendall's weights minimise sum_i exp(-s_i) L_i + s_i; others have no step."""
    if not isinstance(model.balancing, Uncertainty):
        return
    log_scales = model.balancing.log_scales
    with tf.GradientTape() as tape:
        tape.watch(log_scales)
        loss = tf.reduce_sum(tf.exp(-log_scales) * losses + log_scales)
    gradient = tape.gradient(loss, log_scales)
    model.optimizers["task_weights"].apply_gradients([(gradient, log_scales)])


def encoder_shares(
    model, images, adversarial=False, noise=300, alpha=None, joint=False
):
    """The factors that a rule gives the losses in Eq. 8, float32 [n]; or None.

    With L_A as a task, [n + 1]; `alpha` is then what the tasks have beside it.
    """
    rule = model.balancing
    if isinstance(rule, Uncertainty):
        weights = rule.task_weights
        return weights / tf.reduce_mean(weights)
    if not isinstance(rule, UPGrad):
        return None
    taught = run_teachers(model, images)
    kept = statistics_of(model.student, *model.discriminators.values())
    with tf.GradientTape(persistent=True) as tape:
        predictions, features = run_student(model, images, resting="decoders")
        losses = soft_losses(model, taught, predictions)
        if adversarial:
            losses = mixed(
                model, losses, generator_losses(model, images, predictions, noise)
            )
        losses = tf.unstack(losses)
        if model.objective.transfer_as_task:
            alpha = soft_weight(model) if alpha is None else alpha
            losses = [alpha * loss for loss in losses]
            if model.joint_amalgamation or not joint:
                losses.append(amalgamation_losses(model, taught, features)[0])
    put_back(kept)
    shared = features["representation"]
    jacobian = [tf.reshape(tape.gradient(loss, shared), [-1]) for loss in losses]
    return upgrad_shares(np.float64(jacobian), rule.regularization)


def upgrad_shares(jacobian, regularization):
    """n times UPGrad's weights, each projection by non-negative least squares.

    With v = e_i + u, v' (J J' / trace + regularization * I) v is |A (u + e_i)|^2.
    """
    n = len(jacobian)
    size = np.sqrt(np.sum(jacobian**2)) or 1.0
    matrix = np.concatenate([jacobian.T / size, np.sqrt(regularization) * np.eye(n)])
    rows = [e + scipy.optimize.nnls(matrix, -matrix @ e)[0] for e in np.eye(n)]
    return np.float32(np.sum(rows, axis=0))


# --------------------------------------------------------------------------- losses


def run_teachers(model, images):
    """Task -> a teacher's outputs, targets first, then auxiliaries."""
    pool = model.teachers
    return {t: m(images) for t, m in {**pool.targets, **pool.auxiliaries}.items()}


def run_student(model, images, resting=None):
    """Predictions and features, normalised as in training, or as told who rests."""
    batch = model.schedule.frozen_statistics == "batch"
    features = model.student.encoder(images, training=batch or resting != "encoder")
    predictions = {
        task: model.student.decoders[task](
            features["representation"], training=batch or resting != "decoders"
        )
        for task in model.tasks
    }
    return predictions, features


def _cosine(mine, theirs):
    lengths = tf.norm(mine, axis=-1) * tf.norm(theirs, axis=-1)
    return tf.reduce_sum(mine * theirs, -1) / lengths


def _divergence(mine, theirs):
    return theirs * tf.math.log(theirs / mine)


# Errors of the student to its teacher, by the name of the loss.
_SIZES = {
    "l1": lambda mine, theirs: tf.abs(mine - theirs),
    "l2": lambda mine, theirs: tf.square(mine - theirs),
    "kl": lambda mine, theirs: tf.reduce_sum(_divergence(mine, theirs), -1),
    "bce": lambda mine, theirs: (
        _divergence(mine, theirs) + _divergence(1 - mine, 1 - theirs)
    ),
    "cosine": lambda mine, theirs: 1 - _cosine(mine, theirs),
}


def soft_losses(model, taught, predictions):
    """Eq. 5, float32 [n]."""
    losses = []
    for task in model.tasks:
        size = _SIZES[model.objective.loss_of(task)]
        error = size(predictions[task], taught[task]["prediction"])
        if model.objective.soft_reduction == "sum":
            losses.append(tf.reduce_sum(error) / error.shape[0])
        else:
            losses.append(tf.reduce_mean(error))
    return tf.stack(losses)


def amalgamation_losses(model, taught, features):
    """L_A of Eq. 4 and what the amalgamation minimises."""
    layers = model.amalgamation.layer_names
    activations = {layer: [t[layer] for t in taught.values()] for layer in layers}
    losses = model.amalgamation(activations, features, presence(model, features))
    return losses.transfer, losses.amalgamation


def presence(model, features):
    """What every teacher counts for every image of a step: 0 where it is left out."""
    how = model.amalgamation.transfer
    if not how.teacher_dropping:
        return None
    shape = [len(features["representation"]), len(model.teachers.teachers)]
    drawn = tf.random.stateless_uniform(shape, [how.seed, int(model.step)]).numpy()
    rows = []
    for row in drawn >= how.teacher_dropping:
        row = row if row.any() else np.ones_like(row)
        rows.append(row / row.mean())
    return np.float32(rows)


def soft_weight(model):
    """The alpha of a step."""
    objective = model.objective
    if objective.final_soft_weight is None:
        return objective.soft_weight
    done = min(int(model.step) / objective.soft_weight_steps, 1.0)
    if objective.soft_weight_curve == "cosine":
        done = np.sin(np.pi / 2 * done) ** 2
    return (1 - done) * objective.soft_weight + done * objective.final_soft_weight


def task_weights(model):
    """The decoders' omega: of n + 1 weights of sum 1, n that begin at 1 / n."""
    weights, count = tf.identity(model.balancing.task_weights), len(model.tasks)
    if model.objective.transfer_as_task:
        return weights[:count] * (count + 1) / count
    return weights


def generator_losses(model, images, predictions, noise):
    """The generator's losses, float32 [n]."""
    batch = model.schedule.frozen_statistics == "batch"
    found = [
        logits(model, images, task, predictions[task], noise + i, training=batch)
        for i, task in enumerate(model.tasks)
    ]
    return tf.stack([cross_entropy(one, 1) for one in found])


def mixed(model, soft, generator):
    return (1 - model.adversary.weight) * soft + model.adversary.weight * generator


def logits(model, images, task, maps, noise, training=True):
    step = tf.cast(model.step, tf.float32)
    sigma = model.adversary.noise.get(task, 0.0) / (1 + 0.2 * step / 1000)
    seed = tf.stack([model.adversary.seed, model.step * 1000 + noise])
    maps = maps + sigma * tf.random.stateless_normal(maps.shape, seed)
    pair = tf.concat([images, maps], -1)
    return model.discriminators[task](pair, training=training)


def cross_entropy(logits, label):
    """-label log p - (1 - label) log (1 - p) of p = sigmoid(logit)."""
    return tf.reduce_mean(tf.math.softplus(logits) - label * logits)


def penalty(decay, variables):
    """decay * |w|^2 / 2 over kernels."""
    kernels = [v for v in variables if v.shape.rank > 1]
    return decay * tf.add_n([tf.reduce_sum(tf.square(v)) / 2 for v in kernels])


# -------------------------------------------------------------------------- players


def moving_encoder(model):
    encoder = model.student.encoder
    compress = encoder.get_layer("compress1").trainable_weights
    compress = compress + encoder.get_layer("compress1/BatchNorm").trainable_weights
    names = {id(v) for v in compress}
    trunk = [v for v in encoder.trainable_variables if id(v) not in names]
    return trunk + (compress if model.objective.train_compress else [])


def moving_decoders(model):
    return [
        v
        for task in model.tasks
        for v in model.student.decoders[task].trainable_weights
    ]


def adapters(model):
    """The variables of R and b, which minimise what the encoder minimises."""
    found = model.amalgamation.adapters.values() if model.amalgamation else ()
    return [v for adapter in found for v in (adapter.kernel, adapter.bias)]


def amalgamators(model):
    """W, C and V."""
    others = {id(v) for v in adapters(model)}
    found = model.amalgamation.trainable_variables if model.amalgamation else ()
    return [v for v in found if id(v) not in others]


def moved_in_collaboration(model):
    encoder = model.student.encoder.trainable_variables
    return [*encoder, *amalgamators(model), *adapters(model)]


def move(model, tape, loss, player, variables):
    if not variables:
        return
    gradients = tape.gradient(loss, variables)
    model.optimizers[player].apply_gradients(zip(gradients, variables))


def record_initial_losses(model, losses, due):
    if not isinstance(model.balancing, GradNorm):
        return
    initial = model.balancing.initial_losses
    missing = initial == 0
    initial.assign(tf.where(tf.logical_and(missing, due), losses, initial))


def statistics_of(*networks):
    """The moving statistics of networks, with their values."""
    moving = [v for network in networks for v in network.non_trainable_variables]
    return moving, values(moving)


def put_back(kept):
    assign(*kept)


def values(variables):
    return [tf.identity(v) for v in variables]


def assign(variables, new):
    for variable, value in zip(variables, new):
        variable.assign(value)
