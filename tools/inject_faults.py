r"""Breaks small runs in every way known, and checks that nothing is lost.

Example (about ten minutes on two cores; all in a temporary folder):

    python tools/inject_faults.py --out=docs/reliability.md

A run of real processes of soka_tf.train on images of noise, with the teachers of the
package, is first left alone. Then it is broken, once a fault, started again with
the same command where it died, and its last checkpoint is compared with the undisturbed
one's, bit for bit, and its metrics.csv row by row. Some of the faults only:

    python tools/inject_faults.py --faults=kill_weighting,full_disk

The table is printed, and put between the two markers of the file --out. A fault that
cost anything makes the exit status 1. Disks that fill or turn read-only are small tmpfs
mounts where the system lets the tool mount them (root on Linux); elsewhere a limit on
the size of files, or a file in the place of the folder. The table says which. Steps are
run eagerly, for tracing the graphs of ten steps would take several times as long;
--compiled runs the graphs.
"""

import contextlib
import csv
import dataclasses
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
from absl import flags
from safetensors import safe_open
from safetensors.numpy import save

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from soka_tf import cli  # noqa: E402
from soka_tf.disk import write_text  # noqa: E402
from soka_tf.errors import UserError  # noqa: E402

FLAGS = flags.FlagValues()
_FAULTS = flags.DEFINE_list("faults", [], "names; all by default", flag_values=FLAGS)
_OUT = flags.DEFINE_string(
    "out", None, "document whose table is replaced", flag_values=FLAGS
)
_COMPILED = flags.DEFINE_bool(
    "compiled", False, "run compiled graphs, as soka_tf.train does", flag_values=FLAGS
)
_KEEP = flags.DEFINE_string(
    "keep", None, "new folder in which all runs stay, to look at", flag_values=FLAGS
)

BEGIN = "<!-- begin: python tools/inject_faults.py --out=docs/reliability.md -->"
END = "<!-- end -->"
CHILD = ROOT / "tools" / "faults" / "child.py"
STEPS, EVERY = 10, 2
TASKS = ("depth_zbuffer", "edge_texture")
_TIMEOUT_SECONDS = 900
# Joint start to step 2, cycles to step 4, then with the CGAN.
BINDINGS = (
    f"max_steps = {STEPS}",
    "batch_size = 2",
    "image_size = 32",
    "auxiliary = 'none'",
    f"run.checkpoint_every_steps = {EVERY}",
    "run.log_every_steps = 1",
    "run.movement_every_steps = 0",
    "run.panel_every_steps = 0",
    "run.panel_images = 1",
    "run.validate_every_steps = 0",
    "run.export = False",
    "build_student.width = 0.03125",
    "build_student.decoder_width = 0.03125",
    "build_student.decoder_min_filters = 2",
    "build_adversary.width = 0.03125",
    "build_adversary.start_step = 4",
    "build_model.joint_steps = 2",
    "build_model.initial_losses_step = 1",
    "build_model.settle_share = 0.0",
    "build_data.check_files = False",
)


@dataclasses.dataclass
class Outcome:
    """What a fault did.

    Attributes:
      done: what was injected, in words.
      said: the line in which the program spoke of it.
      lost: what was lost, in words.
      ok: whether all went as it must.
    """

    done: str
    said: str
    lost: str
    ok: bool


@dataclasses.dataclass
class Ended:
    """A process that has ended: its exit status and what it wrote to stderr."""

    code: int
    text: str

    def line(self, *words: str) -> str:
        """The last line with all of these words, without the program's name."""
        lines = [x for x in self.text.splitlines() if all(w in x for w in words)]
        return lines[-1].strip() if lines else ""


