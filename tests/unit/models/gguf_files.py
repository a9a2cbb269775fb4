"""Small GGUF files for tests, written with the `gguf` package itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFWriter

from daemons.models.headers import GgufHeader
from daemons.models.layer_shape import LayerShape

LLAMA_FIELDS: Mapping[str, int] = {
    "context_length": 2048,
    "embedding_length": 64,
    "block_count": 2,
    "feed_forward_length": 128,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}


def write_gguf(
    path: Path,
    architecture: str = "llama",
    fields: Mapping[str, Any] | None = None,
    general: Mapping[str, Any] | None = None,
    tensors: Mapping[str, tuple[int, ...]] | None = None,
    tokens: Sequence[str] = ("a", "b", "c"),
) -> Path:
    """Write one file. `fields` stand under the architecture's prefix, `general` under their full names.

    `tensors` maps names to shapes as numpy counts them (rows first); all are f16.
    """
    writer = GGUFWriter(path, architecture)
    for name, value in (LLAMA_FIELDS if fields is None else fields).items():
        _add(writer, f"{architecture}.{name}", value)
    for name, value in (general or {}).items():
        _add(writer, name, value)
    if tokens:
        writer.add_token_list(list(tokens))
    for name, shape in ({"token_embd.weight": (3, 64)} if tensors is None else tensors).items():
        writer.add_tensor(name, np.zeros(shape, dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add(writer: Any, key: str, value: Any) -> None:
    if isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, list):
        writer.add_array(key, value)
    else:
        writer.add_uint32(key, value)


def header_of(**changes: Any) -> GgufHeader:
    """A header like that of an 8 B Llama in Q8_0, with `changes` to it (those of its shape included)."""
    shape = {
        "cache_values": 32 * 8 * 256,
        "sliding_cache_values": 0,
        "state_values": 0,
        "recurrent_layers": 0,
        "step_values": 3 * 14336 + 5 * 4096,
    }
    shape |= {name: changes.pop(name) for name in tuple(changes) if name in shape}
    usual: dict[str, Any] = {
        "architecture": "llama",
        "name": "Llama",
        "quantisation": "Q8_0",
        "context_length": 131_072,
        "embedding_length": 4096,
        "block_count": 32,
        "head_count": 32,
        "head_count_kv": 8,
        "key_length": 128,
        "value_length": 128,
        "feed_forward_length": 14_336,
        "vocab_size": 128_256,
        "eos_token_id": 2,
        "chat_template": "",
        "parameters": 8_030_261_248,
        "tensor_bytes": 8_532_934_656,
        "file_bytes": 8_540_000_000,
        "sliding_window": 0,
        "expert_count": 0,
        "expert_used_count": 0,
        "expert_feed_forward_length": 0,
        "shape": LayerShape(**shape),
    }
    return GgufHeader(**usual | changes)
