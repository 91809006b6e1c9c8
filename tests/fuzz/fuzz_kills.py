"""kill -9 at random moments of a compiled run, again and again, from start to export.

By `make fuzz`; pytest does not collect this file by itself. SOKA_TF_KILLS and
SOKA_TF_KILLS_SEED are how often, and which moments.
"""

import json
import os
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import tensorflow as tf

from tests import tiny_runs
from tests.faults.faulty_runs import FILES, PARAMS, assert_same_run

KILLS = int(os.environ.get("SOKA_TF_KILLS", 50))
EVERYTHING = (
    "run.teacher_cache = True",
    "run.panel_every_steps = 2",
    "run.export = True",
)


def start(tiny, model_dir, cache):
    params = [*PARAMS, *EVERYTHING, f"run.teacher_cache_dir = {str(cache)!r}"]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "soka_tf.train", f"--model_dir={model_dir}"),
            *(f"--gin_file={file}" for file in FILES),
            *(f"--gin_param={param}" for param in tiny.params()),
            *(f"--gin_param={param}" for param in params),
        ],
        cwd=tiny_runs.ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process):
    _, said = process.communicate()
    assert process.returncode == 0, said


def answers_of(export):
    """Of an exported student, to noise."""
    student = tf.saved_model.load(str(export)).signatures["serving_default"]
    ((name, spec),) = student.structured_input_signature[1].items()
    noise = tf.random.stateless_uniform([2, 16, 16, 3], [0, 0], 0, 255)
    return student(**{name: tf.cast(noise, spec.dtype)})


def assert_files_whole(model_dir, whole):
    """What a run leaves is all there and can be read; the student answers the same."""
    names = [sorted(p.name for p in d.rglob("*.png")) for d in (model_dir, whole)]
    assert names[0] == names[1] and names[0]
    for path in model_dir.rglob("*.json"):
        json.loads(path.read_text(encoding="utf-8"))
    answers = [answers_of(folder / "saved_model") for folder in (model_dir, whole)]
    for name, values in answers[1].items():
        np.testing.assert_array_equal(answers[0][name], values)


def test_run_killed_at_random_moments_ends_like_an_undisturbed_one(tiny, tmp_path):
    moments = random.Random(int(os.environ.get("SOKA_TF_KILLS_SEED", 0)))
    whole, began = tmp_path / "whole", time.monotonic()
    finish(start(tiny, whole, tmp_path / "cache"))
    seconds = time.monotonic() - began
    run, finished, killed = tmp_path / "run0", 0, 0
    while killed < KILLS:
        undisturbed, began = not run.exists(), time.monotonic()
        process = start(tiny, run, tmp_path / f"cache{finished}")
        # Most of the first third is Python's imports.
        try:
            process.wait(moments.uniform(0.3, 1.0) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            killed += 1
            continue
        finish(process)
        if undisturbed:  # the machine may be faster or slower by now
            seconds = time.monotonic() - began
        assert_same_run(run, whole)
        assert_files_whole(run, whole)
        shutil.rmtree(run)
        finished += 1
        run = tmp_path / f"run{finished}"
    finish(start(tiny, run, tmp_path / f"cache{finished}"))
    assert_same_run(run, whole)
    assert_files_whole(run, whole)
    print(f"{killed} kills of {finished + 1} runs of {seconds:.0f} s")