class Bench:
    """Folders, data and the undisturbed run."""

    def __init__(self, folder: pathlib.Path, eagerly: bool):
        """Writes images of noise; nothing is trained yet."""
        self.eagerly = eagerly
        self.folder = folder
        self.images = folder / "images"
        write_images(self.images)
        self.can_mount = _can_mount(folder / "probe")
        self._undisturbed: Dict[Tuple[str, ...], pathlib.Path] = {}

    def command(
        self,
        model_dir: pathlib.Path,
        *further: str,
        fault: str = "none",
        compiled: bool = False,
    ) -> List[str]:
        """The command of a run, with a fault in it if one is given."""
        bindings = [*BINDINGS, f"images_dir = {str(self.images)!r}", *further]
        eagerly = "eagerly" if self.eagerly and not compiled else "compiled"
        return [
            *(sys.executable, str(CHILD), eagerly, fault),
            "--gin_file=gin/rooms/soka.gin",
            "--gin_file=gin/methods/soka_gan.gin",
            *(f"--gin_param={binding}" for binding in bindings),
            f"--model_dir={model_dir}",
        ]

    def run(self, model_dir: pathlib.Path, *further: str, fault: str = "none") -> Ended:
        """Runs such a command to its end."""
        process = start(self.command(model_dir, *further, fault=fault))
        return ended(process)

    def undisturbed(self, *further: str) -> pathlib.Path:
        """The folder of a run with these bindings that nobody disturbed."""
        if further not in self._undisturbed:
            model_dir = self.folder / f"undisturbed_{len(self._undisturbed)}"
            result = self.run(model_dir, *further)
            if result.code:
                raise UserError(f"The undisturbed run failed: {result.text[-2000:]}")
            self._undisturbed[further] = model_dir
        return self._undisturbed[further]

    def again(self, done: str, said: str, model_dir: pathlib.Path, *further: str):
        """Gives the same command again and compares with the undisturbed run."""
        whole = self.undisturbed(*further)
        result = self.run(model_dir, *further)
        start_line = result.line("Continuing from step")
        step = re.search(r"Continuing from step (\d+)", start_line)
        redo = f"it went on from step {step[1]}" if step else "it began anew"
        difference = difference_of(model_dir, whole)
        if result.code or difference:
            told = result.text.strip().splitlines()[-1:] or [""]
            return Outcome(
                done, said, difference or f"exit {result.code}: {told[0]}", False
            )
        return Outcome(done, said, f"nothing; {redo}", True)


def start(command: Sequence[str], **variables: str) -> subprocess.Popen:
    """Starts a process from the root of the repository."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        **variables,
    }
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(process: subprocess.Popen) -> Ended:
    """Waits for a process; one that hangs is killed."""
    try:
        _, text = process.communicate(timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        _, text = process.communicate()
        text += f"\nkilled after {_TIMEOUT_SECONDS} s"
    return Ended(process.returncode, text)


def write_images(folder: pathlib.Path, count: int = 10, size: int = 32) -> None:
    """Writes blurred noise as <n>.png; every third image is bright."""
    from PIL import Image

    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for i in range(count):
        pixels = random.integers(0, 128, (size // 4, size // 4, 3), dtype=np.uint8)
        pixels = pixels + np.uint8(127 if i % 3 == 0 else 0)
        image = Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC)
        image.save(folder / f"{i}.png")


def difference_of(one: pathlib.Path, other: pathlib.Path) -> str:
    """In what two runs ended differently, in words; empty if in nothing."""
    import tensorflow as tf

    paths = [
        tf.train.latest_checkpoint(str(run / "checkpoints")) for run in (one, other)
    ]
    if None in paths or pathlib.Path(paths[0]).name != pathlib.Path(paths[1]).name:
        return f"last checkpoints {paths[0]} and {paths[1]}"
    readers = [tf.train.load_checkpoint(path) for path in paths]
    names = [set(reader.get_variable_to_shape_map()) for reader in readers]
    skipped = {
        "_CHECKPOINTABLE_OBJECT_GRAPH",
        "save_counter/.ATTRIBUTES/VARIABLE_VALUE",
    }
    if names[0] != names[1]:
        return "the checkpoints hold other variables"
    for name in sorted(names[0] - skipped):
        values = [np.asarray(reader.get_tensor(name)) for reader in readers]
        if not np.array_equal(*values):
            return f"{name} differs by {np.abs(values[0] - values[1]).max():.2g}"
    rows = [rows_of(run) for run in (one, other)]
    if rows[0] != rows[1]:
        return f"metrics.csv has {len(rows[0])} and {len(rows[1])} rows or other values"
    return ""


def rows_of(model_dir: pathlib.Path) -> List[Dict[str, str]]:
    """The rows of metrics.csv, without how long they took."""
    with open(model_dir / "metrics.csv", newline="", encoding="utf-8") as file:
        return [
            {name: value for name, value in row.items() if name != "seconds"}
            for row in csv.DictReader(file)
        ]


def last_step(model_dir: pathlib.Path) -> Optional[int]:
    """The step of the last checkpoint that a run's folder names."""
    state = model_dir / "checkpoints" / "checkpoint"
    if not state.exists():
        return None
    return int(re.search(r'"ckpt-(\d+)"', state.read_text())[1])


