"""Files of a data set packed into TFRecord shards, each file still read by itself.

    <folder>/
        records.json                    what the shards were made from, and how
        rgb-00000-of-00016.tfrecord     tf.train.Example: "key", "point", "domain",
                                        "name" and "content", the file's bytes
        rgb-00000-of-00016.json         where each file's bytes are, and their CRC-32

Few large files are kinder to network disks than millions of small ones, and any reader
of TFRecords can read them in their order, which is mixed. Training reads single files
out of them, as parts (`soka_tf.data.filesystem`), so that it sees the same images in
the same steps as from the files. `soka_tf.data.shard_store` writes and checks shards.
"""

import concurrent.futures
import hashlib
import io
import json
import os
import re
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np
import tqdm
from absl import logging
from PIL import Image

from soka_tf.data import encodings, file_writing, filesystem, shard_store
from soka_tf.data.documents import Number, load_json, refusing
from soka_tf.data.filesystem import name_bytes
from soka_tf.data.image_files import RGB, DamagedFile
from soka_tf.data.samples import Sample, digest_of, with_mask
from soka_tf.errors import UserError, counted, short
from soka_tf.tool_commands import tool_command

FORMAT = 1
_MANIFEST = "records.json"
_SHARD_BYTES = 256 << 20
_MOST_SHARDS = 99_999  # their numbers have five digits
_THREADS = 8
_SHAPE = {
    "format": Number(int, FORMAT, FORMAT),
    "shards": Number(int, 1, _MOST_SHARDS),
    "domains": [str],
}


def find(
    folder: str, domains: Sequence[str], buildings: Optional[Sequence[str]] = None
) -> List[Sample]:
    """Finds the samples of a folder of records.

    Args:
      folder: of `write_records`, local or of any file system that TensorFlow knows.
      domains: label domains wanted beside rgb, and the mask that belongs to them.
      buildings: names of buildings; None for all.

    Returns:
      The samples that the files gave, but for images that were damaged; their files are
      parts of shards.

    Raises:
      UserError: if the folder is not one of records, is not finished, or has no such
        building.
    """
    folder = filesystem.expand(folder)
    manifest = _read_manifest(folder)
    if manifest is None:
        raise UserError(
            f"{folder}: not a folder of records, it has no {_MANIFEST}. Give the "
            f"--out_dir of {tool_command('prepare_records')}."
        )
    found: Dict[str, Tuple[str, Dict[str, str]]] = {}
    wanted = with_mask(domains)
    missing = [domain for domain in wanted if domain not in manifest["domains"]]
    if missing and set(manifest["domains"]) != {RGB}:  # else nobody expects labels
        told = ", ".join(missing)
        logging.warning("%s: the records have no domain %s.", folder, told)
    for domain in wanted:
        if domain in missing:
            continue
        for shard in _shards(folder, domain, manifest["shards"]):
            whole = shard_store.read_index(shard, _rows)
            if whole is None:
                raise UserError(
                    f"{shard}: missing, unfinished or damaged. Run "
                    f"{tool_command('prepare_records')} again with the same flags: it "
                    "makes what is missing."
                )
            for (key, point), part in whole[1]:
                if domain == RGB:
                    found[key] = point, {RGB: str(part)}
                elif key in found:  # not of an image that was left out
                    found[key][1][domain] = str(part)
    samples = [Sample(key, *found[key]) for key in sorted(found)]
    return samples if buildings is None else _of_buildings(folder, samples, buildings)


