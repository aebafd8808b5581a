"""One array_record file of examples: written whole or not at all, and read back."""

import contextlib
import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import tensorflow_datasets as tfds
from array_record.python import array_record_module
from tensorflow_datasets.core.example_serializer import ExampleSerializer

from data_prep.dataset import Dataset, Item
from data_prep.images import read_bytes
from data_prep.units import partial_path
from rsfm_jax.data.formats import stop
from rsfm_jax.errors import UserError

# One record a group: random access reads no neighbours. Stored pictures are compressed already.
_WRITER_OPTIONS = "group_size:1,uncompressed"


def build_shard(
    dataset: Dataset, features: tfds.features.FeaturesDict, items: list[Item], path: Path,
    on_bad: str,
) -> dict:  # fmt: skip
    """Converts items into the shard `path` and gives what the manifest keeps of it.

    Returns:
      records: [image_id, number of objects, sha256 of the record] for each example in order.
      sources: [file, sha256] for each raw file used.
      images, objects, labelled: items used, their objects before cutting, items with a label.
      bad: one line for everything left out (`on_bad="skip"`).
      bytes: size of all records.

    Raises UserError at the first bad thing with `on_bad="stop"`, and when the disk is full.
    """
    bad: list[str] = []
    report = bad.append if on_bad == "skip" else stop
    serialize = _serializer(features)
    records, sources, used = [], [], []
    size = 0
    with _writer(path) as write:
        for item in items:
            try:
                converted = dataset.convert(item, report)
            except UserError as error:
                report(str(error))
                continue
            for example in converted.examples:
                data = serialize(example)
                write(data)
                size += len(data)
                objects = len(example.get("labels", ()))
                records.append([example["image_id"], objects, hashlib.sha256(data).hexdigest()])
            sources += [[name, sha256(dataset.path(name))] for name in item.files]
            used.append((converted.objects, item.label >= 0))
    return {
        "records": records,
        "sources": sources,
        "images": len(used),
        "objects": sum(objects for objects, _ in used),
        "labelled": sum(labelled for _, labelled in used),
        "bad": bad,
        "bytes": size,
    }


def read_shard(path: Path, positions: Iterable[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """(position, serialized record) of all records, or of some; UserError for a broken file."""
    # The C++ reader opens anything; what is wrong shows when a record is read, or at the end.
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        for position in range(reader.num_records()) if positions is None else positions:
            yield position, reader.read([position])[0]
        reader.close()
    except (RuntimeError, ValueError, IndexError) as error:
        raise UserError(f"{path}: not a whole array_record file: {error}") from error


def sha256(path: Path) -> str:
    """Content hash of a file."""
    return hashlib.sha256(read_bytes(path)).hexdigest()


def _serializer(features: tfds.features.FeaturesDict):
    """Example -> bytes, the same bytes in every process (TFDS's own order varies)."""
    serializer = ExampleSerializer(features.get_serialized_info())

    def serialize(example: dict) -> bytes:
        proto = serializer.get_tf_example(features.encode_example(example))
        return proto.SerializeToString(deterministic=True)

    return serialize


@contextlib.contextmanager
def _writer(path: Path):
    """Gives a function that appends a record; the file gets its name when all went well."""
    partial = partial_path(path)
    try:
        with _disk_errors(path):
            writer = array_record_module.ArrayRecordWriter(str(partial), _WRITER_OPTIONS)

        def write(record: bytes) -> None:
            with _disk_errors(path):
                writer.write(record)

        try:
            yield write
        except BaseException:
            with contextlib.suppress(RuntimeError):  # a failed writer complains again
                writer.close()
            raise
        with _disk_errors(path):
            writer.close()
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def _disk_errors(path: Path):
    try:
        yield
    except (RuntimeError, OSError) as error:  # array_record raises RuntimeError for a full disk
        raise UserError(f"{path}: {error}; finished shards are kept, run again") from error
