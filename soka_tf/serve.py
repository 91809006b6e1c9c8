r"""Serves a page on which to try exported students on photographs.

    python -m soka_tf.serve --saved_model=runs/demo

prints an address to open in a browser of this machine: drop a photograph there, and see
all maps beside it, with units and colours as in predict's pictures. Ctrl-C ends it.
Several students are shown side by side:

    python -m soka_tf.serve --saved_model=runs/demo --saved_model=runs/soka

Nobody but this machine reaches the page, unless --host says otherwise; then anybody who
reaches the port may use it. Photographs and results stay in memory. It needs the extra
`serve`: pip install -e ".[serve]" in a checkout, else pip install "soka_tf[serve]".

A SavedModel is a program. One with operations that do more than compute, such as write
files, is refused before it is loaded; --trust_saved_model runs it all the same.
"""

import socket

from absl import flags, logging

from soka_tf import cli

FLAGS = flags.FlagValues()
_SAVED_MODEL = flags.DEFINE_multi_string(
    "saved_model",
    None,
    "Folder written by python -m soka_tf.export, or a run's with one in saved_model/; "
    "repeatable.",
    flag_values=FLAGS,
    required=True,
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "Address to listen on.", flag_values=FLAGS
)
_PORT = flags.DEFINE_integer(
    "port",
    8000,
    "Port to listen on; 0 for any that is free.",
    lower_bound=0,
    upper_bound=65535,
    flag_values=FLAGS,
)
_MOST_UPLOAD_MB = flags.DEFINE_integer(
    "most_upload_mb",
    30,
    "Largest file that is taken, in MiB.",
    lower_bound=1,
    upper_bound=1000,
    flag_values=FLAGS,
)
_MOST_MEGAPIXELS = flags.DEFINE_integer(
    "most_megapixels",
    50,
    "Largest image that is decoded, in millions of pixels.",
    lower_bound=1,
    upper_bound=89,
    flag_values=FLAGS,
)
_TRUST_SAVED_MODEL = cli.define_trust_saved_model(FLAGS)


def main() -> None:
    """Loads the students and serves the page until Ctrl-C."""
    from soka_tf.serving import server

    # Before TensorFlow and the students, which take time.
    server.require_packages()
    with server.bind(_HOST.value, _PORT.value) as bound:
        _serve(bound)
    print("Stopped.")


def _serve(bound: socket.socket) -> None:
    cli.import_tensorflow()
    from soka_tf.runs.unfinished import find_export
    from soka_tf.serving import exported, page, server, trial

    limits = page.Limits(_MOST_UPLOAD_MB.value, _MOST_MEGAPIXELS.value)
    folders = [find_export(folder) for folder in _SAVED_MODEL.value]
    students = {}
    for name, folder in zip(trial.named(folders), folders):
        logging.info("Loading %s ...", folder)
        students[name] = exported.load_exported(folder, _TRUST_SAVED_MODEL.value)
    trial.warm_up(students)
    app = page.make_app(students, limits, _HOST.value)
    with server.listening(app, _HOST.value, bound, limits.upload_bytes) as served:
        print(f"Open {served.address} (Ctrl-C ends it)", flush=True)
        served.run()


if __name__ == "__main__":
    cli.run(main, FLAGS, tensorflow=False)
