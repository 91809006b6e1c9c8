"""Any folder of images, for training and prediction without labels."""

import collections
import os
from typing import List

from soka_tf.data.taskonomy import RGB, Sample
from soka_tf.errors import UserError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm")


def find_images(folder_or_file: str) -> List[Sample]:
    """Finds the images in a folder and its subfolders, or takes a single file.

    Hidden files and folders (also macOS' "._" companions) are passed over.

    Args:
      folder_or_file: path of a folder or of one image.

    Returns:
      Samples sorted by key. The key is the path below the folder without suffix; where
      two files differ only in their suffix, with it.

    Raises:
      UserError: if there is nothing of that name, or no image in it.
    """
    root = os.path.expanduser(os.fspath(folder_or_file))
    kinds = " ".join(SUFFIXES)
    if os.path.isdir(root):
        names = _image_names(root)
        if not names:
            raise UserError(f"There is no image in {root!r}. Looked for {kinds}.")
    elif os.path.exists(root):
        root, name = os.path.split(root)
        names = [name]
        if not name.lower().endswith(SUFFIXES):
            raise UserError(f"{folder_or_file!r} is not an image. Allowed: {kinds}.")
    else:
        raise UserError(f"There is no file or folder {root!r}.")

    stems = [os.path.splitext(name)[0] for name in names]
    times = collections.Counter(stems)
    samples = []
    for name, stem in zip(names, stems):
        key = name if times[stem] > 1 else stem
        key = key.replace(os.sep, "/")
        samples.append(Sample(key, key, {RGB: os.path.join(root, name)}))
    return sorted(samples, key=lambda sample: sample.key)


def _image_names(root: str) -> List[str]:
    names = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        names += [
            os.path.relpath(os.path.join(folder, name), root)
            for name in files
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return names
