"""The GGUF container: metadata and tensor table, read without touching the tensors.

Source of the layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
`gguf.GGUFReader` builds several numpy arrays for each token and takes 6.7 s for a vocabulary of 152,000 tokens with
merges; a catalog and a fit check need none of the texts, so this reader steps over them (0.1 s). It opens files by
what is in them, not by their name, and believes no length that the file cannot hold.
"""

import functools
import os
import stat
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from daemons.contracts.errors import Code, RbeeError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
METADATA_LIMIT = 256 * 2**20
"""Bytes of metadata after which a file is refused; the largest vocabularies take about 20 MB."""

LONGEST_KEPT_ARRAY = 1024
"""Arrays of numbers up to this length are kept (one entry per layer); of longer ones only the length."""

MOST_ENTRIES = 65_536
"""Metadata fields, and tensors, that one file may have; the largest models have some thousands."""

_CHUNK = 1 << 20
_LONGEST_NAME = 1024
_DEFAULT_ALIGNMENT = 32
_MAX_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_UNPACKERS = {type_id: struct.Struct(f"<{code}") for type_id, code in _SCALARS.items()}
_U32, _U64 = _UNPACKERS[4], _UNPACKERS[10]


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array of texts, or of more numbers than are kept."""

    length: int


Scalar = bool | int | float | str
Value = Scalar | tuple[bool | int | float, ...] | SkippedArray


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of the table. `shape` counts elements, fastest dimension first; `offset` and `size` are bytes."""

    name: str
    shape: tuple[int, ...]
    elements: int
    type_name: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """Metadata and tensor table of one file; `file_bytes` is its size on the disk."""

    fields: Mapping[str, Value]
    tensors: tuple[TensorInfo, ...]
    file_bytes: int


