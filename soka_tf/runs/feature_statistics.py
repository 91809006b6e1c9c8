"""The statistics that a run standardises its teachers' features by, kept with it."""

import dataclasses
import os
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
from absl import logging
from tqdm import tqdm

from soka_tf.atomic import write_json
from soka_tf.data.documents import Number, read_json, refusing
from soka_tf.data.image_files import RGB
from soka_tf.data.pipeline import Batches, labelled_dataset
from soka_tf.data.samples import Sample, drop_damaged
from soka_tf.errors import counted
from soka_tf.teachers.feature_statistics import Moments, Statistics, measure_features
from soka_tf.teachers.pool import TeacherPool, Wanted
from soka_tf.teachers.similarity import sample_images

STATISTICS_FILE = "feature_statistics.json"
_REMEDY = "Restore it, or remove it to have them measured anew."
_WRONG = "not the statistics of these teachers' features"
_SHAPE = {
    "layers": {
        str: [
            {
                "task": str,
                "layer": str,
                "fingerprint": str,
                "channels": int,
                "mean": [float],
                "deviation": Number(float, 1e-30),
            }
        ]
    }
}


@dataclasses.dataclass(frozen=True)
class FeatureStatistics:
    """Measures the features of a run's teachers, or reads what was measured before.

    Attributes:
      teachers: of the run.
      samples: returns the images to train on; asked only where there is to measure.
      batches: sizes of what the teachers are shown.
      model_dir: where the statistics are kept, so that a run that goes on has the same.
    """

    teachers: TeacherPool
    samples: Callable[[], Sequence[Sample]]
    batches: Batches
    model_dir: str

    def __call__(self, layers: Wanted, images: int) -> Statistics:
        """Returns the statistics of these layers.

        Args:
          layers: the activations wanted, as a pool takes them.
          images: how many to measure on, spread evenly over the samples.

        Raises:
          UserError: if the file holds those of other teachers or layers, or they cannot
            be measured.
        """
        path = os.path.join(self.model_dir, STATISTICS_FILE)
        owners = _owners(self.teachers, layers)
        if os.path.isfile(path):
            return _read(path, owners)
        readable, _ = drop_damaged(sample_images(self.samples(), images), [RGB])
        count = counted(len(readable), "image")
        logging.info("Measuring the teachers' features on %s ...", count)
        # Without labels: a mask would be read for nothing.
        plain = [dataclasses.replace(s, files={RGB: s.files[RGB]}) for s in readable]
        dataset = labelled_dataset(plain, [], self.batches)
        total = -(-len(plain) // self.batches.batch_size)
        with tqdm(dataset, "measuring", total, unit="batch", disable=None) as bar:
            shown = (batch[RGB] for batch in bar)
            statistics = measure_features(self.teachers, layers, shown)
        os.makedirs(self.model_dir, exist_ok=True)
        write_json(path, {"images": len(plain), "layers": _rows(owners, statistics)})
        return statistics


def _owners(teachers: TeacherPool, layers: Wanted) -> Dict[str, List[Dict[str, Any]]]:
    """Layer -> whose activations are amalgamated there, in the pool's order."""
    known = {**teachers.targets, **teachers.auxiliaries}
    lent = teachers.layers_of_each(layers)
    return {
        layer: [
            {
                "task": name,
                "layer": own[layer],
                "fingerprint": str(known[name].fingerprint),
                "channels": int(known[name].layers[own[layer]][0]),
            }
            for name, own in lent.items()
            if layer in own
        ]
        for layer in layers
    }


def _rows(owners: Dict[str, List[Any]], statistics: Statistics) -> Dict[str, List[Any]]:
    return {
        layer: [
            {**owner, "mean": moments.mean.tolist(), "deviation": moments.deviation}
            for owner, moments in zip(owners[layer], statistics[layer])
        ]
        for layer in owners
    }


def _read(path: str, owners: Dict[str, List[Any]]) -> Statistics:
    found = read_json(path, _SHAPE, _REMEDY, _WRONG)["layers"]
    with refusing(path, _REMEDY, _WRONG):
        for layer, wanted in owners.items():
            rows: Optional[List[Any]] = found.get(layer)
            if rows is None or len(rows) != len(wanted):
                raise ValueError(f"{len(rows or ())} teachers at {layer!r}")
            for row, owner in zip(rows, wanted):
                wrong = [key for key, value in owner.items() if row[key] != value]
                if len(row["mean"]) != owner["channels"]:
                    wrong.append("number of means")
                if wrong:
                    raise ValueError(
                        f"the teacher of {owner['task']!r} has another {wrong[0]} at "
                        f"{layer!r}"
                    )
    return {
        layer: [Moments(np.array(r["mean"], np.float64), r["deviation"]) for r in rows]
        for layer, rows in found.items()
        if layer in owners
    }