def _can_mount(folder: pathlib.Path) -> bool:
    folder.mkdir()
    try:
        with tmpfs(folder, "64k"):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


@contextlib.contextmanager
def tmpfs(folder: pathlib.Path, size: str) -> Iterator[None]:
    """A file system in memory, mounted on a folder."""
    folder.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        check=True,
        capture_output=True,
    )
    try:
        yield
    finally:
        subprocess.run(["umount", str(folder)], check=True)


# ------------------------------------------------------------------ the faults


def _killed(bench: Bench, run: pathlib.Path, fault: str, done: str) -> Outcome:
    result = bench.run(run, fault=fault)
    if result.code >= 0:
        return Outcome(done, result.line("error"), "the fault did not happen", False)
    return bench.again(done, "nothing: it was killed", run)


def kill_joint(bench: Bench, run: pathlib.Path) -> Outcome:
    """SIGKILL in the joint start, before any checkpoint."""
    return _killed(bench, run, "kill_in_phase:joint:1", "kill -9 in step 1")


def kill_competition(bench: Bench, run: pathlib.Path) -> Outcome:
    """SIGKILL when the decoders have moved and the encoder has not."""
    return _killed(bench, run, "kill_in_phase:competition:8", "kill -9 in step 8")


def kill_collaboration(bench: Bench, run: pathlib.Path) -> Outcome:
    """SIGKILL when the encoder has moved and the task weights have not."""
    return _killed(bench, run, "kill_in_phase:collaboration:4", "kill -9 in step 4")


def kill_weighting(bench: Bench, run: pathlib.Path) -> Outcome:
    """SIGKILL when the task weights have moved and the step is not counted."""
    return _killed(bench, run, "kill_in_phase:weighting:6", "kill -9 in step 6")


def kill_saving(bench: Bench, run: pathlib.Path) -> Outcome:
    """SIGKILL while a checkpoint is being written."""
    done = "kill -9 while the checkpoint of step 6 is written"
    result = bench.run(run, fault="kill_while_saving:6")
    left = [path.name for path in (run / "checkpoints").glob("ckpt-6*")]
    if result.code >= 0 or last_step(run) != 4 or not left:
        return Outcome(done, "", f"the fault did not happen ({left})", False)
    outcome = bench.again(f"{done}; left {', '.join(sorted(left))}", "nothing", run)
    strays = list((run / "checkpoints").glob("*_temp*"))
    if strays:
        return dataclasses.replace(outcome, lost=f"{strays} stayed", ok=False)
    return outcome


def sigterm(bench: Bench, run: pathlib.Path) -> Outcome:
    """SIGTERM, as schedulers send it."""
    return _killed(bench, run, "send:SIGTERM:7", "kill -15 after step 7")


def interrupt(bench: Bench, run: pathlib.Path) -> Outcome:
    """Ctrl-C."""
    result = bench.run(run, fault="send:SIGINT:7")
    done = "SIGINT after step 7"
    if result.code != 130:
        return Outcome(done, result.text[-300:], "not interrupted", False)
    return bench.again(done, result.line("interrupted"), run)


def _filling(bench: Bench, run: pathlib.Path, first: int, last: int):
    """A run on a disk that is full from one step to another: (context, fault, how)."""
    if bench.can_mount:
        fault = f"fill_disk:{run / 'ballast'}:{first}:{last}"
        return tmpfs(run, "64m"), fault, "a tmpfs, filled"
    fault = f"limit_files:{first}:{last}"
    return contextlib.nullcontext(), fault, "files limited to 64 bytes"


def full_disk(bench: Bench, run: pathlib.Path) -> Outcome:
    """The disk is full when checkpoints, rows and events are to be written."""
    context, fault, how = _filling(bench, run, 5, 9)
    with context:
        result = bench.run(run, fault=fault)
        said = result.line("checkpoint of step", "was not saved")
        done = f"from step 5 to 9 ({how})"
        strays = [p.name for p in (run / "checkpoints").glob("*_temp*")]
        difference = difference_of(run, bench.undisturbed())
        problem = difference or (f"{strays} stayed" if strays else "")
        if result.code or problem or not said:
            problem = problem or f"exit {result.code}: {result.text[-300:]}"
            return Outcome(done, said, problem, False)
    return Outcome(done, said, "nothing; it trained to its end", True)


