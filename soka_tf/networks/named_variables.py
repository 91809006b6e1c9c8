"""Variables of a network by name, as converters and teacher files use them."""

from typing import Dict, Mapping

import numpy as np
import tensorflow as tf


def named_variables(network: tf.keras.Model) -> Dict[str, tf.Variable]:
    """Returns the variables of an encoder, a decoder or a discriminator by path.

    Args:
      network: a model made of plain layers, no models within.

    Returns:
      path -> variable, in the order of the layers. A path is '<layer name>/<leaf>',
      the leaf being kernel, bias, gamma, beta, moving_mean or moving_variance.

    Raises:
      ValueError: if the model holds another one, for paths would be ambiguous.
    """
    variables = {}
    for layer in network.layers:
        if isinstance(layer, tf.keras.Model):
            raise ValueError(
                "named_variables() wants a single network. Received: "
                f"{network.name!r}, which holds the model {layer.name!r}."
            )
        for variable in layer.weights:
            leaf = variable.name.split("/")[-1].split(":")[0]
            variables[f"{layer.name}/{leaf}"] = variable
    return variables


def assign_variables(network: tf.keras.Model, values: Mapping[str, np.ndarray]) -> None:
    """Sets all variables of a network, or none.

    Args:
      network: as for `named_variables`.
      values: path -> array of any float dtype; exactly the network's paths.

    Raises:
      ValueError: if a path is missing, unknown or of another shape.
    """
    variables = named_variables(network)
    faults = [f"missing {path!r}" for path in variables if path not in values]
    faults += [f"unknown {path!r}" for path in values if path not in variables]
    faults += [
        f"{path!r} of shape {np.shape(values[path])}, not {tuple(variable.shape)}"
        for path, variable in variables.items()
        if path in values and np.shape(values[path]) != tuple(variable.shape)
    ]
    if faults:
        shown = "; ".join(faults[:3]) + ("; ..." if len(faults) > 3 else "")
        raise ValueError(
            f"These values do not fit {network.name!r} in {len(faults)} places: "
            f"{shown}. Build the network with the arguments the values came from."
        )
    for path, variable in variables.items():
        variable.assign(np.asarray(values[path], np.float32))
