"""Llama models with random weights, of a chosen size: for benchmarks and slow loads. Their text means nothing.

`python -m daemons.models.demo.synthetic --params 120M --type q8_0|f16 --out FILE [--vocabulary N] [--width N]
[--context N] [--seed S]`. Vocabulary and chat template are those of the shipped demo model, so that real text
tokenizes; filler words make the vocabulary as large as that of a real model, whose cost per token they bring with them.
Width is the other thing that costs: llama.cpp's CPU kernels for several tokens at once wait for memory at the start of
every row, so a model of narrow rows gains less from batching than the wide models that people run.

A run must last until its token limit, so only pieces of plain text can be generated: the first coordinate of the
residual stream is a positive constant (set by the embedding, touched by no layer), and the output rows of control, byte
and unknown tokens, EOS among them, point against it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter, TokenType
from gguf.quants import quantize
from numpy.typing import NDArray

from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.demo.export import VARIANTS, copy_metadata

SyntheticType = Literal["q8_0", "f16"]

_PIECES, _TYPES = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_HEAD_WIDTH = 64
_POOL_ROWS = 512
_CONSTANT = 4.0
_AGAINST = -50.0
_UNITS = {"K": 10**3, "M": 10**6, "B": 10**9}


@dataclass(frozen=True)
class SyntheticInfo:
    """What was written; `parameters` is the true count, which layers of whole size bring near the asked one."""

    path: Path
    parameters: int
    size_bytes: int
    layers: int
    width: int
    context: int


class Sides(NamedTuple):
    """Sizes of one network; all are multiples of 32."""

    width: int
    hidden: int
    heads: int
    kv_heads: int
    layers: int = 1


_SIDES = (
    (20_000_000, Sides(256, 704, 4, 2)),
    (60_000_000, Sides(512, 1408, 8, 4)),
    (400_000_000, Sides(768, 2048, 12, 4)),
    (1_500_000_000, Sides(1536, 4096, 24, 8)),
)
_LARGEST = Sides(2560, 6912, 40, 8)
WIDTHS = (*(sides.width for _, sides in _SIDES), _LARGEST.width)


class TensorPlan(NamedTuple):
    """One tensor to write: its standard deviation is `scale`, or all ones when `scale` is 0."""

    name: str
    rows: int
    columns: int
    scale: float


def sides_for(parameters: int, vocabulary: int, width: int = 0) -> Sides:
    """The given width (0: the usual one for this size), and as many whole layers as come nearest to `parameters`.

    Raises `ValueError` for a width that is not one of `WIDTHS`.
    """
    if width and width not in WIDTHS:
        raise ValueError(f"width {width} is not one of {', '.join(map(str, WIDTHS))}")
    fits = (sides for limit, sides in _SIDES if (sides.width == width if width else parameters < limit))
    sides = next(fits, _LARGEST)
    per_layer = sum(plan.rows * plan.columns for plan in _layer(sides, 0))
    layers = round((parameters - 2 * vocabulary * sides.width) / per_layer)
    return sides._replace(layers=max(1, layers))


def _layer(sides: Sides, index: int) -> Iterator[TensorPlan]:
    width, hidden, keys = sides.width, sides.hidden, sides.kv_heads * _HEAD_WIDTH
    usual, residual = width**-0.5, (2 * sides.layers) ** -0.5
    prefix = f"blk.{index}."
    yield TensorPlan(prefix + "attn_norm.weight", 1, width, 0.0)
    yield TensorPlan(prefix + "attn_q.weight", width, width, usual)
    yield TensorPlan(prefix + "attn_k.weight", keys, width, usual)
    yield TensorPlan(prefix + "attn_v.weight", keys, width, usual)
    yield TensorPlan(prefix + "attn_output.weight", width, width, usual * residual)
    yield TensorPlan(prefix + "ffn_norm.weight", 1, width, 0.0)
    yield TensorPlan(prefix + "ffn_gate.weight", hidden, width, usual)
    yield TensorPlan(prefix + "ffn_up.weight", hidden, width, usual)
    yield TensorPlan(prefix + "ffn_down.weight", width, hidden, hidden**-0.5 * residual)


def tensor_plans(sides: Sides, vocabulary: int) -> list[TensorPlan]:
    """Every tensor in file order; embedding and output head are not tied."""
    plans = [TensorPlan("token_embd.weight", vocabulary, sides.width, 1.0)]
    for index in range(sides.layers):
        plans += _layer(sides, index)
    plans += [
        TensorPlan("output_norm.weight", 1, sides.width, 0.0),
        TensorPlan("output.weight", vocabulary, sides.width, sides.width**-0.5),
    ]
    return plans


class RowPool:
    """Random rows, converted once per shape and drawn with repetition: a gigabyte of weights takes seconds."""

    def __init__(self, kind: GGMLQuantizationType, seed: int) -> None:
        self._kind = kind
        self._random = np.random.default_rng(seed)
        self._pools: dict[tuple[int, float, float], NDArray[Any]] = {}

    def convert(self, rows: NDArray[np.float32]) -> NDArray[Any]:
        """Rows in the file's number format: float16, or the bytes of quantised blocks."""
        if self._kind is GGMLQuantizationType.F16:
            return rows.astype(np.float16)
        converted: NDArray[Any] = quantize(rows, self._kind)
        return converted

    def draw(self, plan: TensorPlan, first: float) -> NDArray[Any]:
        """Rows for `plan`, with `first` as the first value of each."""
        key = (plan.columns, plan.scale, first)
        if key not in self._pools:
            rows = self._random.normal(0.0, plan.scale, (_POOL_ROWS, plan.columns)).astype(np.float32)
            rows[:, 0] = first
            self._pools[key] = self.convert(rows)
        return self._pools[key][self._random.integers(0, _POOL_ROWS, plan.rows)]


