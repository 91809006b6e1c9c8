r"""Exports steps of training as XLA programs; times and trains them without TensorFlow.

    python tools/xla_step.py export --out=runs/xla --step=cycle --batch=16 --values \
        --gin_file=gin/rooms/soka.gin
    python tools/xla_step.py run runs/xla/cycle_alternating_16.json \
        --images=IMAGES.npy --steps=100 --save=END.npz
    python tools/xla_step.py checkpoint --values=END.npz --model_dir=runs/from_jax \
        --gin_file=gin/rooms/soka.gin
    python tools/xla_step.py survey runs/xla

run (without --images it times) and survey need numpy and jax alone. The commands of
soka_tf go on from what checkpoint writes.
"""

import importlib
import pathlib
import sys
from argparse import ArgumentParser, RawTextHelpFormatter

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from soka_tf.errors import UserError
from soka_tf.stack import describe_versions


def main() -> None:
    """Parses the command and does it."""
    parser = ArgumentParser(description=__doc__, formatter_class=RawTextHelpFormatter)
    parser.add_argument("--version", action="version", version=describe_versions())
    commands = parser.add_subparsers(dest="command", required=True)
    names = ("export", "checkpoint", "run", "survey")
    export, checkpoint, run, survey = map(commands.add_parser, names)
    export.add_argument("--out", required=True, help="folder")
    export.add_argument("--step", nargs="+", action="extend", required=True)
    export.add_argument("--batch", nargs="+", action="extend", type=int, required=True)
    export.add_argument("--values", action="store_true", help="of the variables, too")
    export.add_argument("--random_teachers", action="store_true", help="untrained")
    checkpoint.add_argument("--values", required=True, help=".npz of run --save")
    checkpoint.add_argument("--model_dir", required=True)
    for command in (export, checkpoint):
        command.add_argument("--gin_file", action="append", default=[])
        command.add_argument("--gin_param", action="append", default=[])
    run.add_argument("program", type=pathlib.Path, help="a .json of export")
    run.add_argument("--images", help=".npy [N, S, S, 3], or .npz by inputs' names")
    run.add_argument("--steps", type=int, default=100, help="with --images")
    run.add_argument("--every", type=int, default=1, help="steps a row")
    run.add_argument("--values", help=".npz to start from; the program's own, or drawn")
    run.add_argument("--save", help=".npz for the variables at the end")
    survey.add_argument("folder", type=pathlib.Path)
    survey.add_argument("--seconds", type=float, default=420, help="at most")
    for command in (run, survey):
        command.add_argument("--repeats", type=int, default=20, help="timed rounds")
    args = parser.parse_args()
    module = "export" if args.command in ("export", "checkpoint") else "run"

    def work() -> None:
        getattr(importlib.import_module(f"tools.xla.{module}"), args.command)(args)

    if module == "export":
        from soka_tf import cli

        cli.run(work, cli.flags.FlagValues(), sys.argv[:1])
    try:
        work()
    except (OSError, UserError) as error:
        sys.exit(f"xla_step.py: error: {error}")


if __name__ == "__main__":
    main()
