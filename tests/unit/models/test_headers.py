"""What is read of a model: figures, names, defaults, split models, and what is not a model."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemons.contracts.errors import Code, RbeeError
from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.headers import part_paths, read_header
from tests.unit.models.gguf_files import LLAMA_FIELDS, write_gguf


def refusal(path: Path) -> RbeeError:
    with pytest.raises(RbeeError) as caught:
        read_header(path)
    assert caught.value.code is Code.MODEL_INVALID
    return caught.value


def test_demo_model() -> None:
    """The shipped model's header says what a person sees in the catalog."""
    header = read_header(DEMO_MODEL_PATH)
    assert header.architecture == "llama"
    assert header.quantisation == "Q8_0"
    assert header.context_length >= 2048
    assert header.eos_token_id is not None
    assert "{" in header.chat_template
    assert header.file_bytes == DEMO_MODEL_PATH.stat().st_size
    assert header.tensor_bytes < header.file_bytes
    assert header.parameters > 10**6


def test_figures_of_a_header(tmp_path: Path) -> None:
    """Stated figures are taken as they are; head lengths follow from the width."""
    general = {
        "general.name": "Tiny\x1b[31m Llama",
        "general.file_type": 15,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": "{{ messages }}",
    }
    tensors = {"token_embd.weight": (3, 64), "output.weight": (3, 64)}
    header = read_header(write_gguf(tmp_path / "a.gguf", general=general, tensors=tensors))
    assert header.name == "Tiny[31m Llama"
    assert header.quantisation == "Q4_K_M"
    assert (header.context_length, header.embedding_length, header.block_count) == (2048, 64, 2)
    assert (header.head_count, header.head_count_kv) == (4, 2)
    assert (header.key_length, header.value_length) == (16, 16)
    assert (header.vocab_size, header.eos_token_id) == (3, 2)
    assert header.chat_template == "{{ messages }}"
    assert (header.parameters, header.tensor_bytes) == (384, 768)
    assert (header.expert_count, header.sliding_window, header.parts) == (0, 0, 1)


def test_what_a_header_leaves_open(tmp_path: Path) -> None:
    """Without a file type the tensors tell it, without a vocabulary the embedding, without an EOS there is none."""
    header = read_header(write_gguf(tmp_path / "a.gguf", tokens=()))
    assert header.quantisation == "F16"
    assert header.vocab_size == 3
    assert header.eos_token_id is None
    assert header.name == ""
    assert header.chat_template == ""


def test_experts(tmp_path: Path) -> None:
    """Mixture-of-experts figures are read; arrays with one entry per layer give the largest."""
    fields = {**LLAMA_FIELDS, "expert_count": 8, "expert_used_count": 2, "expert_feed_forward_length": [32, 96]}
    header = read_header(write_gguf(tmp_path / "a.gguf", "qwen3moe", fields))
    assert (header.expert_count, header.expert_used_count, header.expert_feed_forward_length) == (8, 2, 96)


@pytest.mark.parametrize("missing", ["context_length", "embedding_length", "block_count"])
def test_missing_figures_are_named(tmp_path: Path, missing: str) -> None:
    """llama.cpp would refuse the file too, but only after a worker was started."""
    fields = {name: value for name, value in LLAMA_FIELDS.items() if name != missing}
    assert f"llama.{missing}" in refusal(write_gguf(tmp_path / "a.gguf", fields=fields)).message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("block_count", 0),
        ("block_count", 4_000_000_000),
        ("context_length", "long"),
        ("attention.head_count_kv", [1]),
        ("feed_forward_length", [-1, 2]),
        ("expert_count", [1, 2]),
    ],
)
def test_impossible_figures_are_refused(tmp_path: Path, name: str, value: Any) -> None:
    """Figures of the wrong type or size are named, not believed."""
    error = refusal(write_gguf(tmp_path / "a.gguf", fields={**LLAMA_FIELDS, name: value}))
    assert f"llama.{name}" in error.message


