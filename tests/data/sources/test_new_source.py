"""A source from outside the package: this file is all that it takes."""

import gin
import numpy as np
import pytest

from soka_tf.data.encodings import decode, store
from soka_tf.data.samples import Sample
from soka_tf.data.targets import label_reader
from soka_tf.runs.run_evaluation import evaluate_run
from soka_tf.runs.training_loop import train
from soka_tf.tasks import TASKS
from tests.tiny_runs import write_images


def read_array(path, domain):
    """Labels in physical units (metres for depth), which the table encodes."""
    return store(TASKS[domain], np.load(path))


@gin.register
def arrays(domains, folder):
    """folder/0.png, 0_depth_zbuffer.npy and so on."""
    samples = []
    for key in "012345":
        paths = {domain: f"{folder}/{key}_{domain}.npy" for domain in domains}
        paths["rgb"] = f"{folder}/{key}.png"
        samples.append(Sample(key, key, paths, read_array))
    return samples


@pytest.mark.usefixtures("fresh_gin")
def test_source_of_this_file_is_bound_trained_on_and_evaluated(tiny, tmp_path):
    write_images(tmp_path, 6)
    for key in "012345":
        np.save(tmp_path / f"{key}_depth_zbuffer.npy", np.full((16, 16, 1), 3.0))
        np.save(tmp_path / f"{key}_edge_texture.npy", np.full((16, 16, 1), 0.02))
    params = ["max_steps = 2", "build_data.source = @arrays"]
    params += [f"arrays.folder = {str(tmp_path)!r}"]
    run = tiny.build(tmp_path, *params, files=["gin/methods/dmtl.gin"])
    assert run.settings.by_labels and len(run.data.train) == 4
    label = label_reader(run.data.train, run.settings.targets, 16)(0).maps
    depth = decode(TASKS["depth_zbuffer"], label["depth_zbuffer"])
    np.testing.assert_allclose(depth, 3.0, rtol=1e-5)
    train(run, str(tmp_path))
    found = evaluate_run(run, str(tmp_path))
    assert found["labelled_images"] == {"depth_zbuffer": 2, "edge_texture": 2}
    assert found["tasks"]["depth_zbuffer"]["baseline_median"]["rmse"] == 0  # all 3 m
