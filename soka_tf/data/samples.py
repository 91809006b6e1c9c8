"""What all sources of images share: samples, those that are whole, and their split."""

import concurrent.futures
import dataclasses
import hashlib
import os
from typing import (
    Annotated,
    Any,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import tqdm
from absl import logging

from soka_tf.atomic import write_json
from soka_tf.data.documents import read_json
from soka_tf.data.filesystem import name_bytes
from soka_tf.data.image_files import RGB, DamagedFile, read_file
from soka_tf.errors import UserError, counted, short
from soka_tf.kinds import Seed, check_arguments, number, one_of
from soka_tf.tasks import TASKS

MASK_DOMAIN = "depth_zbuffer"  # its valid pixels were scanned at all
_SPLIT_ADVICE = "Delete the file to split anew, or give another path."
_SPLIT_BYTES = 1 << 30  # of tens of millions of names


@dataclasses.dataclass(frozen=True)
class Sample:
    """One view and the files that show it.

    Attributes:
      key: unique name, e.g. "wiconisco/point_1_view_0".
      point: what views that overlap have in common, e.g. "wiconisco/point_1".
      files: path per domain; "rgb" is always among them.
      reader: (path, domain) -> the label as `read_file` returns it;
        `encodings.store` makes it of physical units. OSError and ValueError are a
        damaged label's. Images are always files.
    """

    key: str
    point: str
    files: Mapping[str, str]
    reader: Callable[[str, str], np.ndarray] = dataclasses.field(
        default=read_file, repr=False
    )

    def read(self, domain: str) -> np.ndarray:
        """Reads one of its files, an image or a label; see `read_file`.

        Raises:
          DamagedFile: if it cannot be read or cannot belong to the domain.
        """
        path = self.files[domain]
        read = read_file if domain == RGB else self.reader
        try:
            return read(path, domain)
        except DamagedFile:
            raise
        except (OSError, ValueError) as error:
            raise DamagedFile(path, f"its reader failed: {error}") from error


class Data(NamedTuple):
    """The images of a run.

    Attributes:
      train: samples to train on; only their rgb files are ever opened, unless the
        student learns from labels.
      validation: samples to evaluate on, with the labels that there are.
      source: where they come from, in words.
      note: a further sentence for messages.
      validation_source: where `validation` comes from, if from elsewhere; else "".
    """

    train: List[Sample]
    validation: List[Sample]
    source: str
    note: str = ""
    validation_source: str = ""

    @property
    def measured_on(self) -> str:
        """Where the samples to evaluate on come from, in words."""
        return self.validation_source or self.source


def with_mask(domains: Iterable[str]) -> List[str]:
    """Returns rgb, the domains and, if one of them is masked, the mask; each once."""
    wanted = [RGB, *domains]
    if any(domain in TASKS and TASKS[domain].masked for domain in wanted):
        wanted.append(MASK_DOMAIN)
    return list(dict.fromkeys(wanted))


def describe_samples(samples: Sequence[Sample]) -> str:
    """How many, which, and a hash of all names, in some 200 characters at most."""
    ends = " to ".join(f"{samples[at].key[-40:]!r}" for at in (0, -1) if samples)
    return f"{len(samples)}: {ends} (sha256 {digest_of(samples)[:16]})"


def digest_of(samples: Sequence[Sample]) -> str:
    """The SHA-256 of all names in their order, as hexadecimal digits."""
    names = "\n".join(sample.key for sample in samples)
    return hashlib.sha256(name_bytes(names)).hexdigest()


def spread(samples: Sequence[Sample], most: int) -> List[Sample]:
    """Chooses at most so many samples, evenly and always the same."""
    count = min(most, len(samples))
    chosen = np.linspace(0, len(samples) - 1, count).round().astype(int)
    return [samples[i] for i in chosen]


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
                    sample.read(domain)
                except DamagedFile as damage:
                    found[domain] = damage.reason
        return found

    good, damaged = [], {}
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        bar = {"desc": "checking files", "unit": "sample", "disable": None}
        checked = tqdm.tqdm(pool.map(reasons, samples), total=len(samples), **bar)
        for sample, found in zip(samples, checked):
            damaged.update((sample.files[d], why) for d, why in found.items())
            if RGB in found:
                continue
            if found:
                sample = _without(sample, found)
            good.append(sample)
    if damaged:
        first = "; ".join(f"{path}: {why}" for path, why in list(damaged.items())[:3])
        logging.warning(
            "Left out %s of %s. The first ones: %s",
            counted(len(damaged), "damaged file"),
            counted(len(samples), "sample"),
            first,
        )
    if not good:
        raise UserError(
            f"No rgb file of {counted(len(samples), 'sample')} can be read. The first, "
            f"{next(iter(damaged.items()), ('', 'there are no samples'))}."
        )
    return good, damaged


def split_samples(
    samples: Sequence[Sample],
    validation_fraction: Annotated[float, number(0.0, 1.0, below=True)] = 0.18,
    by: Annotated[str, one_of(("point", "random"))] = "point",
    seed: Seed = 0,
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
        Samples that it does not know are trained on, unless their point is held back.

    Returns:
      Training samples and validation samples, each in the order given.

    Raises:
      UserError: if an argument is out of range, a side would be empty, or the file does
        not fit the samples or the arguments.
    """
    check_arguments(split_samples, validation_fraction=validation_fraction, by=by)
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


def _choose_validation(
    samples: Sequence[Sample], fraction: float, by: str, seed: int
) -> set:
    """The keys held back: whole groups, in the order of their seeded hashes."""
    groups: Dict[str, List[str]] = {}
    for sample in samples:
        group = sample.point if by == "point" else sample.key
        groups.setdefault(group, []).append(sample.key)
    order = sorted(
        groups, key=lambda name: hashlib.sha256(name_bytes(f"{seed}/{name}")).digest()
    )
    wanted = fraction * len(samples)
    chosen: set = set()
    for group in order[:-1]:
        if len(chosen) >= wanted:
            break
        chosen.update(groups[group])
    return chosen


def knows_any(path: str, samples: Sequence[Sample]) -> bool:
    """Whether there is a file of `split_samples`, and one of these samples in it."""
    if not os.path.exists(path):
        return False
    _, train, validation = _read_keys(path)
    known = train | validation
    return any(sample.key in known for sample in samples)


def _read_split(
    path: str, samples: Sequence[Sample], settings: Mapping[str, object]
) -> set:
    """The validation keys recorded in a file, after making sure that it fits."""
    content, train, validation = _read_keys(path)
    for name, value in settings.items():
        if content.get(name, value) != value:
            raise UserError(
                f"{path} was made with {name}={short(content[name])}. Received: "
                f"{value!r}. {_SPLIT_ADVICE}"
            )
    if train & validation:
        raise UserError(
            f"{path} has {len(train & validation)} samples both in training and in "
            f"validation, e.g. {min(train & validation)!r}. {_SPLIT_ADVICE}"
        )
    keys = {sample.key for sample in samples}
    unassigned = keys - train - validation
    if unassigned == keys:
        raise UserError(
            f"{path} is of other data: none of the {len(keys)} samples is in it. "
            f"{_SPLIT_ADVICE}"
        )
    absent = (train | validation) - keys
    if absent:
        logging.warning(
            "%s names %d samples that are not in the data, e.g. %r.",
            path,
            len(absent),
            min(absent, key=str),
        )
    if not unassigned:
        return validation
    held_back = {sample.point for sample in samples if sample.key in validation}
    joining = {s.key for s in samples if s.key in unassigned and s.point in held_back}
    logging.warning(
        "%d samples are not in %s, e.g. %r: %d are trained on, %d show what is held "
        "back and are held back, too.",
        len(unassigned),
        path,
        min(unassigned),
        len(unassigned - joining),
        len(joining),
    )
    return validation | joining


def _read_keys(path: str) -> Tuple[Dict[str, Any], set, set]:
    """The content of a file of `split_samples`, and both sides of it."""
    shape = {"train": [str], "validation": [str]}
    wrong = "it is not a split file"
    content = read_json(path, shape, _SPLIT_ADVICE, wrong, _SPLIT_BYTES)
    return content, set(content["train"]), set(content["validation"])


def _without(sample: Sample, damaged_domains: Iterable[str]) -> Sample:
    gone = set(damaged_domains)
    if MASK_DOMAIN in gone:
        gone.update(name for name, task in TASKS.items() if task.masked)
    files = {domain: p for domain, p in sample.files.items() if domain not in gone}
    return dataclasses.replace(sample, files=files)
