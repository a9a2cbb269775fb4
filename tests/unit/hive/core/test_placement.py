"""Devices, contexts and threads are chosen as the design says, and refusals name the numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.telemetry import Device
from daemons.contracts.workers import Backend, SpawnRequest, WorkerState
from daemons.hive.core.placement import DRIVER_BYTES, Defaults, Placement, place, sentences
from daemons.hive.core.room import Room, rooms
from daemons.models.fit import estimate_memory
from tests.support.hive_rows import GIB, MIB, cpu, gpu, model, worker


def asked(**fields: object) -> SpawnRequest:
    return SpawnRequest.model_validate({"model_ref": "demo", **fields})


def place_on(*devices: Device, request: SpawnRequest | None = None, defaults: Defaults | None = None) -> Placement:
    return place(request or asked(), model(), rooms(devices, []), defaults or Defaults())


def refusal(*devices: Device, request: SpawnRequest | None = None, defaults: Defaults | None = None) -> RbeeError:
    with pytest.raises(RbeeError) as refused:
        place_on(*devices, request=request, defaults=defaults)
    return refused.value


def test_an_accelerator_comes_before_a_cpu_with_more_memory() -> None:
    assert place_on(cpu(free=12 * GIB), gpu(free=4 * GIB)).device.backend is Backend.CUDA


def test_of_several_accelerators_the_one_with_the_most_free_memory() -> None:
    assert place_on(gpu(0, free=4 * GIB), gpu(1, free=6 * GIB), gpu(2, free=5 * GIB)).device.index == 1


def test_the_cpu_takes_what_no_accelerator_can_hold() -> None:
    assert place_on(cpu(free=8 * GIB), gpu(free=DRIVER_BYTES + 60 * MIB)).device.backend is Backend.CPU


def test_a_longer_context_on_one_accelerator_counts_more_than_free_memory_on_another() -> None:
    # Both are GPUs; the emptier one is asked for with an index, so only the context decides between the rest.
    facts = model(context=8192)
    whole = estimate_memory(facts.header, 8192, 4).total + DRIVER_BYTES
    chosen = place(asked(), facts, rooms([gpu(0, free=whole - MIB), gpu(1, free=whole)], []), Defaults())
    assert (chosen.device.index, chosen.context.ctx) == (1, 8192)


def test_a_named_backend_is_kept() -> None:
    assert place_on(cpu(), gpu(), request=asked(backend="cpu")).device.backend is Backend.CPU


def test_a_named_backend_that_is_missing_is_refused_with_what_is_there() -> None:
    refused = refusal(cpu(), gpu(), request=asked(backend="metal"))
    assert refused.code is Code.BACKEND_UNAVAILABLE
    assert refused.details == {"backend": "metal", "available": ["cpu", "cuda"]}
    assert "cpu, cuda" in refused.message


def test_no_devices_at_all_is_a_missing_backend() -> None:
    assert refusal().code is Code.BACKEND_UNAVAILABLE


def test_a_device_number_out_of_range_is_refused_with_the_valid_ones() -> None:
    refused = refusal(cpu(), gpu(0), gpu(1), request=asked(backend="cuda", device=2))
    assert refused.code is Code.DEVICE_NOT_FOUND
    assert refused.details == {"device": 2, "valid": {"cuda": [0, 1]}}
    assert "cuda 0, 1" in refused.message


def test_a_device_number_alone_means_any_backend_that_has_it() -> None:
    assert place_on(cpu(), gpu(0), gpu(1), request=asked(device=1)).device.index == 1
    assert refusal(cpu(), request=asked(device=1)).details["valid"] == {"cpu": [0]}


def test_the_context_is_lowered_as_memory_demands_and_said() -> None:
    facts = model(context=8192)
    whole = estimate_memory(facts.header, 8192, 4).total
    placement = place(asked(), facts, rooms([cpu(free=whole - 1)], []), Defaults())
    assert 512 <= placement.context.ctx < 8192
    assert placement.estimate.total < whole
    said = " ".join(text for text, _ in sentences(placement, facts))
    assert "8,192" in said
    assert f"{placement.context.ctx:,}" in said


def test_an_asked_context_is_never_lowered() -> None:
    facts = model(context=8192)
    whole = estimate_memory(facts.header, 8192, 4).total
    with pytest.raises(RbeeError) as refused:
        place(asked(ctx=8192), facts, rooms([cpu(free=whole - 1)], []), Defaults())
    assert refused.value.code is Code.RAM_INSUFFICIENT
    assert refused.value.details["needed_bytes"] == whole
    assert refused.value.details["available_bytes"] == whole - 1
    assert "rbee infer --ctx" in refused.value.hint
    assert place(asked(ctx=8192), facts, rooms([cpu(free=whole)], []), Defaults()).context.ctx == 8192


def test_a_configured_context_is_cut_to_what_the_model_was_trained_with() -> None:
    assert place_on(cpu(), defaults=Defaults(ctx=4096)).context.ctx == 2048
    assert place_on(cpu(), defaults=Defaults(ctx=1024)).context.ctx == 1024


def test_too_little_memory_on_a_gpu_is_vram_less_the_drivers_share() -> None:
    refused = refusal(gpu(free=DRIVER_BYTES + 10 * MIB))
    assert refused.code is Code.VRAM_INSUFFICIENT
    assert refused.details["available_bytes"] == 10 * MIB
    assert refused.details["driver_bytes"] == DRIVER_BYTES


def test_two_loads_that_fit_alone_do_not_fit_together() -> None:
    facts = model(600 * MIB)
    device = cpu(free=GIB)
    first = place(asked(), facts, rooms([device], []), Defaults())
    loading = worker("w-0000000a", state=WorkerState.LOADING, memory_bytes=first.promised_bytes)
    with pytest.raises(RbeeError) as refused:
        place(asked(), facts, rooms([device], [loading]), Defaults())
    assert refused.value.code is Code.RAM_INSUFFICIENT
    assert refused.value.details["loading"] == ["w-0000000a"]
    assert refused.value.retry_after == 2.0
    assert "w-0000000a" in refused.value.message


def test_a_model_that_is_too_large_anyway_is_not_to_be_tried_again() -> None:
    loading = worker(state=WorkerState.LOADING, memory_bytes=10 * MIB)
    with pytest.raises(RbeeError) as refused:
        place(asked(), model(9 * GIB), rooms([cpu(free=8 * GIB)], [loading]), Defaults())
    assert refused.value.retry_after is None


@pytest.mark.parametrize(
    ("cores", "handed_out", "configured", "given"),
    [(1, 0, 0, 1), (2, 0, 0, 1), (2, 1, 0, 1), (8, 0, 0, 4), (8, 5, 0, 3), (8, 7, 0, 1), (8, 0, 6, 6), (8, 2, 6, 6)],
)
def test_threads(cores: int, handed_out: int, configured: int, given: int) -> None:
    held = [worker(f"w-{n:08x}") for n in range(handed_out)]
    placement = place(asked(), model(), rooms([cpu(cores=cores)], held), Defaults(threads=configured))
    assert placement.threads == given


@pytest.mark.parametrize(("cores", "handed_out", "configured"), [(2, 2, 0), (8, 8, 0), (8, 3, 6), (4, 0, 5)])
def test_no_cores_left(cores: int, handed_out: int, configured: int) -> None:
    held = [worker(f"w-{n:08x}") for n in range(handed_out)]
    with pytest.raises(RbeeError) as refused:
        place(asked(), model(), rooms([cpu(cores=cores)], held), Defaults(threads=configured))
    assert refused.value.code is Code.CORES_INSUFFICIENT
    assert refused.value.details["free"] == max(0, cores - handed_out)
    assert refused.value.details["needed"] == (configured or 1)


def test_missing_cores_are_told_rather_than_missing_memory_elsewhere() -> None:
    held = [worker(f"w-{n:08x}") for n in range(4)]
    with pytest.raises(RbeeError) as refused:
        place(asked(), model(), rooms([gpu(free=0), cpu()], held), Defaults())
    assert refused.value.code is Code.CORES_INSUFFICIENT


def test_slots_come_from_the_request_or_the_configuration() -> None:
    assert place_on(cpu(), request=asked(slots=2)).slots == 2
    assert place_on(cpu(), defaults=Defaults(slots=3)).slots == 3


@given(
    st.lists(st.tuples(st.sampled_from([Backend.CPU, Backend.CUDA]), st.integers(0, 4 * GIB)), min_size=1, max_size=5),
    st.integers(1 * MIB, 3 * GIB),
    st.one_of(st.none(), st.integers(64, 8192)),
    st.one_of(st.none(), st.integers(1, 8)),
)
def test_a_placement_always_fits_and_keeps_what_was_asked(
    devices: list[tuple[Backend, int]], weights: int, ctx: int | None, slots: int | None
) -> None:
    there: list[Room] = []
    for index, (backend, free) in enumerate(devices):
        device = cpu(free=free) if backend is Backend.CPU else gpu(index, free=free)
        there += rooms([device.model_copy(update={"index": index})], [])
    request = asked(ctx=ctx, slots=slots)
    try:
        placement = place(request, model(weights, context=8192), there, Defaults())
    except RbeeError as refused:
        assert refused.code in {Code.RAM_INSUFFICIENT, Code.VRAM_INSUFFICIENT}
        return
    assert placement.promised_bytes <= placement.device.memory_free
    assert ctx in (None, placement.context.ctx)
    assert slots in (None, placement.slots)
    assert placement.threads >= 1
