"""What rbee needs to know of a model, read from the header of its GGUF file (of all files of a split model)."""

import functools
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemons.models.gguf_file import GgufFile, SkippedArray, Value, invalid_model, read_gguf
from daemons.models.layer_shape import ArchitectureFields, FieldMissing, LayerShape, layer_shape

MOST_PARTS = 1024
"""Files that a split model may have."""

_ARCHITECTURE = re.compile(r"[A-Za-z0-9._-]{1,64}")
_PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """One model. Context and window are in tokens, sizes in bytes; 0 and "" mean that the header does not say.

    `head_count_kv` and other figures that may differ between layers are those of the largest; `shape` is exact.
    `parts` counts the files of a split model; sizes and parameters are sums over all of them.
    """

    architecture: str
    name: str
    quantisation: str
    context_length: int
    embedding_length: int
    block_count: int
    head_count: int
    head_count_kv: int
    key_length: int
    value_length: int
    feed_forward_length: int
    vocab_size: int
    eos_token_id: int | None
    chat_template: str
    parameters: int
    tensor_bytes: int
    file_bytes: int
    sliding_window: int
    expert_count: int
    expert_used_count: int
    expert_feed_forward_length: int
    shape: LayerShape
    parts: int = 1


def read_header(path: Path) -> GgufHeader:
    """Read the header of a model; of a split one `path` is the first part, and the others lie beside it.

    Files are told by their content, not by their name. Repeated reads of unchanged files are answered from memory.
    Raises RbeeError: MODEL_NOT_FOUND when a file cannot be read; MODEL_INVALID when it is no complete GGUF model.
    """
    first = read_gguf(path)
    files = [first, *(read_gguf(part) for part in _other_parts(path, first))]
    architecture = first.fields.get("general.architecture")
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        raise invalid_model(path, "has no usable general.architecture in its header")
    kind = first.fields.get("general.type", "model")
    if kind != "model":
        raise invalid_model(path, f"is a GGUF file of type {kind!r}, not a model")
    if not any(file.tensors for file in files):
        raise invalid_model(path, "holds no tensors, so it is a vocabulary and not a model")
    try:
        return _header(ArchitectureFields(architecture, first.fields), files)
    except FieldMissing as missing:
        raise invalid_model(path, f"lacks {missing} in its header", field=str(missing)) from None


def part_paths(first: Path, count: int) -> list[Path]:
    """Paths of all `count` parts of a split model, given the first: ``name-00001-of-00003.gguf`` and so on.

    Raises ValueError when `first` is not named like the first of so many parts.
    """
    match = _PART.fullmatch(first.name)
    if match is None or int(match["number"]) != 1 or int(match["count"]) != count:
        raise ValueError(f"{first.name!r} is not named like part 1 of {count}")
    return [first.with_name(f"{match['stem']}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]


def _other_parts(path: Path, first: GgufFile) -> Sequence[Path]:
    count, number = _number(first.fields, "split.count"), _number(first.fields, "split.no")
    if count <= 1:
        return ()
    if number != 0:
        raise invalid_model(path, f"is part {number + 1} of {count}; name the first part", parts=count)
    try:
        others = part_paths(path, min(count, MOST_PARTS))[1:]
    except ValueError as error:
        raise invalid_model(path, f"is a split model, but {error}", parts=count) from None
    for part in others:
        # A link could lead out of the folder that was allowed for the first part.
        if part.is_symlink() or not part.is_file():
            raise invalid_model(path, f"is split into {count} parts, and {part.name!r} is missing", parts=count)
    return others


def _header(keys: ArchitectureFields, files: Sequence[GgufFile]) -> GgufHeader:
    fields, zeros = keys.fields, (0,) * keys.layers()
    tensors = [tensor for file in files for tensor in file.tensors]
    key_length, value_length = keys.head_lengths()
    return GgufHeader(
        architecture=keys.architecture,
        name=_printable(fields.get("general.name")),
        quantisation=_quantisation(fields, files),
        context_length=keys.number("context_length"),
        embedding_length=keys.number("embedding_length"),
        block_count=len(zeros),
        head_count=max(keys.heads()),
        head_count_kv=max(keys.kv_heads()),
        key_length=key_length,
        value_length=value_length,
        feed_forward_length=max(keys.per_layer("feed_forward_length", zeros)),
        vocab_size=_vocab_size(keys, files),
        eos_token_id=_eos(fields),
        chat_template=_text(fields.get("tokenizer.chat_template")),
        parameters=sum(tensor.elements for tensor in tensors),
        tensor_bytes=sum(tensor.size for tensor in tensors),
        file_bytes=sum(file.file_bytes for file in files),
        sliding_window=keys.number("attention.sliding_window", 0),
        expert_count=keys.number("expert_count", 0),
        expert_used_count=max(keys.per_layer("expert_used_count", zeros)),
        expert_feed_forward_length=max(keys.per_layer("expert_feed_forward_length", zeros)),
        shape=layer_shape(keys),
        parts=len(files),
    )


def _vocab_size(keys: ArchitectureFields, files: Sequence[GgufFile]) -> int:
    tokens = keys.fields.get("tokenizer.ggml.tokens")
    if isinstance(tokens, SkippedArray):
        return tokens.length
    tensors = (tensor for file in files for tensor in file.tensors if tensor.name == "token_embd.weight")
    rows = next((tensor.shape[-1] for tensor in tensors if tensor.shape), 0)
    return keys.number("vocab_size", rows)


def _quantisation(fields: Mapping[str, Value], files: Sequence[GgufFile]) -> str:
    """The file's own statement, such as ``Q4_K_M``; without one, the type that most bytes have."""
    stated = _file_types().get(_number(fields, "general.file_type", -1))
    if stated is not None:
        return stated
    sizes: Counter[str] = Counter()
    for file in files:
        for tensor in file.tensors:
            sizes[tensor.type_name] += tensor.size
    return sizes.most_common(1)[0][0]


@functools.cache
def _file_types() -> Mapping[int, str]:
    from gguf.constants import LlamaFileType  # imports numpy, which a keeper does not have

    kinds = (kind for kind in LlamaFileType if kind.name != "GUESSED")
    return {int(kind): kind.name.removeprefix("MOSTLY_").removeprefix("ALL_") for kind in kinds}


def _eos(fields: Mapping[str, Value]) -> int | None:
    number = _number(fields, "tokenizer.ggml.eos_token_id", -1)
    return number if number >= 0 else None


def _number(fields: Mapping[str, Value], key: str, default: int = 0) -> int:
    value = fields.get(key, default)
    return int(value) if isinstance(value, int) else default


def _text(value: Value | None) -> str:
    return value if isinstance(value, str) else ""


def _printable(value: Value | None) -> str:
    """Names come from strangers and are shown on terminals."""
    return "".join(character for character in _text(value) if character.isprintable())[:200]
