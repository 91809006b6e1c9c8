"""Any folder of images, for training and prediction without labels."""

import collections
import os
from typing import List, Tuple

from soka_tf.data import filesystem
from soka_tf.data.image_files import RGB, SUFFIXES
from soka_tf.data.samples import Sample
from soka_tf.errors import UserError


def find(folder_or_file: str) -> List[Sample]:
    """Finds the images in a folder and its subfolders, or takes a single file.

    Hidden files and folders (also macOS' "._" companions) are passed over.

    Args:
      folder_or_file: path of a folder or of one image, local or of any file system
        that TensorFlow knows.

    Returns:
      Samples sorted by key. The key is the path below the folder without suffix; where
      two files differ only in their suffix, with it.

    Raises:
      UserError: if there is nothing of that name, or no image in it.
    """
    root = filesystem.expand(folder_or_file)
    with filesystem.reading(root):
        root, names = _images_of(root)

    stems = [os.path.splitext(name)[0] for name in names]
    times = collections.Counter(stems)
    samples = []
    for name, stem in zip(names, stems):
        key = name if times[stem] > 1 else stem
        key = key.replace(os.sep, "/")
        samples.append(Sample(key, key, {RGB: os.path.join(root, name)}))
    return sorted(samples, key=lambda sample: sample.key)


def _images_of(root: str) -> Tuple[str, List[str]]:
    """The folder, and the images' paths below it."""
    kinds = " ".join(SUFFIXES)
    if filesystem.is_folder(root):
        names = _image_names(root)
        if not names:
            raise UserError(f"There is no image in {root!r}. Looked for {kinds}.")
        return root, names
    if not filesystem.exists(root):
        raise UserError(f"There is no file or folder {root!r}.")
    folder, name = os.path.split(root)
    if not name.lower().endswith(SUFFIXES):
        raise UserError(f"{root!r} is not an image. Allowed: {kinds}.")
    return folder, [name]


def _image_names(root: str) -> List[str]:
    names = []
    for folder, subfolders, found in filesystem.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        names += [
            os.path.relpath(os.path.join(folder, name), root)
            for name in found
            if name.lower().endswith(SUFFIXES) and not name.startswith(".")
        ]
    return names
