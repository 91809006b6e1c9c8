"""Any folder of images, for training and prediction without labels."""

import collections
import os
from typing import List, Tuple

from absl import logging

from soka_tf.data import filesystem
from soka_tf.data.image_files import RGB, SUFFIXES
from soka_tf.data.samples import Sample
from soka_tf.errors import UserError

# Images all the same: who has them among others shall know that they are left out.
_UNREAD = frozenset(
    ".heic .heif .avif .jxl .jp2 .j2k .jxr .svg .psd .xcf .exr .hdr .pfm .tga .ico "
    ".dng .cr2 .cr3 .nef .arw .orf .rw2 .raf .pgm .pbm .pnm .jfif".split()
)


def find(folder_or_file: str) -> List[Sample]:
    """Finds the images in a folder and its subfolders, or takes a single file.

    Hidden files and folders (also macOS' "._" companions) are passed over, images of
    kinds that are not read too, in one warning.

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
        names, others = _image_names(root)
        if not names:
            told = f" It has {others}." if others else ""
            raise UserError(f"There is no image in {root!r}. Looked for {kinds}.{told}")
        if others:
            logging.warning("%s: left out %s.", root, others)
        return root, names
    if not filesystem.exists(root):
        raise UserError(f"There is no file or folder {root!r}.")
    folder, name = os.path.split(root)
    if not name.lower().endswith(SUFFIXES):
        told = f" It is {_told([name])}." if _is_unread(name) else ""
        raise UserError(f"{root!r} is not an image. Allowed: {kinds}.{told}")
    return folder, [name]


def _image_names(root: str) -> Tuple[List[str], str]:
    """The images' paths below a folder; in words, those that are not read."""
    names, others = [], []
    for folder, subfolders, found in filesystem.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        shown = [name for name in found if not name.startswith(".")]
        names += [
            os.path.relpath(os.path.join(folder, name), root)
            for name in shown
            if name.lower().endswith(SUFFIXES)
        ]
        others += filter(_is_unread, shown)
    return names, _told(others)


def _is_unread(name: str) -> bool:
    return os.path.splitext(name.lower())[1] in _UNREAD


def _told(names: List[str]) -> str:
    """Images that are not read, by their kinds."""
    if not names:
        return ""
    times = collections.Counter(os.path.splitext(name.lower())[1] for name in names)
    kinds = ", ".join(f"{kind} ({count:,})" for kind, count in times.most_common())
    files = f"{len(names):,} files of kinds" if len(names) > 1 else "a file of a kind"
    be = "are" if len(names) > 1 else "is"
    return f"{files} that {be} not read: {kinds}; convert to PNG or JPEG"