def full_disk_at_end(bench: Bench, run: pathlib.Path) -> Outcome:
    """The disk is full when the last checkpoint is to be written."""
    context, fault, how = _filling(bench, run, 7, STEPS + 1)
    with context:
        result = bench.run(run, fault=fault)
        said = result.line("error:", "was not saved")
        done = f"from step 7 on ({how})"
        with contextlib.suppress(FileNotFoundError):
            (run / "ballast").unlink()
        if result.code != 2 or last_step(run) != 6:
            lost = f"exit {result.code}, checkpoint {last_step(run)}"
            return Outcome(done, said or result.text[-300:], lost, False)
        return bench.again(done, said, run)


def read_only(bench: Bench, run: pathlib.Path) -> Outcome:
    """The folder of the checkpoints is read-only for some steps."""
    if not bench.can_mount:
        return Outcome("needs root: no mount", "", "not tried", True)
    # Nothing is open in it between two saves, so that it can be mounted anew.
    folder = run / "checkpoints"
    run.mkdir()
    with tmpfs(folder, "64m"):
        result = bench.run(run, fault=f"remount:{folder}:5:9")
        said = result.line("checkpoint of step", "was not saved")
        done = "from step 5 to 9 (a tmpfs, remounted)"
        difference = difference_of(run, bench.undisturbed())
        if result.code or difference or not said:
            lost = difference or f"exit {result.code}: {result.text[-300:]}"
            return Outcome(done, said, lost, False)
    return Outcome(done, said, "nothing; it trained to its end", True)


def read_only_at_start(bench: Bench, run: pathlib.Path) -> Outcome:
    """The folder of the run cannot be written at the start."""
    # Root may write anywhere: a file stands in the place of the folder.
    run.write_text("in the way")
    result = bench.run(run)
    said = result.line("error:")
    run.unlink()
    done = "a file in its place"
    if result.code != 2:
        return Outcome(done, said or result.text[-300:], f"exit {result.code}", False)
    return bench.again(done, said, run)


def _with_images(bench: Bench, run: pathlib.Path) -> Tuple[pathlib.Path, str]:
    images = shutil.copytree(bench.images, run.with_name(f"{run.name}_images"))
    return images, f"images_dir = {str(images)!r}"


def _image_left_out(
    result: Ended, run: pathlib.Path, done: str, image: pathlib.Path
) -> Outcome:
    said = result.line(str(image))
    rows = len(rows_of(run)) if (run / "metrics.csv").exists() else 0
    if result.code or rows != STEPS or last_step(run) != STEPS or not said:
        lost = f"exit {result.code}, {rows} rows: {result.text[-300:]}"
        return Outcome(done, said, lost, False)
    return Outcome(done, said, "nothing but the image; it trained to its end", True)


def train_image(bench: Bench) -> str:
    """The name of an image that the undisturbed run trains on."""
    split = json.loads((bench.undisturbed() / "split.json").read_text())
    return pathlib.PurePath(split["train"][-1]).name.replace(".png", "") + ".png"


def image_unreadable(bench: Bench, run: pathlib.Path) -> Outcome:
    """One image is garbage from the start."""
    images, binding = _with_images(bench, run)
    image = images / train_image(bench)
    image.write_bytes(b"garbage")
    result = bench.run(run, binding)
    return _image_left_out(result, run, "one image is garbage", image)


def image_vanishes(bench: Bench, run: pathlib.Path) -> Outcome:
    """One image is removed in mid-run."""
    images, binding = _with_images(bench, run)
    image = images / train_image(bench)
    result = bench.run(run, binding, fault=f"remove:{image}:2")
    return _image_left_out(result, run, "removed after step 2", image)


def image_damaged(bench: Bench, run: pathlib.Path) -> Outcome:
    """One image is cut off in mid-run."""
    images, binding = _with_images(bench, run)
    image = images / train_image(bench)
    result = bench.run(run, binding, fault=f"damage:{image}:2")
    return _image_left_out(result, run, "cut to 100 bytes after step 2", image)


