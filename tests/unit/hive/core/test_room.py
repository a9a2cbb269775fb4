"""What is promised to workers is not promised twice."""

from hypothesis import given
from hypothesis import strategies as st

from daemons.contracts.workers import Backend, WorkerState
from daemons.hive.core.room import rooms
from tests.support.hive_rows import GIB, cpu, gpu, worker


def test_nothing_is_taken_off_without_workers() -> None:
    (room,) = rooms([cpu(free=3 * GIB, cores=4)], [])
    assert (room.device.memory_free, room.device.threads_free, room.loading) == (3 * GIB, 4, ())


def test_a_load_in_flight_is_taken_off_what_is_measured_free() -> None:
    loading = worker("w-00000001", state=WorkerState.LOADING, memory_bytes=GIB)
    (room,) = rooms([cpu(free=3 * GIB)], [loading])
    assert room.device.memory_free == 2 * GIB
    assert (room.loading_bytes, room.loading) == (GIB, ("w-00000001",))


def test_a_loaded_worker_counts_against_the_total_of_the_cpu_only() -> None:
    loaded = worker(state=WorkerState.IDLE, memory_bytes=14 * GIB)
    (room,) = rooms([cpu(free=8 * GIB, total=16 * GIB)], [loaded])
    assert room.device.memory_free == 2 * GIB
    on_gpu = loaded.model_copy(update={"backend": Backend.CUDA})
    (room,) = rooms([gpu(free=8 * GIB)], [on_gpu])
    assert room.device.memory_free == 8 * GIB


def test_devices_of_other_numbers_and_backends_are_untouched() -> None:
    loading = worker(state=WorkerState.LOADING, backend=Backend.CUDA, device=1, memory_bytes=GIB)
    first, second, vulkan = rooms([gpu(0), gpu(1), gpu(1, backend=Backend.VULKAN)], [loading])
    assert first.device.memory_free == 8 * GIB
    assert second.device.memory_free == 7 * GIB
    assert vulkan.device.memory_free == 8 * GIB


def test_threads_of_gpu_workers_leave_the_cpu_too() -> None:
    (room,) = rooms([cpu(cores=4)], [worker(threads=2), worker("w-00000002", backend=Backend.CUDA, threads=1)])
    assert room.device.threads_free == 1


@given(
    st.lists(st.tuples(st.integers(0, 20 * GIB), st.integers(1, 4), st.sampled_from(list(WorkerState))), max_size=8),
    st.integers(0, 16 * GIB),
)
def test_figures_are_never_negative_nor_more_than_measured(held: list[tuple[int, int, WorkerState]], free: int) -> None:
    workers = [
        worker(f"w-{n:08x}", memory_bytes=size, threads=threads, state=state)
        for n, (size, threads, state) in enumerate(held)
    ]
    (room,) = rooms([cpu(free=free)], workers)
    assert 0 <= room.device.memory_free <= free
    assert 0 <= room.device.threads_free <= 4
    assert room.device.memory_free + sum(row.memory_bytes for row in workers) <= max(
        16 * GIB, sum(row.memory_bytes for row in workers)
    )