def _values(plan: TensorPlan, pool: RowPool, mute: NDArray[np.bool_]) -> NDArray[Any]:
    if plan.scale == 0.0:
        return np.ones(plan.columns, dtype=np.float32)
    if plan.name == "token_embd.weight":
        return pool.draw(plan, _CONSTANT)
    rows = pool.draw(plan, 0.0)
    if plan.name == "output.weight":
        against = np.zeros((1, plan.columns), dtype=np.float32)
        against[0, 0] = _AGAINST
        rows[mute] = pool.convert(against)
    elif plan.name.endswith(("attn_output.weight", "ffn_down.weight")):
        rows[0] = 0
    return rows


def _declare(writer: GGUFWriter, plan: TensorPlan, kind: GGMLQuantizationType) -> None:
    if plan.scale == 0.0:
        writer.add_tensor_info(plan.name, (plan.columns,), np.dtype(np.float32), plan.columns * 4)
    elif kind is GGMLQuantizationType.F16:
        shape = (plan.rows, plan.columns)
        writer.add_tensor_info(plan.name, shape, np.dtype(np.float16), plan.rows * plan.columns * 2)
    else:
        width = plan.columns // 32 * 34
        writer.add_tensor_info(plan.name, (plan.rows, width), np.dtype(np.uint8), plan.rows * width, kind)


def _replaced(sides: Sides, context: int, file_type: int) -> dict[str, Any]:
    return {
        "general.name": "rbee synthetic",
        "general.description": "Random weights for benchmarks and tests; its text means nothing.",
        "general.file_type": file_type,
        "llama.context_length": context,
        "llama.embedding_length": sides.width,
        "llama.block_count": sides.layers,
        "llama.feed_forward_length": sides.hidden,
        "llama.attention.head_count": sides.heads,
        "llama.attention.head_count_kv": sides.kv_heads,
        "llama.rope.dimension_count": _HEAD_WIDTH,
    }


def _vocabulary(reader: GGUFReader, size: int) -> dict[str, list[Any]]:
    """The demo model's pieces, scores and types, with unlikely words behind them up to `size` pieces."""
    columns: dict[str, list[Any]] = {
        name: reader.fields[name].contents() for name in (_PIECES, "tokenizer.ggml.scores", _TYPES)
    }
    pieces, scores, types = columns.values()
    more = range(len(pieces), size)
    pieces += [f" w{number}" for number in more]
    scores += [-1e6] * len(more)
    types += [int(TokenType.NORMAL)] * len(more)
    return columns


def write_synthetic(
    path: Path,
    *,
    parameters: int,
    type: SyntheticType = "q8_0",
    vocabulary: int = 0,
    width: int = 0,
    context: int = 8192,
    seed: int = 0,
) -> SyntheticInfo:
    """Write a random model of about `parameters` weights to `path`; the same arguments give the same bytes.

    `vocabulary`: pieces in all, at least the demo model's own. `width`: one of `WIDTHS`, 0 for the usual one. The
    residual and output layout make every logit finite and EOS impossible. Raises `OSError` when `path` cannot be
    written.
    """
    kind, file_type = VARIANTS[type]
    reader = GGUFReader(DEMO_MODEL_PATH)
    pieces = _vocabulary(reader, vocabulary)
    types = np.array(pieces[_TYPES])
    sides = sides_for(parameters, len(types), width)
    writer = GGUFWriter(path, "llama")
    replaced = _replaced(sides, context, int(file_type)) | {"llama.vocab_size": len(types)}
    copy_metadata(reader, writer, replaced | pieces)
    plans = tensor_plans(sides, len(types))
    for plan in plans:
        _declare(writer, plan, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pool, mute = RowPool(kind, seed), types != TokenType.NORMAL
    for plan in plans:
        writer.write_tensor_data(_values(plan, pool, mute))
    writer.close()
    true_count = sum(plan.rows * plan.columns for plan in plans)
    return SyntheticInfo(path, true_count, path.stat().st_size, sides.layers, sides.width, context)


def parse_count(text: str) -> int:
    """`120M` -> 120,000,000. Raises `ValueError` for anything else than a number with K, M, B or nothing behind it."""
    unit = _UNITS.get(text[-1:].upper(), 1)
    return int(float(text[:-1] if unit > 1 else text) * unit)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a llama model with random weights.")
    parser.add_argument("--params", type=parse_count, required=True, help="size, such as 120M or 1B")
    parser.add_argument("--type", choices=("q8_0", "f16"), default="q8_0")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--vocabulary", type=int, default=0, help="pieces; at least those of the demo model")
    parser.add_argument("--width", type=int, default=0, choices=WIDTHS, help="of a row; the usual one for this size")
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--seed", type=int, default=0)
    asked = vars(parser.parse_args())
    print(write_synthetic(asked.pop("out"), parameters=asked.pop("params"), **asked))


if __name__ == "__main__":
    main()