def teacher_weights_nan(bench: Bench, run: pathlib.Path) -> Outcome:
    """A teacher's file holds NaN; then the right one is put in its place."""
    from soka_tf.teachers.pool import SHIPPED_DIR

    folder = run.with_name(f"{run.name}_teachers")
    folder.mkdir()
    for task in TASKS:
        shutil.copy(pathlib.Path(SHIPPED_DIR) / f"{task}.safetensors", folder)
    path = folder / f"{TASKS[0]}.safetensors"
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata()
        arrays = {name: file.get_tensor(name) for name in file.keys()}
    name = "encoder/conv1/kernel"
    arrays[name] = arrays[name] * np.float16(np.nan)
    path.write_bytes(save(arrays, metadata))
    binding = f"teachers_dir = {str(folder)!r}"
    result = bench.run(run, binding)
    said = result.line("error:", name)
    done = f"NaN in {name}"
    if result.code != 2 or not said:
        return Outcome(done, result.text[-300:], f"exit {result.code}", False)
    shutil.copy(pathlib.Path(SHIPPED_DIR) / f"{TASKS[0]}.safetensors", path)
    return bench.again(done, said, run, binding)


def teacher_answers_nan(bench: Bench, run: pathlib.Path) -> Outcome:
    """A teacher answers bright images with NaN; then it is well again."""
    result = bench.run(run, fault=f"break_teacher:{TASKS[1]}:4")
    said = result.line("error:", f"The teacher of {TASKS[1]}")
    done = "from step 5 on, bright images only"
    if result.code != 2 or not said or last_step(run) not in (4, 6, 8):
        return Outcome(done, said or result.text[-300:], f"exit {result.code}", False)
    return bench.again(done, said, run)


def configuration_changed(bench: Bench, run: pathlib.Path) -> Outcome:
    """Another seed is bound when the run is to go on."""
    bench.run(run, fault="send:SIGKILL:5")
    result = bench.run(run, "seed = 1")
    said = result.line("error:", "seed")
    done = "seed = 1, after kill -9 in step 5"
    if result.code != 2 or not said:
        return Outcome(done, result.text[-300:], f"exit {result.code}", False)
    return bench.again(done, said, run)


