"""How much memory a model needs, and how long a context fits: the one formula of queen and hive. Pure.

The terms are those of a llama.cpp context as the worker's engine makes it: a cache of 16-bit floats for each slot,
window-sized caches for sliding layers, flash attention, physical batch = batch, 64 rows of logits. Against what
llama.cpp (in llama-cpp-python 0.3.36) reserves on the CPU, which `llm-worker-rbee estimate` tells: the cache is exact,
compute buffers of dense models are 6 to 10 % above; layer shapes were measured with 26 models of 3 MB to 40 GB, dense,
expert, latent-attention, sliding-window, state-space and hybrid. Not in it: the program itself (Python and llama.cpp,
45 MB), the vocabulary (300 bytes for each text), and what a GPU driver takes for a process.
"""

from dataclasses import dataclass

from daemons.contracts.errors import Code, RbeeError
from daemons.models.headers import GgufHeader

LONGEST_CHOSEN_CONTEXT = 8192
"""Tokens per slot that a model gets unasked, if it was trained on so many."""

SHORTEST_CHOSEN_CONTEXT = 512
"""Tokens per slot below which a model is refused instead of made to forget at once."""

DEFAULT_BATCH = 512
OUTPUT_ROWS = 64
"""Tokens of one step whose logits the engine asks for at most, unless it has more slots."""

_CELL_STEP = 256
"""llama.cpp rounds the cells of a cache up to a multiple of this."""

_F32, _F16 = 4, 2


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes, by what they are for."""

    weights: int
    kv_cache: int
    compute: int

    @property
    def total(self) -> int:
        return self.weights + self.kv_cache + self.compute


@dataclass(frozen=True, slots=True)
class ContextChoice:
    """Tokens per slot, what they take, and a sentence where a person would ask why ("" otherwise)."""

    ctx: int
    reason: str
    estimate: MemoryEstimate


@dataclass(frozen=True, slots=True)
class MemoryRoom:
    """What is free on one device now. `device` is its name for people; `on_gpu` tells VRAM from RAM."""

    free_bytes: int
    device: str = "CPU"
    on_gpu: bool = False


def estimate_memory(
    header: GgufHeader, ctx_per_slot: int, slots: int, batch: int = DEFAULT_BATCH, kv_type_bytes: int = _F16
) -> MemoryEstimate:
    """Memory of a worker for `slots` sequences of `ctx_per_slot` tokens, decoding up to `batch` tokens in one step.

    Weights: all tensors, as they are in the file. Every figure grows, or stays, with each argument.
    """
    cells = _padded(ctx_per_slot)
    step = min(batch, cells * slots)
    sliding_cells = _sliding_cells(header, cells, step)
    return MemoryEstimate(
        weights=header.tensor_bytes,
        kv_cache=_kv_cache(header, cells * slots, sliding_cells * slots, slots, kv_type_bytes),
        compute=_compute(header, cells + sliding_cells, slots, step),
    )


def choose_context(
    header: GgufHeader, requested: int | None, slots: int, room: MemoryRoom, *, batch: int = DEFAULT_BATCH
) -> ContextChoice:
    """The context for a worker: `requested` tokens per slot, or (None or 0) the longest useful one that fits.

    A request is granted or refused, never changed. Raises RbeeError(RAM_INSUFFICIENT or VRAM_INSUFFICIENT).
    """
    if requested:
        estimate = estimate_memory(header, requested, slots, batch)
        if estimate.total > room.free_bytes:
            raise insufficient(header, requested, slots, room, batch=batch)
        return ContextChoice(requested, _beyond_training(header, requested), estimate)
    wanted = min(header.context_length or LONGEST_CHOSEN_CONTEXT, LONGEST_CHOSEN_CONTEXT)
    ctx = longest_context(header, wanted, slots, room.free_bytes, batch=batch)
    if not ctx:
        raise insufficient(header, min(wanted, SHORTEST_CHOSEN_CONTEXT), slots, room, batch=batch)
    estimate = estimate_memory(header, ctx, slots, batch)
    if ctx < wanted:
        at_most = estimate_memory(header, wanted, slots, batch).total
        reason = (
            f"{ctx:,} tokens per slot instead of {wanted:,}, which would need {readable(at_most)}"
            f" of {readable(room.free_bytes)} free on {room.device}"
        )
        return ContextChoice(ctx, reason, estimate)
    return ContextChoice(ctx, _shorter_than_trained(header, ctx), estimate)


def longest_context(header: GgufHeader, wanted: int, slots: int, free_bytes: int, *, batch: int = DEFAULT_BATCH) -> int:
    """`wanted` tokens per slot if they fit, else the largest multiple of 256 that does; 0: not even the shortest."""
    if estimate_memory(header, wanted, slots, batch).total <= free_bytes:
        return wanted
    low, high = 0, -(-wanted // _CELL_STEP) - 1  # in steps of 256; `low` fits or is 0, above `high` nothing fits
    while low < high:
        middle = (low + high + 1) // 2
        if estimate_memory(header, middle * _CELL_STEP, slots, batch).total <= free_bytes:
            low = middle
        else:
            high = middle - 1
    return low * _CELL_STEP if low * _CELL_STEP >= SHORTEST_CHOSEN_CONTEXT else 0


def insufficient(
    header: GgufHeader, ctx: int, slots: int, room: MemoryRoom, *, batch: int = DEFAULT_BATCH
) -> RbeeError:
    """RAM_INSUFFICIENT or VRAM_INSUFFICIENT for this context, with the numbers and what would help."""
    estimate = estimate_memory(header, ctx, slots, batch)
    fitting = longest_context(header, ctx, slots, room.free_bytes, batch=batch)
    one_slot = longest_context(header, ctx, 1, room.free_bytes, batch=batch) if slots > 1 else 0
    return RbeeError(
        Code.VRAM_INSUFFICIENT if room.on_gpu else Code.RAM_INSUFFICIENT,
        f"{room.device} has {readable(room.free_bytes)} free, and {slots} x {ctx:,} tokens need"
        f" {readable(estimate.total)} ({readable(estimate.weights)} weights, {readable(estimate.kv_cache)} KV cache,"
        f" {readable(estimate.compute)} compute buffers)",
        details={
            "needed_bytes": estimate.total,
            "available_bytes": room.free_bytes,
            "device": room.device,
            "weights_bytes": estimate.weights,
            "kv_cache_bytes": estimate.kv_cache,
            "compute_bytes": estimate.compute,
            "ctx": ctx,
            "slots": slots,
            "largest_ctx": fitting,
        },
        hint=_way_out(fitting, one_slot),
    )


def readable(size: int) -> str:
    """Bytes for people, such as ``4.1 GiB``."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(value) < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:,.0f} {unit}" if unit == "B" else f"{value:,.1f} {unit}"


