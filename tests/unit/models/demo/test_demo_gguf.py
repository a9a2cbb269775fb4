"""The shipped file, read without llama.cpp."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFReader, TokenType

from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.demo.export import CHAT_TEMPLATE


@pytest.fixture(scope="module")
def reader() -> GGUFReader:
    """The shipped model."""
    return GGUFReader(DEMO_MODEL_PATH)


def value(reader: GGUFReader, key: str) -> Any:
    """One metadata value."""
    return reader.fields[key].contents()


def test_it_is_small() -> None:
    """It travels in every wheel."""
    assert 1_000_000 < DEMO_MODEL_PATH.stat().st_size <= 8_000_000


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("general.architecture", "llama"),
        ("general.name", "rbee demo"),
        ("general.file_type", 7),
        ("tokenizer.ggml.model", "llama"),
        ("tokenizer.ggml.add_bos_token", True),
        ("tokenizer.ggml.add_eos_token", False),
        ("tokenizer.ggml.add_space_prefix", False),
        ("tokenizer.chat_template", CHAT_TEMPLATE),
    ],
)
def test_metadata(reader: GGUFReader, key: str, expected: object) -> None:
    """What llama.cpp and our own header reader rely on."""
    assert value(reader, key) == expected


def test_context_and_sides(reader: GGUFReader) -> None:
    """Rows that are not a multiple of 32 would hide faults of the quantised kernels."""
    assert value(reader, "llama.context_length") >= 2048
    for tensor in reader.tensors:
        assert all(side % 32 == 0 for side in tensor.shape.tolist())
        wanted = GGMLQuantizationType.F32 if len(tensor.shape) == 1 else GGMLQuantizationType.Q8_0
        assert tensor.tensor_type == wanted


def test_any_byte_has_a_token(reader: GGUFReader) -> None:
    """Byte fallback: all 256 bytes are there, so that any UTF-8 survives."""
    types = value(reader, "tokenizer.ggml.token_type")
    tokens = value(reader, "tokenizer.ggml.tokens")
    spelled = {token for token, kind in zip(tokens, types, strict=True) if kind == TokenType.BYTE}
    assert spelled == {f"<0x{byte:02X}>" for byte in range(256)}
    assert len(value(reader, "tokenizer.ggml.scores")) == len(tokens)


def test_special_tokens(reader: GGUFReader) -> None:
    """BOS opens, `<|im_end|>` is the end of text, and both are control tokens."""
    tokens, types = value(reader, "tokenizer.ggml.tokens"), value(reader, "tokenizer.ggml.token_type")
    bos, eos = value(reader, "tokenizer.ggml.bos_token_id"), value(reader, "tokenizer.ggml.eos_token_id")
    assert (tokens[bos], tokens[eos]) == ("<s>", "<|im_end|>")
    assert types[bos] == types[eos] == types[tokens.index("<|im_start|>")] == TokenType.CONTROL


def test_weights_are_finite(reader: GGUFReader) -> None:
    """No block scale is broken."""
    for tensor in reader.tensors:
        if tensor.tensor_type == GGMLQuantizationType.Q8_0:
            scales = tensor.data.reshape(-1, 34)[:, :2].copy().view(np.float16)
            assert np.isfinite(scales).all()
        else:
            assert np.isfinite(tensor.data).all()


def test_the_package_imports_without_numpy() -> None:
    """The keeper asks for the path; that must cost nothing."""
    program = "import sys, daemons.models.demo; print([m for m in ('numpy', 'gguf', 'torch') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