def checkpoint_truncated(bench: Bench, run: pathlib.Path) -> Outcome:
    """The last checkpoint is cut in half; it is removed as the message says."""
    bench.run(run, fault="send:SIGKILL:7")
    (path,) = (run / "checkpoints").glob("ckpt-6.data*")
    os.truncate(path, path.stat().st_size // 2)
    result = bench.run(run)
    said = result.line("error:", "ckpt-6")
    done = "that of step 6, after kill -9 in step 7"
    if result.code != 2 or not said:
        return Outcome(done, result.text[-300:], f"exit {result.code}", False)
    for path in (run / "checkpoints").glob("ckpt-6.*"):
        path.unlink()
    return bench.again(done, said, run)


def metrics_truncated(bench: Bench, run: pathlib.Path) -> Outcome:
    """metrics.csv ends in the middle of its last row."""
    bench.run(run, fault="send:SIGKILL:8")
    path = run / "metrics.csv"
    os.truncate(path, path.stat().st_size - 20)
    return bench.again("last row cut, after kill -9 in step 8", "nothing", run)


def worker_lost(bench: Bench, run: pathlib.Path) -> Outcome:
    """SIGKILL of one worker of two; both are started again."""
    binding = "strategy = 'multi_worker'"

    def both(model_dir: pathlib.Path, fault: str = "none") -> List[Ended]:
        addresses = [f"localhost:{port}" for port in _free_ports(2)]
        processes = []
        for i in range(2):
            cluster = {"cluster": {"worker": addresses}}
            config = {**cluster, "task": {"type": "worker", "index": i}}
            # Collective operations need graphs.
            command = bench.command(
                model_dir, binding, fault=fault if i else "none", compiled=True
            )
            processes.append(start(command, TF_CONFIG=json.dumps(config)))
        return [ended(process) for process in reversed(processes)][::-1]

    whole = run.with_name(f"{run.name}_undisturbed")
    results = both(whole)
    if any(result.code for result in results):
        texts = " | ".join(result.text[-500:] for result in results)
        return Outcome("", texts, "the undisturbed run failed", False)
    chief, lost = both(run, "send:SIGKILL:7")
    done = "kill -9 of worker 1 after step 7"
    said = chief.line("error:", "worker")
    if lost.code != -9 or chief.code != 75:
        return Outcome(done, chief.text[-300:], f"exit {chief.code}", False)
    codes = [result.code for result in both(run)]
    difference = difference_of(run, whole)
    if any(codes) or difference:
        return Outcome(done, said, difference or f"exits {codes}", False)
    return Outcome(done, said, "nothing; both went on", True)


def _free_ports(count: int) -> List[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


Fault = Callable[[Bench, pathlib.Path], Outcome]
FAULTS: Mapping[str, Fault] = {
    fault.__name__: fault
    for fault in (
        *(kill_joint, kill_competition, kill_collaboration, kill_weighting),
        *(kill_saving, sigterm, interrupt, full_disk, full_disk_at_end),
        *(read_only, read_only_at_start),
        *(image_unreadable, image_vanishes, image_damaged),
        *(teacher_weights_nan, teacher_answers_nan),
        *(configuration_changed, checkpoint_truncated, metrics_truncated),
        worker_lost,
    )
}


# ------------------------------------------------------------------ the report


def table_of(outcomes: Mapping[str, Outcome], folder: pathlib.Path) -> str:
    """The table in Markdown; the names of temporary folders are left out."""
    lines = [
        "| fault | injected | the program said | lost | |",
        "|---|---|---|---|---|",
    ]
    for name, outcome in outcomes.items():
        cells = [
            f"`{name}`: {FAULTS[name].__doc__}",
            outcome.done,
            outcome.said,
            outcome.lost,
            "OK" if outcome.ok else "FAILED",
        ]
        cells = [" ".join(cell.split()).replace("|", "\\|") for cell in cells]
        lines.append("| " + " | ".join(cells) + " |")
    text = "\n".join(lines)
    text = re.sub(r"\S*site-packages/", "", text)
    return text.replace(f"{folder}/", "").replace(f"{ROOT}/", "")


def put_between_markers(path: pathlib.Path, text: str) -> None:
    """Replaces what stands between the markers of a document."""
    content = path.read_text(encoding="utf-8")
    begin, end = content.find(BEGIN), content.find(END)
    if not 0 <= begin < end:
        raise UserError(f"{path}: it needs the lines {BEGIN!r} and {END!r}.")
    content = f"{content[: begin + len(BEGIN)]}\n\n{text}\n\n{content[end:]}"
    write_text(path, content)


def main() -> int:
    """Injects the faults one after the other."""
    names = _FAULTS.value or list(FAULTS)
    unknown = [name for name in names if name not in FAULTS]
    if unknown:
        raise UserError(
            f"--faults: {', '.join(unknown)} is none of {', '.join(FAULTS)}."
        )
    if _OUT.value and not os.path.isfile(_OUT.value):
        raise UserError(f"--out={_OUT.value}: there is no such document.")
    folder = pathlib.Path(_KEEP.value or tempfile.mkdtemp(prefix="faults_"))
    folder.mkdir(parents=True, exist_ok=True)
    outcomes: Dict[str, Outcome] = {}
    try:
        began = time.monotonic()
        bench = Bench(folder, not _COMPILED.value)
        bench.undisturbed()
        print(f"The undisturbed run took {time.monotonic() - began:.0f} s.", flush=True)
        for i, name in enumerate(names, 1):
            began = time.monotonic()
            outcomes[name] = FAULTS[name](bench, folder / name)
            print(
                f"{i}/{len(names)} {name}: {'OK' if outcomes[name].ok else 'FAILED'}, "
                f"lost: {outcomes[name].lost} ({time.monotonic() - began:.0f} s)",
                flush=True,
            )
    finally:
        if not _KEEP.value:
            shutil.rmtree(folder, ignore_errors=True)
    table = table_of(outcomes, folder)
    passed = sum(outcome.ok for outcome in outcomes.values())
    table = f"{passed} of {len(outcomes)} faults cost nothing.\n\n{table}"
    print(f"\n{table}")
    if _OUT.value:
        put_between_markers(pathlib.Path(_OUT.value), table)
    return 0 if passed == len(outcomes) else 1


if __name__ == "__main__":
    cli.run(main, FLAGS, tensorflow=False)