def _way_out(fitting: int, one_slot: int) -> str:
    if fitting:
        return f"rbee infer --ctx {fitting} …, a smaller quantisation, or another device: rbee devices"
    if one_slot:
        return f"rbee infer --slots 1 --ctx {one_slot} …, a smaller quantisation, or another device: rbee devices"
    return "rbee devices shows what is free: take another device, or a smaller quantisation of the model"


def _kv_cache(header: GgufHeader, cells: int, sliding_cells: int, slots: int, kv_type_bytes: int) -> int:
    """Keys and values of each cached token: 2 x layers x KV heads x head length x cells, and recurrent states in f32.

    Source: `llama_kv_cache`, `llama_kv_cache_iswa` and `llama_memory_recurrent` of llama.cpp.
    """
    shape = header.shape
    tokens = shape.cache_values * cells + shape.sliding_cache_values * sliding_cells
    return tokens * kv_type_bytes + shape.state_values * shape.recurrent_layers * slots * _F32


def _compute(header: GgufHeader, mask_cells: int, slots: int, step: int) -> int:
    """Scratch memory of one step, in f32: the wider of "widest layer" and "logits", with the f16 attention masks.

    Besides: the rows of logits that stay readable after a step, and copies of the recurrent states.
    Source: `llama_context::sched_reserve` and `output_reserve`, and the sizes that they log.
    """
    shape = header.shape
    rows = min(step, max(slots, OUTPUT_ROWS))
    logits = rows * (header.vocab_size + 3 * header.embedding_length)
    masks = mask_cells * step * _F16 if shape.cache_values or shape.sliding_cache_values else 0
    kept = slots * (header.vocab_size + (2 * shape.state_values if shape.recurrent_layers else 0))
    return (max(logits, step * shape.step_values) + kept) * _F32 + masks


def _sliding_cells(header: GgufHeader, cells: int, step: int) -> int:
    """Cells of one slot in the caches of sliding layers: the window and the running batch."""
    if not header.shape.sliding_cache_values:
        return 0
    return _padded(min(cells, header.sliding_window + step))


def _padded(cells: int) -> int:
    return -(-cells // _CELL_STEP) * _CELL_STEP


def _beyond_training(header: GgufHeader, ctx: int) -> str:
    if header.context_length and ctx > header.context_length:
        return (
            f"{ctx:,} tokens per slot as asked, more than the {header.context_length:,} that the model was trained on"
        )
    return ""


def _shorter_than_trained(header: GgufHeader, ctx: int) -> str:
    if ctx < header.context_length:
        return f"{ctx:,} of the model's {header.context_length:,} tokens per slot; ask for more with --ctx"
    return ""
