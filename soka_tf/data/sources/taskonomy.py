"""Taskonomy's files: found and paired by key.

A sample is one view of one point of one building; its files are spread over domains:

    point_{P}_view_{V}_domain_{D}.png
"""

import difflib
import os
import re
from typing import Callable, Dict, Iterable, List, Optional, Sequence, Tuple

from absl import logging

from soka_tf.data import filesystem
from soka_tf.data.image_files import RGB, VANISHING_POINT
from soka_tf.data.samples import Sample, with_mask
from soka_tf.errors import UserError
from soka_tf.tasks import TASKS

# Where the official tools and their successors put building and domain.
_LAYOUTS = (
    "{root}/{building}/{domain}",
    "{root}/{domain}/taskonomy/{building}",
    "{root}/{domain}/{building}",
)


def find(
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
    root = filesystem.expand(root)
    with filesystem.reading(root):
        if not filesystem.is_folder(root):
            raise UserError(
                f"There is no folder {root!r}. Give the folder that holds the "
                "buildings."
            )
        return _find(root, domains, buildings, warn)


def _find(
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


def _folder(layout: str, root: str, building: str, domain: str) -> str:
    parts = layout.split("/")
    names = {"{root}": root, "{building}": building, "{domain}": domain}
    return os.path.join(*(names.get(part, part) for part in parts))


def _detect_layout(root: str) -> Tuple[str, List[str]]:
    """The first layout under which there is an rgb folder, and its buildings."""
    candidates = (
        [name for name in filesystem.subfolders(root) if name != RGB],
        filesystem.subfolders(os.path.join(root, RGB, "taskonomy")),
        filesystem.subfolders(os.path.join(root, RGB)),
    )
    for layout, names in zip(_LAYOUTS, candidates):
        found = [
            n for n in names if filesystem.is_folder(_folder(layout, root, n, RGB))
        ]
        if found:
            return layout, found
    looked = ", ".join(
        layout.format(root=root, building="{building}", domain=RGB)
        for layout in _LAYOUTS
    )
    hint = "Any other folder of images can be used for training without labels."
    if filesystem.is_folder(os.path.join(root, RGB)):
        parent, name = os.path.split(
            root if filesystem.is_remote(root) else os.path.abspath(root)
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
    if not filesystem.is_folder(folder):
        return
    aliases = TASKS[domain].aliases if domain in TASKS else ()
    names = "|".join(map(re.escape, (domain, *aliases)))
    suffix = "npy" if domain == VANISHING_POINT else "png"
    pattern = re.compile(rf"point_(\d+)_view_(\d+)_domain_(?:{names})\.{suffix}")
    for name in filesystem.names(folder):
        match = pattern.fullmatch(name)
        if match:
            yield (match[1], match[2]), os.path.join(folder, name)
