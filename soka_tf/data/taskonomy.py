"""Taskonomy's files: found, paired by key, read without trust, split for validation.

A sample is one view of one point of one building; its files are spread over domains:

    point_{P}_view_{V}_domain_{D}.png

This module does not need TensorFlow, but for paths such as gs://bucket/folder.
"""

import concurrent.futures
import dataclasses
import difflib
import hashlib
import json
import os
import re
from typing import (
    Callable,
    Dict,
    Iterable,
    List,
    Literal,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import tqdm
from absl import logging
from PIL import Image, ImageOps, UnidentifiedImageError

from soka_tf.data import files
from soka_tf.disk import write_json
from soka_tf.errors import UserError
from soka_tf.tasks import TASKS

RGB = "rgb"
MASK_DOMAIN = "depth_zbuffer"  # tells which pixels were scanned at all
VANISHING_POINT = "vanishing_point"  # the one domain kept as numbers, float32 [3, 3]

# Where the official tools and their successors put building and domain.
_LAYOUTS = (
    "{root}/{building}/{domain}",
    "{root}/{domain}/taskonomy/{building}",
    "{root}/{domain}/{building}",
)
# Pillow would also try formats that start other programs (EPS).
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "TIFF", "GIF", "PPM")


class DamagedFile(UserError):
    """A file that cannot be read, with its path and the reason.

    Attributes:
      path: the file.
      reason: why it cannot be used.
    """

    def __init__(self, path: str, reason: str):
        super().__init__(
            f"Cannot use {path}: {reason}. Replace or delete the file; a sample "
            "without it is left out."
        )
        self.path = path
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Sample:
    """One view and the files that show it.

    Attributes:
      key: unique name, e.g. "wiconisco/point_1_view_0".
      point: what views that overlap have in common, e.g. "wiconisco/point_1".
      files: path per domain; "rgb" is always among them.
    """

    key: str
    point: str
    files: Mapping[str, str]


def find_samples(
    root: str,
    domains: Sequence[str],
    buildings: Optional[Sequence[str]] = None,
    warn: Callable[[str], None] = logging.warning,
) -> List[Sample]:
    """Finds the samples of a Taskonomy folder, in any of its three layouts.

    Args:
      root: folder of `{building}/{domain}/`, `{domain}/taskonomy/{building}/` or
        `{domain}/{building}/`, local or of any file system that TensorFlow knows.
      domains: label domains wanted beside rgb. Where one of them is masked, its mask,
        depth_zbuffer, is taken along.
      buildings: names of buildings; None for all.
      warn: called with a message about what was left out.

    Returns:
      Samples that have an rgb file, sorted by key. Labels that are not there are absent
      from `files`.

    Raises:
      UserError: if there is no such folder or building, or no rgb image in it.
    """
    root = files.expand(root)
    with files.reading(root):
        if not files.is_folder(root):
            raise UserError(
                f"There is no folder {root!r}. Give the folder that holds the "
                "buildings."
            )
        return _find_samples(root, domains, buildings, warn)


def _find_samples(
    root: str,
    domains: Sequence[str],
    buildings: Optional[Sequence[str]],
    warn: Callable[[str], None],
) -> List[Sample]:
    layout, known = _detect_layout(root)
    if isinstance(buildings, str):
        buildings = [buildings]
    buildings = known if buildings is None else list(buildings)
    for building in buildings:
        if building not in known:
            raise UserError(_unknown_building(building, known, root, layout))

    domains = with_mask(domains)
    samples, without_rgb = [], 0
    for building in dict.fromkeys(buildings):
        found: Dict[Tuple[str, str], Dict[str, str]] = {}
        for domain in domains:
            folder = _folder(layout, root, building, domain)
            for point_view, path in _files_of(folder, domain):
                found.setdefault(point_view, {}).setdefault(domain, path)
        for (point, view), paths in found.items():
            if RGB in paths:
                name = f"{building}/point_{point}"
                samples.append(Sample(f"{name}_view_{view}", name, paths))
            else:
                without_rgb += 1
    if not samples:
        looked = [_folder(layout, root, building, RGB) for building in buildings]
        raise UserError(
            f"There is no rgb image in {', '.join(looked[:3])}. Looked for files named "
            "point_{P}_view_{V}_domain_rgb.png."
        )
    if without_rgb:
        warn(
            f"{root}: left out {without_rgb} samples that have labels but no rgb file."
        )
    for domain in domains[1:]:
        if not any(domain in sample.files for sample in samples):
            warn(f"{root}: no sample has a file of the domain {domain!r}.")
    return sorted(samples, key=lambda sample: sample.key)


