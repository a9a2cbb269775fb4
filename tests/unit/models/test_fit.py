"""The memory formula and the choice of a context."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.contracts.errors import Code, RbeeError
from daemons.models.fit import (
    LONGEST_CHOSEN_CONTEXT,
    SHORTEST_CHOSEN_CONTEXT,
    ContextChoice,
    MemoryRoom,
    choose_context,
    estimate_memory,
    longest_context,
    readable,
)
from daemons.models.headers import GgufHeader
from tests.unit.models.gguf_files import header_of

MIB = 2**20
GIB = 2**30

HEADERS = [
    header_of(),
    header_of(cache_values=30_000, sliding_cache_values=50_000, sliding_window=1024, context_length=3000),
    header_of(cache_values=0, state_values=100_000, recurrent_layers=64, context_length=2**20),
    header_of(cache_values=8 * 2048, state_values=550_000, recurrent_layers=24),
]
headers = st.sampled_from(HEADERS)
contexts, slots_, batches = st.integers(1, 300_000), st.integers(1, 64), st.integers(1, 4096)


def test_terms_of_a_known_model() -> None:
    """Llama 3 8B, 4 x 8,192 tokens: 4 GiB of cache as llama.cpp reports, and 126 MiB of compute buffers, 6 % over."""
    estimate = estimate_memory(header_of(), 8192, 4, 512)
    assert estimate.kv_cache == 4 * GIB
    assert estimate.weights == header_of().tensor_bytes
    assert 126.0 <= estimate.compute / MIB <= 126.0 * 1.07
    assert estimate.total == estimate.weights + estimate.kv_cache + estimate.compute


def test_cache_follows_the_type_of_its_numbers() -> None:
    """Numbers of one byte halve the cache and nothing else."""
    half, whole = (estimate_memory(header_of(), 4096, 2, kv_type_bytes=size) for size in (1, 2))
    assert (2 * half.kv_cache, half.compute, half.weights) == (whole.kv_cache, whole.compute, whole.weights)


def test_cells_are_rounded_up() -> None:
    """llama.cpp makes the cache a multiple of 256 cells."""
    assert estimate_memory(header_of(), 250, 1).kv_cache == estimate_memory(header_of(), 256, 1).kv_cache


def test_sliding_layers_take_a_window_for_each_slot() -> None:
    """Gemma 3 4B, 4 x 8,192: 640 MiB whole; 696 MiB sliding, window and batch for each slot (`llama_kv_cache_iswa`)."""
    gemma = header_of(cache_values=5 * 2048, sliding_cache_values=29 * 2048, sliding_window=1024)
    assert estimate_memory(gemma, 8192, 4, 512).kv_cache == (640 + 696) * MIB
    assert estimate_memory(gemma, 256, 1, 512).kv_cache == 34 * 2048 * 256 * 2


def test_recurrent_layers_keep_a_state_for_each_slot() -> None:
    """Mamba 2.8B: 23.75 MiB for each slot, whatever the context."""
    mamba = header_of(cache_values=0, state_values=97_280, recurrent_layers=64)
    assert estimate_memory(mamba, 512, 1).kv_cache == 23.75 * MIB
    assert estimate_memory(mamba, 8192, 4).kv_cache == 95 * MIB


@given(headers, contexts, slots_, batches, st.data())
def test_more_of_anything_never_needs_less(
    header: GgufHeader, ctx: int, slots: int, batch: int, data: st.DataObject
) -> None:
    """Monotonic in context, slots and batch, term by term: a search over contexts relies on it."""
    base = dataclasses.astuple(estimate_memory(header, ctx, slots, batch))
    more = data.draw(st.integers(1, 5000))
    for larger in (
        estimate_memory(header, ctx + more, slots, batch),
        estimate_memory(header, ctx, slots + more, batch),
        estimate_memory(header, ctx, slots, batch + more),
    ):
        assert all(now <= then for now, then in zip(base, dataclasses.astuple(larger), strict=True))


@given(headers, slots_, st.integers(0, 200 * GIB))
def test_chosen_context_fits_and_none_longer_would(header: GgufHeader, slots: int, free: int) -> None:
    """The choice fits, and 256 tokens more would not, unless it is all that is wanted."""
    wanted = min(header.context_length, LONGEST_CHOSEN_CONTEXT)
    try:
        choice = choose_context(header, None, slots, MemoryRoom(free))
    except RbeeError as error:
        assert error.code is Code.RAM_INSUFFICIENT
        assert estimate_memory(header, min(wanted, SHORTEST_CHOSEN_CONTEXT), slots).total > free
        return
    assert choice.estimate == estimate_memory(header, choice.ctx, slots)
    assert choice.estimate.total <= free
    assert SHORTEST_CHOSEN_CONTEXT <= choice.ctx <= wanted
    if choice.ctx < wanted:
        assert estimate_memory(header, min(wanted, choice.ctx + 256), slots).total > free


@given(headers, st.integers(1, 200_000), slots_, st.integers(0, 200 * GIB))
def test_request_is_granted_or_refused_never_changed(header: GgufHeader, ctx: int, slots: int, free: int) -> None:
    """An explicit context stays as it is."""
    try:
        choice = choose_context(header, ctx, slots, MemoryRoom(free))
    except RbeeError as error:
        assert error.details["needed_bytes"] > free
    else:
        assert choice.ctx == ctx


def test_request_is_granted_to_the_last_byte() -> None:
    """What fits exactly fits; one byte less does not."""
    needed = estimate_memory(header_of(), 4096, 4).total
    assert choose_context(header_of(), 4096, 4, MemoryRoom(needed)).estimate.total == needed
    assert choose_context(header_of(context_length=4096), None, 4, MemoryRoom(needed)).ctx == 4096
    assert choose_context(header_of(context_length=4096), None, 4, MemoryRoom(needed - 1)).ctx == 3840
    assert refusal(4096, 4, MemoryRoom(needed - 1)).details["needed_bytes"] == needed


def test_plenty_of_memory_gives_the_usual_context() -> None:
    """8,192 tokens, and the sentence says how many the model could have."""
    choice = choose_context(header_of(), 0, 4, MemoryRoom(64 * GIB))
    assert choice.ctx == 8192
    assert choice.reason == "8,192 of the model's 131,072 tokens per slot; ask for more with --ctx"


def test_short_model_gets_its_own_context() -> None:
    """A model that was trained on 2,048 tokens, or on 100, gets just so many, and nothing needs saying."""
    for trained in (2048, 100):
        choice = choose_context(header_of(context_length=trained), None, 4, MemoryRoom(64 * GIB))
        assert (choice.ctx, choice.reason) == (trained, "")


def test_less_than_usual_is_said_with_the_numbers() -> None:
    """Shortened to what fits, with what was wanted, needed and free, and where."""
    choice = choose_context(header_of(), None, 4, MemoryRoom(10 * GIB, "NVIDIA H200", on_gpu=True))
    assert choice.ctx == 3840
    assert choice.reason == (
        "3,840 tokens per slot instead of 8,192, which would need 12.1 GiB of 10.0 GiB free on NVIDIA H200"
    )


def test_more_than_trained_is_said() -> None:
    """It is granted, because it was asked for, and it is said."""
    choice: ContextChoice = choose_context(header_of(context_length=2048), 4096, 1, MemoryRoom(64 * GIB))
    assert choice.ctx == 4096
    assert choice.reason == "4,096 tokens per slot as asked, more than the 2,048 that the model was trained on"


def refusal(requested: int | None, slots: int, room: MemoryRoom) -> RbeeError:
    with pytest.raises(RbeeError) as caught:
        choose_context(header_of(), requested, slots, room)
    return caught.value


@pytest.mark.parametrize(("on_gpu", "code"), [(False, Code.RAM_INSUFFICIENT), (True, Code.VRAM_INSUFFICIENT)])
def test_refusal_has_the_numbers(on_gpu: bool, code: Code) -> None:
    """Needed, available and device, in words and as numbers; status 507."""
    error = refusal(32_768, 4, MemoryRoom(12 * GIB, "GPU 1", on_gpu=on_gpu))
    assert (error.code, error.status) == (code, 507)
    assert error.message == (
        "GPU 1 has 12.0 GiB free, and 4 x 32,768 tokens need 24.1 GiB"
        " (7.9 GiB weights, 16.0 GiB KV cache, 158.0 MiB compute buffers)"
    )
    assert error.details["needed_bytes"] == estimate_memory(header_of(), 32_768, 4).total
    assert error.details["available_bytes"] == 12 * GIB
    assert error.details["device"] == "GPU 1"


def test_hints_name_a_context_that_fits() -> None:
    """With all slots where that fits, else with one slot; a smaller quantisation and other devices besides."""
    some = refusal(32_768, 4, MemoryRoom(12 * GIB))
    assert f"--ctx {some.details['largest_ctx']} " in some.hint
    assert choose_context(header_of(), some.details["largest_ctx"], 4, MemoryRoom(12 * GIB)).ctx >= 512
    few = refusal(32_768, 64, MemoryRoom(9 * GIB))
    assert "--slots 1 --ctx" in few.hint
    none = refusal(None, 4, MemoryRoom(4 * GIB))
    assert none.details["largest_ctx"] == 0
    for error in (some, few, none):
        assert "rbee devices" in error.hint
        assert "smaller quantisation" in error.hint


def test_longest_context_is_zero_where_nothing_useful_fits() -> None:
    """Less than 512 tokens per slot is no context to offer."""
    free = estimate_memory(header_of(), 256, 4).total
    assert longest_context(header_of(), 8192, 4, free) == 0


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1,023 B"), (1536, "1.5 KiB"), (5 * GIB, "5.0 GiB"), (2**60, "1,048,576.0 TiB")],
)
def test_readable_sizes(size: int, text: str) -> None:
    """Binary units with one decimal."""
    assert readable(size) == text