def write_records(
    samples: Sequence[Sample],
    folder: str,
    source: str,
    shards: Optional[int] = None,
    image_size: Optional[int] = None,
    antialias: bool = False,
) -> None:
    """Packs the files of samples into shards; what is there and whole is kept.

    An image that cannot be read is named in a warning and left out. A damaged label is
    named too, and kept: training finds it as damaged as the file is.

    Args:
      samples: what to pack, all domains of it.
      folder: for the shards.
      source: where the samples come from, in words, for the manifest.
      shards: of every domain; None for about 256 MiB of the largest domain in each.
      image_size: None keeps the bytes of all files. Else images, not labels, are
        resized to this side in pixels and stored as PNG, rounded to 8 bits.
      antialias: smooths images before they are reduced.

    Raises:
      UserError: if the folder holds other records, the disk is too small or cannot be
        written, or no image can be read.
    """
    folder = filesystem.expand(folder)
    sizes = _sizes(samples, image_size)
    if RGB not in sizes:
        raise UserError(
            f"{source}: no image of {counted(len(samples), 'sample')} is there."
        )
    present = _read_manifest(folder) or {}
    shards = shards or present.get("shards")
    shards = shards or min(len(samples), -(-max(sizes.values()) // _SHARD_BYTES))
    manifest = {
        "format": FORMAT,
        "source": source,
        "domains": sorted(sizes),
        "shards": shards,
        "image_size": image_size,
        "antialias": antialias,
    }
    _check_same(folder, present, manifest)
    plan = [
        (domain, shard, own)
        for domain in manifest["domains"]
        for shard, own in zip(
            _shards(folder, domain, shards), _shares(samples, domain, shards)
        )
        if not _is_whole(shard, own)
    ]
    total, at_most = sum(sizes.values()), "at most " if image_size else ""
    missing = sum(_estimate(s, d, image_size) for d, _, own in plan for s in own)
    told = (
        f"{len(samples)} samples, {len(sizes) * shards} shards, "
        f"{at_most}{shard_store.in_units(total)} in {folder}, "
        f"{shard_store.in_units(total - missing)} of it is there"
    )
    remedy = "Make room, give another --out_dir, fewer --domains or --image_size."
    shard_store.check_room(folder, missing, told, remedy)
    logging.info("%s.", told)
    again = "Make room and give the same command again."
    bar = tqdm.tqdm(
        total=missing, desc="packing", unit="B", unit_scale=True, disable=None
    )
    with shard_store.writing(folder, "the records", again), bar:
        content = json.dumps(manifest, indent=1).encode()
        file_writing.write_bytes(os.path.join(folder, _MANIFEST), content)
        shard_store.remove_leftovers(folder)
        for domain, shard, own in plan:
            bar.set_postfix_str(os.path.basename(shard))
            _write_shard(shard, own, domain, image_size, antialias, bar)
    rgb = [shard_store.read_index(s, _rows) for s in _shards(folder, RGB, shards)]
    if not any(whole and whole[1] for whole in rgb):
        raise UserError(
            f"{source}: no image of {counted(len(samples), 'sample')} can be read."
        )


def _check_same(
    folder: str, present: Mapping[str, Any], manifest: Mapping[str, Any]
) -> None:
    for name, value in manifest.items():
        if present.get(name, value) != value:
            raise UserError(
                f"{folder} holds records with {name} = {short(present[name])}. "
                f"Received: {value!r}. Give the same flags to go on, or another "
                "--out_dir."
            )


def _shares(
    samples: Sequence[Sample], domain: str, shards: int
) -> Iterator[List[Sample]]:
    """The samples of each shard, mixed: a shard read in its order has all buildings."""
    having = [sample for sample in samples if domain in sample.files]
    having.sort(key=lambda sample: hashlib.sha256(name_bytes(sample.key)).digest())
    for number in range(shards):
        yield having[number::shards]


def _write_shard(
    shard: str,
    samples: Sequence[Sample],
    domain: str,
    image_size: Optional[int],
    antialias: bool,
    bar: tqdm.tqdm,
) -> None:
    index: List[List[Any]] = []
    with shard_store.ShardWriter(os.path.dirname(shard)) as writer:
        for sample, name, content in _contents(samples, domain, image_size, antialias):
            bar.update(_estimate(sample, domain, image_size))
            if content is None:
                continue
            record = shard_store.example(
                {
                    "key": name_bytes(sample.key),
                    "point": name_bytes(sample.point),
                    "domain": domain.encode(),
                    "name": name_bytes(name),
                    "content": content,
                }
            )
            place = writer.add(record, content)
            index.append([sample.key, sample.point, *place, name])
        described = {"keys": digest_of(samples), "files": index}
        writer.finish(os.path.basename(shard), described)


def _contents(
    samples: Sequence[Sample],
    domain: str,
    image_size: Optional[int],
    antialias: bool,
) -> Iterator[Tuple[Sample, str, Optional[bytes]]]:
    """Each sample, its file's name and what to store of it, None if damaged."""

    def load(sample: Sample) -> Optional[bytes]:
        path = sample.files[domain]
        try:
            pixels = sample.read(domain)
            if domain == RGB and image_size:
                return _resized(pixels, image_size, antialias)
        except DamagedFile as damage:
            if domain == RGB:
                logging.warning("%s: %s. It is left out.", path, damage.reason)
                return None
            logging.warning("%s: %s. It does not count.", path, damage.reason)
        try:
            return filesystem.read_bytes(path)
        except OSError:
            return None  # named above

    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        # By portions: `map` would hold the contents of a whole shard in memory.
        for start in range(0, len(samples), 4 * _THREADS):
            some = samples[start : start + 4 * _THREADS]
            for sample, content in zip(some, pool.map(load, some)):
                path = sample.files[domain]
                part = filesystem.parse_part(path)
                name = part.name if part else os.path.basename(path)
                if image_size and domain == RGB:
                    name = f"{os.path.splitext(name)[0]}.png"
                yield sample, name, content


def _resized(pixels: np.ndarray, size: int, antialias: bool) -> bytes:
    values = encodings.resize(pixels.astype(float), size, antialias, repeat_rim=True)
    file = io.BytesIO()
    Image.fromarray(np.rint(values).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def _is_whole(shard: str, samples: Sequence[Sample]) -> bool:
    """Whether a shard holds these samples and every byte of it is as written."""
    found = shard_store.read_index(shard, _rows, whole=True)
    return found is not None and found[0]["keys"] == digest_of(samples)


def _rows(index: shard_store.Index) -> Iterator[Tuple[Any, List[Any]]]:
    """The keys and points of a shard's files, and their places."""
    if not isinstance(index["keys"], str):
        raise TypeError("no digest of keys")
    for key, point, *place in index["files"]:
        name_bytes(key), name_bytes(point)  # TypeError, ValueError: of no file
        yield (key, point), place


def _read_manifest(folder: str) -> Optional[Dict[str, Any]]:
    path = os.path.join(folder, _MANIFEST)
    with refusing(path, "Remove the folder and prepare the records again."):
        if not filesystem.exists(path):
            return None
        manifest = load_json(path, _SHAPE, shard_store.MANIFEST_BYTES)
        for domain in manifest["domains"]:
            if not re.fullmatch(r"\w+", domain):
                raise ValueError(f"it has a domain {short(domain)}")
        return manifest


def _of_buildings(
    folder: str, samples: Sequence[Sample], buildings: Sequence[str]
) -> List[Sample]:
    wanted = [buildings] if isinstance(buildings, str) else list(buildings)
    known = sorted({sample.key.split("/")[0] for sample in samples})
    unknown = [building for building in wanted if building not in known]
    if unknown:
        raise UserError(
            f"There is no building {unknown[0]!r} in the records {folder!r}. Those "
            f"there are: {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}."
        )
    return [sample for sample in samples if sample.key.split("/")[0] in wanted]


def _shards(folder: str, domain: str, count: int) -> List[str]:
    return [
        os.path.join(folder, f"{domain}-{number:05d}-of-{count:05d}.tfrecord")
        for number in range(count)
    ]


def _sizes(samples: Sequence[Sample], image_size: Optional[int]) -> Mapping[str, int]:
    sizes: Dict[str, int] = {}
    for sample in samples:
        for domain in sample.files:
            estimate = _estimate(sample, domain, image_size)
            sizes[domain] = sizes.get(domain, 0) + estimate
    return sizes


def _estimate(sample: Sample, domain: str, image_size: Optional[int]) -> int:
    """Bytes of a file; of a resized image, which nobody knows yet, the most."""
    if image_size and domain == RGB:
        return 3 * image_size * image_size + 1024
    try:
        return filesystem.size(sample.files[domain])
    except OSError:
        return 0  # named when it is read