def with_mask(domains: Iterable[str]) -> List[str]:
    """Returns rgb, the domains and, if one of them is masked, the mask; each once."""
    wanted = [RGB, *domains]
    if any(domain in TASKS and TASKS[domain].masked for domain in wanted):
        wanted.append(MASK_DOMAIN)
    return list(dict.fromkeys(wanted))


def split_samples(
    samples: Sequence[Sample],
    validation_fraction: float,
    by: Literal["point", "random"] = "point",
    seed: int = 0,
    path: Optional[str] = None,
) -> Tuple[List[Sample], List[Sample]]:
    """Splits samples into training and validation, the same way every time.

    Views of one point overlap, so "point" keeps them together; "random" splits by
    image, like the paper, and leaks. The order of choice comes from the seed and the
    names alone, so that data added later hardly moves anyone to the other side.

    Args:
      samples: what to split.
      validation_fraction: share of the samples held back, at least 0 and less than 1.
      by: "point" or "random".
      seed: of the choice.
      path: a JSON file that records the split: written the first time, obeyed after.

    Returns:
      Training samples and validation samples, each in the order given.

    Raises:
      UserError: if an argument is out of range, a side would be empty, or the file does
        not fit the samples or the arguments.
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(
            "validation_fraction must be at least 0 and less than 1. Received: "
            f"{validation_fraction}."
        )
    if by not in ("point", "random"):
        raise UserError(f"A split goes by 'point' or by 'random'. Received: {by!r}.")
    settings = {"by": by, "seed": seed, "validation_fraction": validation_fraction}
    if path is not None and os.path.exists(path):
        validation = _read_split(path, samples, settings)
    else:
        validation = _choose_validation(samples, validation_fraction, by, seed)
    train_samples = [s for s in samples if s.key not in validation]
    validation_samples = [s for s in samples if s.key in validation]
    if not train_samples or (validation_fraction > 0 and not validation_samples):
        raise UserError(
            f"Cannot split {len(samples)} samples of "
            f"{len({s.point for s in samples})} points by {by!r} into training and "
            f"{validation_fraction:.0%} validation: one side would be empty. Give more "
            "samples or another fraction."
        )
    if path is not None and not os.path.exists(path):
        content = {
            **settings,
            "train": [s.key for s in train_samples],
            "validation": [s.key for s in validation_samples],
        }
        write_json(path, content)
    return train_samples, validation_samples


def read_pixels(path: str, domain: str) -> np.ndarray:
    """Reads an image or a label file.

    Args:
      path: the file.
      domain: "rgb" or a task's name.

    Returns:
      rgb: uint8 [height, width, 3], upright (EXIF), whatever the file's kind of colour;
      transparency is ignored. Labels: uint8 or uint16, as the file says,
      [height, width, 1 or 3].

    Raises:
      DamagedFile: if the file cannot be read whole, or cannot belong to the domain.
    """
    try:
        with files.opened(path) as file, Image.open(file, formats=_FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise DamagedFile(
                    path,
                    f"it claims {image.width} x {image.height} pixels, more than the "
                    f"{limit} that are safe to open",
                )
            if domain == RGB:
                return _rgb_pixels(image)
            pixels = _label_pixels(image)
    except DamagedFile:
        raise
    except Exception as error:  # decoders of damaged files raise nearly everything
        raise DamagedFile(path, _reason(path, error)) from error
    _check_label(path, domain, pixels)
    return pixels


def read_vanishing_point(path: str) -> np.ndarray:
    """Reads the three vanishing points of a view.

    Args:
      path: an .npy file, 9 finite numbers.

    Returns:
      float32 [9]: three unit vectors, one after the other.

    Raises:
      DamagedFile: if the file holds anything else.
    """
    try:
        with files.opened(path) as file:
            values = np.load(file, allow_pickle=False)
        values = np.asarray(values, np.float32).reshape(-1)
    except Exception as error:
        raise DamagedFile(path, _reason(path, error)) from error
    if values.shape != (9,) or not np.isfinite(values).all():
        raise DamagedFile(path, f"it must hold 9 finite numbers, not {values.shape}")
    return values


def read_file(path: str, domain: str) -> np.ndarray:
    """Reads a file of any domain: `read_pixels` or `read_vanishing_point`.

    Raises:
      DamagedFile: if it cannot be read or cannot belong to the domain.
    """
    if domain == VANISHING_POINT:
        return read_vanishing_point(path)
    return read_pixels(path, domain)


def drop_damaged(
    samples: Sequence[Sample], domains: Sequence[str], workers: int = 8
) -> Tuple[List[Sample], Dict[str, str]]:
    """Opens every file once and leaves out those that cannot be read.

    A sample without a readable image is dropped; one with a damaged label loses that
    label, and one with a damaged mask also the labels that need it.

    Args:
      samples: what to check.
      domains: label domains to check beside rgb.
      workers: number of reading threads.

    Returns:
      The good samples in their order, and the reason per damaged file.

    Raises:
      UserError: if nothing is left.
    """
    domains = with_mask(domains)

    def reasons(sample: Sample) -> Dict[str, str]:
        found = {}
        for domain in domains:
            if domain in sample.files:
                try:
                    read_file(sample.files[domain], domain)
                except DamagedFile as damage:
                    found[domain] = damage.reason
        return found

    good, damaged = [], {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        progress = tqdm.tqdm(
            pool.map(reasons, samples),
            total=len(samples),
            desc="checking files",
            unit="sample",
            disable=None,
        )
        for sample, found in zip(samples, progress):
            damaged.update((sample.files[d], why) for d, why in found.items())
            if RGB in found:
                continue
            if found:
                sample = _without(sample, found)
            good.append(sample)
    if damaged:
        first = "; ".join(f"{path}: {why}" for path, why in list(damaged.items())[:3])
        logging.warning(
            "Left out %d damaged files of %d samples. The first ones: %s",
            len(damaged),
            len(samples),
            first,
        )
    if not good:
        raise UserError(
            f"None of the {len(samples)} rgb files can be read. The first one, "
            f"{next(iter(damaged.items()), ('', 'there are no samples'))}."
        )
    return good, damaged


def _folder(layout: str, root: str, building: str, domain: str) -> str:
    parts = layout.split("/")
    names = {"{root}": root, "{building}": building, "{domain}": domain}
    return os.path.join(*(names.get(part, part) for part in parts))


def _detect_layout(root: str) -> Tuple[str, List[str]]:
    """The first layout under which there is an rgb folder, and its buildings."""
    candidates = (
        [name for name in files.subfolders(root) if name != RGB],
        files.subfolders(os.path.join(root, RGB, "taskonomy")),
        files.subfolders(os.path.join(root, RGB)),
    )
    for layout, names in zip(_LAYOUTS, candidates):
        found = [n for n in names if files.is_folder(_folder(layout, root, n, RGB))]
        if found:
            return layout, found
    looked = ", ".join(
        layout.format(root=root, building="{building}", domain=RGB)
        for layout in _LAYOUTS
    )
    hint = "Any other folder of images can be used for training without labels."
    if files.is_folder(os.path.join(root, RGB)):
        parent, name = os.path.split(
            root if files.is_remote(root) else os.path.abspath(root)
        )
        hint = (
            f"It looks like one building: give the folder above it, {parent!r}, and "
            f"the building {name!r}."
        )
    raise UserError(f"Found no rgb images in {root!r}. Looked for {looked}. {hint}")


def _unknown_building(
    building: str, known: Sequence[str], root: str, layout: str
) -> str:
    near = difflib.get_close_matches(str(building), known, n=3)
    hint = "Did you mean " + " or ".join(repr(n) for n in near) + "? " if near else ""
    return (
        f"There is no rgb folder of the building {building!r}, "
        f"{_folder(layout, root, str(building), RGB)!r}. {hint}Buildings in {root!r}: "
        f"{', '.join(known[:20])}{', ...' if len(known) > 20 else ''}."
    )


def _files_of(folder: str, domain: str) -> Iterable[Tuple[Tuple[str, str], str]]:
    """Yields ((point, view), path) of the files of one domain in one folder."""
    if not files.is_folder(folder):
        return
    aliases = TASKS[domain].aliases if domain in TASKS else ()
    names = "|".join(map(re.escape, (domain, *aliases)))
    suffix = "npy" if domain == VANISHING_POINT else "png"
    pattern = re.compile(rf"point_(\d+)_view_(\d+)_domain_(?:{names})\.{suffix}")
    for name in files.names(folder):
        match = pattern.fullmatch(name)
        if match:
            yield (match[1], match[2]), os.path.join(folder, name)


def _choose_validation(
    samples: Sequence[Sample], fraction: float, by: str, seed: int
) -> set:
    """The keys held back: whole groups, in the order of their seeded hashes."""
    groups: Dict[str, List[str]] = {}
    for sample in samples:
        group = sample.point if by == "point" else sample.key
        groups.setdefault(group, []).append(sample.key)
    order = sorted(
        groups, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest()
    )
    wanted = fraction * len(samples)
    chosen: set = set()
    for group in order[:-1]:
        if len(chosen) >= wanted:
            break
        chosen.update(groups[group])
    return chosen


def _read_split(
    path: str, samples: Sequence[Sample], settings: Mapping[str, object]
) -> set:
    """The validation keys recorded in a file, after making sure that it fits."""
    advice = "Delete the file to split anew, or give another path."
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        train, validation = set(content["train"]), set(content["validation"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a split file ({error!r}). {advice}") from error
    for name, value in settings.items():
        if content.get(name, value) != value:
            raise UserError(
                f"{path} was made with {name}={content[name]!r}. Received: {value!r}. "
                f"{advice}"
            )
    if train & validation:
        raise UserError(
            f"{path} has {len(train & validation)} samples both in training and in "
            f"validation, e.g. {min(train & validation)!r}. {advice}"
        )
    keys = {sample.key for sample in samples}
    unassigned = keys - train - validation
    if unassigned:
        raise UserError(
            f"{path} does not fit the data: {len(unassigned)} of {len(keys)} samples "
            f"are not in it, e.g. {min(unassigned)!r}. {advice}"
        )
    absent = (train | validation) - keys
    if absent:
        logging.warning(
            "%s names %d samples that are not in the data, e.g. %r.",
            path,
            len(absent),
            min(absent, key=str),
        )
    return validation


def _without(sample: Sample, damaged_domains: Iterable[str]) -> Sample:
    gone = set(damaged_domains)
    if MASK_DOMAIN in gone:
        gone.update(name for name, task in TASKS.items() if task.masked)
    files = {domain: p for domain, p in sample.files.items() if domain not in gone}
    return dataclasses.replace(sample, files=files)


def _rgb_pixels(image: Image.Image) -> np.ndarray:
    image.load()
    if "exif" in image.info:
        try:
            image = ImageOps.exif_transpose(image)
        except Exception:  # the note about the camera is damaged, the image is not
            logging.debug("%s: cannot read its EXIF data", image)
    if image.mode.startswith("I"):  # 16-bit grey; Pillow's conversion would cut it
        grey = np.rint(_sixteen_bits(image) / 257.0).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=-1)
    if image.mode == "P":
        image = image.convert("RGBA")  # a palette may have transparent entries
    return np.array(image.convert("RGB"))


def _label_pixels(image: Image.Image) -> np.ndarray:
    image.load()
    if image.mode.startswith("I"):
        return _sixteen_bits(image)[..., None]
    if image.mode in ("1", "L", "LA"):
        return np.array(image.convert("L"))[..., None]
    if image.mode == "P":
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def _sixteen_bits(image: Image.Image) -> np.ndarray:
    values = np.array(image)
    if values.min() < 0 or values.max() > 65535:
        raise ValueError("its pixels do not fit 16 bits")
    return values.astype(np.uint16)


def _check_label(path: str, domain: str, pixels: np.ndarray) -> None:
    task = TASKS.get(domain)
    if task is None or task.encoding is None:
        return
    if task.encoding.kind == "log_depth" and pixels.dtype != np.uint16:
        raise DamagedFile(
            path, f"{domain} needs one channel of 16 bits, the file has 8 bits"
        )
    if pixels.shape[-1] < task.channels:
        raise DamagedFile(
            path,
            f"{domain} needs {task.channels} channels, the file has {pixels.shape[-1]}",
        )


def _reason(path: str, error: Exception) -> str:
    """Says in words what is wrong with a file that could not be read."""
    try:
        if not files.exists(path):
            return "there is no such file"
        if files.is_folder(path):
            return "it is a folder"
        if isinstance(error, files.ChangedPart):
            return str(error.strerror)
        with files.opened(path) as file:
            start = file.read(64).lstrip().lower()
        if not files.size(path):
            return "the file is empty"
    except OSError as denied:
        return str(denied.strerror)
    if start.startswith((b"<!doctype", b"<html", b"<?xml", b"version https://git-lfs")):
        return "it holds text, not an image (a failed download?)"
    if isinstance(
        error, (Image.DecompressionBombError, Image.DecompressionBombWarning)
    ):
        return "it claims more pixels than are safe to open"
    if isinstance(error, UnidentifiedImageError):
        return "it is not an image of a known kind"
    return f"it is damaged ({error})"