def test_gguf_files_that_are_no_models(tmp_path: Path) -> None:
    """Adapters, projectors and bare vocabularies are GGUF too."""
    adapter = write_gguf(tmp_path / "adapter.gguf", general={"general.type": "adapter"})
    assert "of type 'adapter'" in refusal(adapter).message
    vocabulary = write_gguf(tmp_path / "vocabulary.gguf", tensors={})
    assert "holds no tensors" in refusal(vocabulary).message


def test_architecture_is_needed_and_short(tmp_path: Path) -> None:
    """It names the metadata fields, so it is checked before it is used."""
    assert "general.architecture" in refusal(write_gguf(tmp_path / "a.gguf", "a" * 65)).message
    assert "general.architecture" in refusal(write_gguf(tmp_path / "b.gguf", "ll\x1bama")).message


def test_tensor_without_dimensions(tmp_path: Path) -> None:
    """An embedding that is a single number leaves the vocabulary unknown."""
    path = write_gguf(tmp_path / "a.gguf", tokens=(), tensors={"token_embd.weight": (), "w": (2, 32)})
    assert read_header(path).vocab_size == 0


def split(folder: Path, count: int = 3) -> list[Path]:
    """A model in `count` parts: metadata in the first, one tensor in each."""
    parts = [folder / f"big-{number:05d}-of-{count:05d}.gguf" for number in range(1, count + 1)]
    for number, path in enumerate(parts):
        general = {"split.no": number, "split.count": count}
        fields = LLAMA_FIELDS if number == 0 else {}
        write_gguf(path, fields=fields, general=general, tensors={f"blk.{number}.w": (4, 64)})
    return parts


def test_split_model_is_the_sum_of_its_parts(tmp_path: Path) -> None:
    """Sizes count all parts, figures come from the first."""
    parts = split(tmp_path)
    header = read_header(parts[0])
    assert header.parts == 3
    assert header.parameters == 3 * 256
    assert header.tensor_bytes == 3 * 512
    assert header.file_bytes == sum(path.stat().st_size for path in parts)
    assert part_paths(parts[0], 3) == parts


def test_split_model_needs_every_part(tmp_path: Path) -> None:
    """A missing part is named, and so is one that was linked in from elsewhere."""
    parts = split(tmp_path)
    parts[1].rename(tmp_path / "elsewhere.gguf")
    assert f"split into 3 parts, and '{parts[1].name}' is missing" in refusal(parts[0]).message
    parts[1].symlink_to(tmp_path / "elsewhere.gguf")
    assert "missing" in refusal(parts[0]).message


def test_split_model_is_named_by_its_first_part(tmp_path: Path) -> None:
    """llama.cpp loads from the first part only; another name breaks the series."""
    parts = split(tmp_path)
    assert "is part 2 of 3; name the first part" in refusal(parts[1]).message
    parts[0].rename(tmp_path / "renamed.gguf")
    assert "not named like part 1 of 3" in refusal(tmp_path / "renamed.gguf").message


def test_cut_part_is_refused(tmp_path: Path) -> None:
    """Each part is checked for its size."""
    parts = split(tmp_path)
    parts[2].write_bytes(parts[2].read_bytes()[:-400])
    error = refusal(parts[0])
    assert "is cut off" in error.message
    assert parts[2].name in error.message


@given(st.lists(st.tuples(st.integers(4, 900), st.integers(0, 255)), min_size=1, max_size=6), st.binary(max_size=40))
@settings(max_examples=200, deadline=None)
def test_damaged_files_are_read_or_refused(changes: list[tuple[int, int]], tail: bytes) -> None:
    """Any bytes changed, anywhere: an answer, or MODEL_INVALID in printable words; never another failure."""
    with tempfile.TemporaryDirectory() as folder:
        content = bytearray(write_gguf(Path(folder) / "whole.gguf").read_bytes() + tail)
        for position, value in changes:
            content[position % len(content)] = value
        path = Path(folder) / "damaged.gguf"
        path.write_bytes(content)
        try:
            read_header(path)
        except RbeeError as error:
            assert error.code is Code.MODEL_INVALID
            assert error.message.isprintable()