def read_gguf(path: Path) -> GgufFile:
    """Read one file's metadata, remembered until its size or time of change differs.

    Raises RbeeError: MODEL_NOT_FOUND when it cannot be opened; MODEL_INVALID, with the numbers, when it is not GGUF,
    is cut off, or contradicts itself.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise invalid_model(path, "is not a regular file")  # opening a pipe would wait for its other end
        return _read_unchanged(path, found.st_mtime_ns, found.st_size)
    except OSError as error:
        raise RbeeError(
            Code.MODEL_NOT_FOUND,
            f"cannot read {str(path)!r}: {error.strerror or error}",
            details={"path": str(path), "reason": error.strerror or str(error)},
        ) from error


def invalid_model(path: Path, why: str, **details: int | str) -> RbeeError:
    """MODEL_INVALID for this file."""
    return RbeeError(Code.MODEL_INVALID, f"{str(path)!r} {why}", details={"path": str(path), **details})


@functools.lru_cache(maxsize=64)
def _read_unchanged(path: Path, _mtime_ns: int, _size: int) -> GgufFile:
    with path.open("rb") as stream:
        return _Parser(path, stream).parse()


class _Parser:
    """Steps through one file; `_at` is the position in `_head`, which grows as far as it is needed."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path = path
        self._stream = stream
        self._file_bytes = os.fstat(stream.fileno()).st_size
        self._head = bytearray()
        self._at = 0

    def parse(self) -> GgufFile:
        self._check_magic()
        self._check_version(self._number(_U32))
        tensor_count, field_count = self._number(_U64), self._number(_U64)
        fields = self._fields(field_count)
        rows = [self._tensor_row() for _ in range(self._entries(tensor_count, 24, "tensors"))]
        tensors = self._sized(rows, self._data_start(fields))
        return GgufFile(fields, tensors, self._file_bytes)

    def _check_magic(self) -> None:
        self._head += self._stream.read(_CHUNK)
        magic = bytes(self._head[: len(MAGIC)])
        if magic != MAGIC:
            begins = f"begins with {magic!r}, not with {MAGIC!r}" if magic else "is empty"
            self._refuse(f"is not a GGUF file: it {begins}", file_bytes=self._file_bytes)
        self._at = len(MAGIC)

    def _check_version(self, version: int) -> None:
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            why = "is written big-endian" if swapped else f"has GGUF version {version}"
            self._refuse(f"{why}; readable are little-endian files of versions 2 and 3", version=version)

    def _fields(self, count: int) -> dict[str, Value]:
        fields: dict[str, Value] = {}
        for _ in range(self._entries(count, 13, "metadata fields")):
            key = self._name()
            if key in fields:
                self._refuse(f"has the metadata field {key!r} twice")
            fields[key] = self._value(self._number(_U32), key)
        return fields

    def _value(self, type_id: int, key: str) -> Value:
        if type_id == _STRING:
            return self._text()
        if type_id == _ARRAY:
            return self._array(self._number(_U32), self._number(_U64), key)
        unpacker = _UNPACKERS.get(type_id)
        if unpacker is None:
            self._refuse(f"has metadata of an unknown type {type_id} in {key!r}")
        return self._scalar(unpacker)

    def _array(self, item_type: int, length: int, key: str) -> Value:
        if item_type == _STRING:
            self._skip_texts(self._plausible(length, 8, f"texts in {key!r}"))
            return SkippedArray(length)
        unpacker = _UNPACKERS.get(item_type)
        if unpacker is None:
            self._refuse(f"has an array of an unknown type {item_type} in {key!r}")
        if length <= LONGEST_KEPT_ARRAY:
            return tuple(self._scalar(unpacker) for _ in range(length))
        self._need(length * unpacker.size)
        self._at += length * unpacker.size
        return SkippedArray(length)

    def _skip_texts(self, count: int) -> None:
        # Vocabularies have hundreds of thousands of texts: everything in this loop is local on purpose.
        head, at, read_length = self._head, self._at, _U64.unpack_from
        for _ in range(count):
            if at + 8 > len(head):
                self._at = at
                self._need(8)
            at += 8 + read_length(head, at)[0]
        self._at = at
        self._need(0)

    def _name(self) -> str:
        self._need(_U64.size)
        length = _U64.unpack_from(self._head, self._at)[0]
        if length > _LONGEST_NAME:
            self._refuse(f"has a field or tensor whose name is {length:,} bytes long")
        return self._text()

    def _text(self) -> str:
        length = self._number(_U64)
        self._need(length)
        start, self._at = self._at, self._at + length
        return self._head[start : self._at].decode("utf-8", "replace")

    def _scalar(self, unpacker: struct.Struct) -> bool | int | float:
        self._need(unpacker.size)
        value: bool | int | float = unpacker.unpack_from(self._head, self._at)[0]
        self._at += unpacker.size
        return value

    def _number(self, unpacker: struct.Struct) -> int:
        return int(self._scalar(unpacker))

    def _tensor_row(self) -> tuple[str, tuple[int, ...], int, int]:
        """(name, shape, type id, offset into the data) of the next tensor."""
        name = self._name()
        dimensions = self._number(_U32)
        if dimensions > _MAX_DIMENSIONS:
            self._refuse(f"has a tensor {name!r} of {dimensions} dimensions; at most {_MAX_DIMENSIONS} are possible")
        shape = tuple(self._number(_U64) for _ in range(dimensions))
        return name, shape, self._number(_U32), self._number(_U64)

    def _data_start(self, fields: Mapping[str, Value]) -> int:
        alignment = fields.get("general.alignment", _DEFAULT_ALIGNMENT)
        if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
            self._refuse(f"has the alignment {alignment!r}, which is not a power of two")
        return -(-self._at // alignment) * alignment

    def _sized(self, rows: list[tuple[str, tuple[int, ...], int, int]], start: int) -> tuple[TensorInfo, ...]:
        """Add the sizes, and check that the file holds what its table promises."""
        tensors = tuple(self._tensor(name, shape, type_id, start + offset) for name, shape, type_id, offset in rows)
        described = max((tensor.offset + tensor.size for tensor in tensors), default=self._at)
        if described > self._file_bytes:
            self._refuse(
                f"is cut off: it has {self._file_bytes:,} bytes, and its header describes {described:,}",
                file_bytes=self._file_bytes,
                described_bytes=described,
            )
        return tensors

    def _tensor(self, name: str, shape: tuple[int, ...], type_id: int, offset: int) -> TensorInfo:
        layout = _tensor_types().get(type_id)
        if layout is None:
            self._refuse(f"has a tensor {name!r} of an unknown type {type_id}; a newer rbee may know it")
        type_name, block_elements, block_bytes = layout
        elements = 1
        for extent in shape:
            elements *= extent
        if shape and shape[0] % block_elements:
            self._refuse(f"has a tensor {name!r} of type {type_name} whose rows of {shape[0]} fill no whole blocks")
        return TensorInfo(name, shape, elements, type_name, offset, elements // block_elements * block_bytes)

    def _entries(self, count: int, least_bytes: int, what: str) -> int:
        if self._plausible(count, least_bytes, what) > MOST_ENTRIES:
            self._refuse(f"has {count:,} {what}, more than {MOST_ENTRIES:,}")
        return count

    def _plausible(self, count: int, least_bytes: int, what: str) -> int:
        """`count`, refused when the rest of the file could not hold so many of at least `least_bytes` each."""
        if count * least_bytes > self._file_bytes - self._at:
            self._refuse(
                f"is cut off or damaged: it announces {count:,} {what} with {self._file_bytes - self._at:,} bytes left",
                file_bytes=self._file_bytes,
            )
        return count

    def _need(self, size: int) -> None:
        """Have the next `size` bytes in `_head`."""
        end = self._at + size
        if end <= len(self._head):
            return
        if end > self._file_bytes:
            self._refuse(
                f"is cut off: it has {self._file_bytes:,} bytes, and its header alone takes at least {end:,}",
                file_bytes=self._file_bytes,
                described_bytes=end,
            )
        if end > METADATA_LIMIT:
            self._refuse(f"has more than {METADATA_LIMIT:,} bytes of metadata")
        while len(self._head) < end:
            chunk = self._stream.read(max(_CHUNK, end - len(self._head)))
            if not chunk:
                self._refuse(f"became shorter while it was read: {len(self._head):,} bytes came")
            self._head += chunk

    def _refuse(self, why: str, **details: int | str) -> NoReturn:
        raise invalid_model(self._path, why, **details)


@functools.cache
def _tensor_types() -> Mapping[int, tuple[str, int, int]]:
    """Tensor type id -> (name, elements per block, bytes per block)."""
    from gguf.constants import GGML_QUANT_SIZES  # imports numpy, which a keeper does not have

    return {int(kind): (kind.name, elements, size) for kind, (elements, size) in GGML_QUANT_SIZES.items()}
