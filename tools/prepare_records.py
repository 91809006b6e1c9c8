r"""Packs the files of a data set into TFRecord shards, for disks that like few files.

Example (Taskonomy, images and the labels of two tasks):

    python tools/prepare_records.py --taskonomy_dir=taskonomy --buildings=wiconisco \
        --domains=rgb,depth_zbuffer,edge_texture --out_dir=records

and then

    python -m soka_tf.train ... --gin_param="records_dir = 'records'"

Any folder of images (--images_dir) will do as well. The size is printed first, and the
command refused where the disk is too small. Interrupted, the same command goes on:
shards that are there and whole are kept. Images that cannot be read are named and left
out.

The files' own bytes are stored, so training sees the same pixels. With --image_size
images, not labels, are resized once and stored as PNG: smaller and faster to read, but
rounded to 8 bits, up to half of 1/255 off, and of no use for larger networks. Paths may
be of any file system that TensorFlow supports (gs://bucket/folder).
"""

from absl import flags

from soka_tf import cli
from soka_tf.errors import UserError

FLAGS = flags.FlagValues()
_TASKONOMY_DIR = flags.DEFINE_string(
    "taskonomy_dir", None, "root of a Taskonomy folder", flag_values=FLAGS
)
_IMAGES_DIR = flags.DEFINE_string(
    "images_dir", None, "any folder of images", flag_values=FLAGS
)
_BUILDINGS = flags.DEFINE_list(
    "buildings", None, "of Taskonomy; by default all", flag_values=FLAGS
)
_DOMAINS = flags.DEFINE_list(
    "domains",
    ["rgb"],
    "what to pack beside rgb: the student's tasks, and their mask comes along",
    flag_values=FLAGS,
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "folder of the shards", required=True, flag_values=FLAGS
)
_SHARDS = flags.DEFINE_integer(
    "shards",
    None,
    "files of each domain; by default of about 256 MiB",
    lower_bound=1,
    flag_values=FLAGS,
)
_IMAGE_SIZE = flags.DEFINE_integer(
    "image_size",
    None,
    "side in pixels that images are resized to; by default as they are",
    lower_bound=1,
    flag_values=FLAGS,
)
_ANTIALIAS = flags.DEFINE_bool(
    "antialias", False, "smooth images before reducing them", flag_values=FLAGS
)


def main() -> None:
    """Finds the files and packs them."""
    from soka_tf.data.sources import folder, records, taskonomy
    from soka_tf.tasks import get_task

    if bool(_TASKONOMY_DIR.value) == bool(_IMAGES_DIR.value):
        raise UserError("Give --taskonomy_dir or --images_dir, one of both.")
    if _ANTIALIAS.value and not _IMAGE_SIZE.value:
        raise UserError("--antialias needs --image_size: nothing else is resized.")
    try:
        domains = [n if n == "rgb" else get_task(n).name for n in _DOMAINS.value]
    except UserError as error:
        raise UserError(
            f"--domains: {error} Labels of a task of your own are not packed: train on "
            "their files, with taskonomy_dir or build_data.source."
        ) from error
    if _IMAGES_DIR.value:
        if domains != ["rgb"] or _BUILDINGS.value:
            raise UserError(
                "--domains and --buildings are for --taskonomy_dir: a folder of images "
                "has neither labels nor buildings."
            )
        samples, source = folder.find(_IMAGES_DIR.value), _IMAGES_DIR.value
    else:
        samples = taskonomy.find(_TASKONOMY_DIR.value, domains, _BUILDINGS.value)
        source = _TASKONOMY_DIR.value
    out_dir = _OUT_DIR.value
    records.write_records(
        samples, out_dir, source, _SHARDS.value, _IMAGE_SIZE.value, _ANTIALIAS.value
    )
    print(f"Train on them with --gin_param=\"records_dir = '{out_dir}'\"")


if __name__ == "__main__":
    cli.run(main, FLAGS)
