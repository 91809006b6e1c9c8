r"""Exports steps of training as XLA programs; times and trains them without TensorFlow.

Example (small networks on drawn rooms; the second and third need numpy and jax alone):

    python tools/xla_step.py export --out=runs/xla --step=cycle --batch=16 --values \
        --gin_file=gin/rooms/soka.gin
    python tools/xla_step.py run runs/xla/cycle_alternating_16.json
    python tools/xla_step.py survey runs/xla

run times one, or trains it on --images and saves its variables, of which checkpoint
makes one that soka_tf.train, evaluate and export go on from:

    python tools/xla_step.py run runs/xla/cycle_alternating_16.json \
        --images=IMAGES.npy --steps=100 --save=END.npz
    python tools/xla_step.py checkpoint --values=END.npz --model_dir=runs/from_jax \
        --gin_file=gin/rooms/soka.gin
"""

import argparse
import json
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def main() -> None:
    """Parses the command and does it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export", help="write programs; needs TensorFlow")
    export.add_argument("--out", required=True, help="folder")
    export.add_argument("--step", action="append", required=True, help="repeatable")
    export.add_argument("--batch", type=int, action="append", required=True)
    export.add_argument("--values", action="store_true", help="of the variables, too")
    export.add_argument(
        "--random_teachers", action="store_true", help="untrained, as the student"
    )
    checkpoint = commands.add_parser("checkpoint", help="needs TensorFlow")
    checkpoint.add_argument("--values", required=True, help=".npz of run --save")
    checkpoint.add_argument("--model_dir", required=True)
    for command in (export, checkpoint):
        command.add_argument("--gin_file", action="append", default=[])
        command.add_argument("--gin_param", action="append", default=[])
    run = commands.add_parser("run", help="time a program or train with it; needs jax")
    run.add_argument("program", help="a .json of export")
    run.add_argument("--repeats", type=int, default=20, help="timed rounds")
    run.add_argument("--images", help=".npy [N, S, S, 3], or .npz by inputs' names")
    run.add_argument("--steps", type=int, default=100, help="with --images")
    run.add_argument("--every", type=int, default=1, help="steps a row")
    run.add_argument("--values", help=".npz to start from; the program's own, or drawn")
    run.add_argument("--save", help=".npz for the variables at the end")
    survey = commands.add_parser("survey", help="time a folder of them; needs jax")
    survey.add_argument("folder")
    survey.add_argument("--repeats", type=int, default=20, help="timed rounds")
    survey.add_argument("--seconds", type=float, default=450, help="at most")
    survey.add_argument("--json", help="file for all numbers")
    args = parser.parse_args()
    if args.command == "survey":
        from tools.xla.survey import survey as work

        work(args.folder, args.repeats, args.seconds, args.json)
    elif args.command == "run":
        _run(args)
    else:
        from absl import flags

        from soka_tf import cli

        work = _export if args.command == "export" else _checkpoint
        cli.run(lambda: work(args), flags.FlagValues(), sys.argv[:1])


def _export(args: argparse.Namespace) -> None:
    from soka_tf.errors import UserError
    from soka_tf.runs.config import parse_gin
    from tools.xla.export import STEPS, build_model, export_step

    for step in args.step:
        if step not in STEPS:
            raise UserError(
                f"--step must be one of {', '.join(STEPS)}. Received: {step}."
            )
    parse_gin(args.gin_file, args.gin_param)
    model, settings = build_model(args.random_teachers)
    for batch in args.batch:
        for step in args.step:
            print(export_step(model, settings, step, batch, args.out, args.values))


def _checkpoint(args: argparse.Namespace) -> None:
    import numpy as np

    from soka_tf.runs.checkpoints import manager_of
    from soka_tf.runs.config import parse_gin
    from soka_tf.runs.folder import claim
    from soka_tf.runs.run import build_run
    from tools.xla.export import variables_by_name

    parse_gin(args.gin_file, args.gin_param)
    run = build_run(args.model_dir)
    values = np.load(args.values)
    for name, variable in variables_by_name(run.model).items():
        if name in values:
            variable.assign(values[name])
    claim(args.model_dir, run.config)
    manager = manager_of(run.model, args.model_dir, run.settings.keep_checkpoints)
    print(manager.save(checkpoint_number=int(run.model.step.numpy())))


def _run(args: argparse.Namespace) -> None:
    import jax
    import numpy as np

    from tools.xla.program import Program

    program = Program(args.program)
    beside = args.program.replace(".json", ".npz")
    start = args.values or (beside if os.path.exists(beside) else None)
    loaded = np.load(start) if start else {}
    values = {name: jax.device_put(loaded[name]) for name in loaded}
    program.draw(values)
    if args.images:
        images = np.load(args.images)
        data = {"rgb": images} if args.images.endswith(".npy") else dict(images)
        for row in program.train(values, data, args.steps, args.every):
            print(json.dumps(row), flush=True)
    else:
        print(json.dumps(program.time(values, args.repeats)))
    if args.save:
        program.save(args.save, values)


if __name__ == "__main__":
    main()
