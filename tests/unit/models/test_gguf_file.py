"""The GGUF container: recognised by content, damage told with numbers, no input crashes or hangs it."""

import os
import struct
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGUFReader

from daemons.contracts.errors import Code, RbeeError
from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.gguf_file import MOST_ENTRIES, SkippedArray, read_gguf
from tests.unit.models.gguf_files import write_gguf


def refusal(path: Path) -> RbeeError:
    with pytest.raises(RbeeError) as caught:
        read_gguf(path)
    assert caught.value.code is Code.MODEL_INVALID
    assert repr(str(path)) in caught.value.message
    return caught.value


def container(*body: bytes, version: int = 3, tensors: int = 0, fields: int = 0) -> bytes:
    return struct.pack("<4sIQQ", b"GGUF", version, tensors, fields) + b"".join(body)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def test_agrees_with_the_gguf_package() -> None:
    """The demo model's metadata and tensor table, read by both, are the same."""
    ours, theirs = read_gguf(DEMO_MODEL_PATH), GGUFReader(DEMO_MODEL_PATH)
    assert [(t.name, t.elements, t.size, t.offset) for t in ours.tensors] == [
        (t.name, int(t.n_elements), int(t.n_bytes), int(t.data_offset)) for t in theirs.tensors
    ]
    for key, value in ours.fields.items():
        if isinstance(value, SkippedArray):
            assert value.length == len(theirs.fields[key].data)
        elif not isinstance(value, float):
            expected = theirs.fields[key].contents()
            assert (list(value) if isinstance(value, tuple) else value) == expected


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "is empty"),
        (b"GG", "begins with b'GG'"),
        (b"Hello, I am a text that was renamed.", "begins with b'Hell'"),
        (b"PK\x03\x04", "b'PK\\x03\\x04'"),
        (container(version=1), "GGUF version 1"),
        (container(version=4), "GGUF version 4"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "big-endian"),
        (container(fields=10**6), "announces 1,000,000 metadata fields with 0 bytes left"),
        (container(tensors=2**63), "announces 9,223,372,036,854,775,808 tensors"),
        (container(bytes(24 * (MOST_ENTRIES + 1)), tensors=MOST_ENTRIES + 1), "more than 65,536"),
        (container(struct.pack("<Q", 2**62), bytes(20), fields=1), "name is 4,611,686,018,427,387,904 bytes long"),
        (container(text(b"k"), struct.pack("<IQ", 8, 2**62), fields=1), "header alone takes at least"),
        (container(text(b"k"), struct.pack("<IIQ", 9, 8, 2**62), fields=1), "texts in 'k'"),
        (container(text(b"k"), struct.pack("<IIQ", 9, 4, 2**62), fields=1), "header alone takes at least"),
        (container(text(b"k"), struct.pack("<IIQ", 9, 9, 1), bytes(20), fields=1), "array of an unknown type 9"),
        (container(text(b"k\x1b"), struct.pack("<I", 77), bytes(20), fields=1), "type 77 in 'k\\x1b'"),
        (container(text(b"k"), struct.pack("<IB", 0, 1), text(b"k"), struct.pack("<IB", 0, 1), fields=2), "'k' twice"),
        (
            container(text(b"general.alignment"), struct.pack("<II", 4, 12), fields=1),
            "alignment 12, which is not a power of two",
        ),
        (container(text(b"t"), struct.pack("<I", 5), bytes(60), tensors=1), "5 dimensions"),
        (container(text(b"t"), struct.pack("<IQIQ", 1, 32, 999, 0), tensors=1), "unknown type 999"),
        (container(text(b"t"), struct.pack("<IQIQ", 1, 33, 8, 0), tensors=1), "rows of 33"),
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes, why: str) -> None:
    """Files that only look like models, whatever their name, and lengths that no file could hold."""
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    assert why in refusal(path).message


def test_name_does_not_matter(tmp_path: Path) -> None:
    """A model is a model under any name."""
    assert read_gguf(write_gguf(tmp_path / "notes.txt")).tensors


def test_every_truncation_is_told_with_both_sizes(tmp_path: Path) -> None:
    """Cut at any byte, a file is refused: as cut off, with what it has and what it should have."""
    whole = write_gguf(tmp_path / "whole.gguf").read_bytes()
    described = max(tensor.offset + tensor.size for tensor in read_gguf(tmp_path / "whole.gguf").tensors)
    for size in [*range(24, described, 7), described - 1]:
        path = tmp_path / f"{size}.gguf"
        path.write_bytes(whole[:size])
        error = refusal(path)
        assert "is cut off" in error.message
        assert error.details["file_bytes"] == size
    assert f"it has {described - 1:,} bytes, and its header describes {described:,}" in error.message
    assert error.details["described_bytes"] == described


def test_offsets_beyond_the_end_are_refused(tmp_path: Path) -> None:
    """A tensor that claims to lie far away is no reason to believe that the file is so large."""
    path = tmp_path / "model.gguf"
    path.write_bytes(container(text(b"t"), struct.pack("<IQIQ", 1, 2**40, 0, 2**50), tensors=1) + bytes(64))
    assert refusal(path).details["described_bytes"] > 2**50


def test_long_arrays_keep_only_their_length(tmp_path: Path) -> None:
    """Texts and scores of a vocabulary are stepped over, short arrays of numbers are kept."""
    fields = {"scores": [1.5] * 2000, "few": [1, 2, 3]}
    read = read_gguf(write_gguf(tmp_path / "a.gguf", fields=fields, tokens=["x"] * 5)).fields
    assert read["llama.scores"] == SkippedArray(2000)
    assert read["llama.few"] == (1, 2, 3)
    assert read["tokenizer.ggml.tokens"] == SkippedArray(5)


def test_large_vocabulary_is_read_at_once(tmp_path: Path) -> None:
    """152,000 tokens and as many merges take 0.1 s here; a second would be felt in each listing of models."""
    count = 152_000
    words = b"".join(text(b"token %d" % number) for number in range(count))
    arrays = [text(key) + struct.pack("<IIQ", 9, 8, count) + words for key in (b"tokens", b"merges")]
    path = tmp_path / "vocabulary.gguf"
    path.write_bytes(container(*arrays, fields=2))
    started = time.process_time()
    fields = read_gguf(path).fields
    assert time.process_time() - started < 1.0
    assert fields == {"tokens": SkippedArray(count), "merges": SkippedArray(count)}


def test_unchanged_file_is_remembered_and_a_changed_one_read_again(tmp_path: Path) -> None:
    """Remembered by path, time and size."""
    path = write_gguf(tmp_path / "a.gguf", general={"general.name": "one"})
    first = read_gguf(path)
    assert read_gguf(path) is first
    write_gguf(path, general={"general.name": "two"})
    os.utime(path, ns=(1, 1))
    assert read_gguf(path).fields["general.name"] == "two"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: os.mkfifo(path)])
def test_only_regular_files_are_opened(tmp_path: Path, make: Callable[[Path], None]) -> None:
    """Folders are no models; a pipe would block for ever."""
    make(tmp_path / "a.gguf")
    assert "not a regular file" in refusal(tmp_path / "a.gguf").message


def test_absent_file_is_not_found(tmp_path: Path) -> None:
    """An absent file is told apart from a bad one."""
    with pytest.raises(RbeeError) as caught:
        read_gguf(tmp_path / "a.gguf")
    assert caught.value.code is Code.MODEL_NOT_FOUND
    assert "No such file" in caught.value.message
