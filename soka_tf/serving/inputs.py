"""What to predict on: images and videos, and what their results are called."""

import collections
import glob
import hashlib
import os
from typing import Iterator, List, NamedTuple, Sequence, Set

from soka_tf.data import filesystem
from soka_tf.data.image_files import RGB, SUFFIXES
from soka_tf.data.samples import Sample
from soka_tf.data.sources.folder import find as find_images
from soka_tf.errors import UserError

VIDEO_SUFFIXES = (".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm")
_RGB_DOMAIN = "_domain_rgb"
# In bytes; of the 255 of most file systems a number and what `atomic` adds are left.
_LONGEST_NAME = 230


class Inputs(NamedTuple):
    """Images and videos, each once; the file of either is its "rgb"."""

    images: List[Sample]
    videos: List[Sample]

    @property
    def paths(self) -> List[str]:
        """All files."""
        return [sample.files[RGB] for sample in (*self.images, *self.videos)]


def find_inputs(given: Sequence[str], out_dir: str) -> Inputs:
    """Finds what to predict on, without the results of an earlier run.

    Args:
      given: folders (with their subfolders), images, videos, and patterns of such
        ("photos/*.jpg", "**" for any folders). Of folders only images are taken.
      out_dir: where results go; it may be inside a folder, but not be one.

    Raises:
      UserError: if there is nothing of a name, no image, or results would become images
        of a later run.
    """
    out_dir = os.path.realpath(out_dir)
    if os.path.exists(out_dir) and not os.path.isdir(out_dir):
        raise UserError(f"--out_dir {out_dir!r} is a file. Name a folder.")
    roots = list(dict.fromkeys(root for one in given for root in _roots(one, out_dir)))
    inputs, seen = Inputs([], []), set()
    for root in roots:
        found = inputs.videos if _is_video(root) else inputs.images
        for sample in _samples(root, out_dir):
            path = os.path.abspath(sample.files[RGB])
            if path not in seen:
                key = f"{_folder_name(root)}/{sample.key}" if roots[1:] else sample.key
                found.append(Sample(key, key, sample.files))
            seen.add(path)
    if not seen:
        raise UserError(
            f"There is no image in {', '.join(map(repr, given))} beside earlier "
            "results."
        )
    return inputs


def _roots(given: str, out_dir: str) -> Iterator[str]:
    """The files and folders that one --images names."""
    path = filesystem.expand(given)
    if filesystem.exists(path) or not glob.has_magic(path):
        if os.path.realpath(path) == out_dir:
            raise UserError(
                f"--out_dir {out_dir!r} is the folder of the images. Name another one, "
                "so that results are not mistaken for images later."
            )
        yield path
        return
    found = filesystem.matching(path)
    usable = [
        one
        for one in found
        if one.lower().endswith((*SUFFIXES, *VIDEO_SUFFIXES))
        or (filesystem.is_folder(one) and os.path.realpath(one) != out_dir)
    ]
    if not usable:
        raise UserError(
            f"No folder, image or video matches {given!r}, which matches "
            f"{len(found):,} names. Give a folder, a file, or a pattern in quotes."
        )
    yield from usable


def _samples(root: str, out_dir: str) -> List[Sample]:
    if _is_video(root):
        if not filesystem.exists(root):
            raise UserError(f"There is no file or folder {root!r}.")
        key = os.path.splitext(os.path.basename(root))[0]
        return [Sample(key, key, {RGB: root})]
    samples = find_images(root)
    if _is_inside(out_dir, root):
        samples = [s for s in samples if not _is_inside(s.files[RGB], out_dir)]
    return samples


def _is_video(root: str) -> bool:
    return root.lower().endswith(VIDEO_SUFFIXES) and not filesystem.is_folder(root)


def _folder_name(root: str) -> str:
    """Of a folder itself, of a file its folder's."""
    root = os.path.abspath(root)
    folder = root if os.path.isdir(root) else os.path.dirname(root)
    return os.path.basename(folder) or "root"


def output_names(keys: Sequence[str], tasks: Sequence[str]) -> List[str]:
    """Chooses a name for each image such that no two results are the same file.

    Args:
      keys: paths of the images below their folder, without suffix.
      tasks: names of the tasks.

    Returns:
      The file's stem, without a final "_domain_rgb"; where stems collide, the whole key
      with "_" for "/", and a number if need be. What is too long for a file's name is
      cut, and ends in a digest of the whole.
    """
    keys = [_plain_stem(key) for key in keys]
    stems = [key.rpartition("/")[2] for key in keys]
    # File systems may take A.png and a.png for one file.
    times = collections.Counter(stem.casefold() for stem in stems)
    names: List[str] = []
    taken: Set[str] = set()
    for key, stem in zip(keys, stems):
        first = stem if times[stem.casefold()] == 1 else key.replace("/", "_")
        first = _fitted(first, tasks)
        name, number = first, 1
        while not taken.isdisjoint(files_of(name.casefold(), tasks)):
            number += 1
            name = f"{first}-{number}"
        taken.update(files_of(name.casefold(), tasks))
        names.append(name)
    return names


def files_of(name: str, tasks: Sequence[str]) -> List[str]:
    """The files of one image: the picture, then the raw maps."""
    return [f"{name}.png", *(f"{name}_domain_{task}.png" for task in tasks)]


def video_of(name: str) -> str:
    """The file of one video."""
    return f"{name}.mp4"


def refuse_overwriting(
    inputs: Sequence[str], results: Sequence[str], out_dir: str, overwrite: bool = False
) -> None:
    """Refuses results that would take the place of what is there.

    Args:
      inputs: paths of images and videos, which nothing may replace.
      results: names of the files to write.
      out_dir: their folder.
      overwrite: whether results of before may be replaced.

    Raises:
      UserError: naming a file.
    """
    sources = {os.path.realpath(path) for path in inputs}
    there = [n for n in results if os.path.lexists(os.path.join(out_dir, n))]
    for name in there:
        if os.path.realpath(os.path.join(out_dir, name)) in sources:
            raise UserError(
                f"The results would overwrite the image {name!r} in {out_dir!r}. "
                "Name another --out_dir."
            )
    if there and not overwrite:
        raise UserError(
            f"{out_dir!r} already has {len(there):,} of the {len(results):,} files to "
            f"write, such as {there[0]!r}. Give --overwrite to replace them, or name "
            "another --out_dir."
        )


def _fitted(name: str, tasks: Sequence[str]) -> str:
    """The name, cut where its longest file's would be refused by file systems."""
    whole = filesystem.name_bytes(name)
    room = _LONGEST_NAME - max(map(len, files_of("", tasks)))
    if len(whole) <= room:
        return name
    digest = hashlib.sha256(whole).hexdigest()[:8]
    # A character cut in half is left out.
    return f"{whole[: room - 9].decode(errors='ignore')}-{digest}"


def _plain_stem(key: str) -> str:
    # Images that differ in their suffix only have it in their keys.
    stem, suffix = os.path.splitext(key)
    if suffix.lower() in SUFFIXES:
        key = f"{stem}_{suffix[1:]}"
    # A Taskonomy image gets maps with Taskonomy's own names.
    return key[: -len(_RGB_DOMAIN)] if key.endswith(_RGB_DOMAIN) else key


def _is_inside(path: str, folder: str) -> bool:
    folder = os.path.realpath(folder)
    return os.path.realpath(path).startswith(os.path.join(folder, ""))
