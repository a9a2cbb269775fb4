"""Ends of processes are told apart by what was going on, what the system says and what the log says."""

from dataclasses import replace

import pytest

from daemons.contracts.errors import Code
from daemons.contracts.workers import LAST_WORDS, ExitReason, SpawnRequest, WorkerState
from daemons.hive.core.exits import LAST_LINES, LOG_LINES, ProcessEnd, describe_end
from daemons.hive.core.worker import Step, WorkerRecord
from tests.support.hive_rows import worker

LOADING, IDLE, BUSY, FAILED = WorkerState.LOADING, WorkerState.IDLE, WorkerState.BUSY, WorkerState.FAILED


def record(*states: WorkerState, ending: ExitReason | None = None, progress: float = 0.4) -> WorkerRecord:
    history = tuple(Step(100.0 + number, state, "test") for number, state in enumerate(states))
    row = worker(state=states[-1], progress=progress, started_at=100.0)
    return WorkerRecord(row, SpawnRequest(model_ref="demo"), 400.0, 130.0, 130.0, history, ending=ending, answered=True)


def code_of(found: WorkerRecord, end: ProcessEnd) -> str | None:
    error = describe_end(found, end, 200.0).error
    return error["code"] if error else None


@pytest.mark.parametrize("returncode", [-9, 137])
def test_killed_while_loading_is_out_of_memory(returncode: int) -> None:
    assert code_of(record(LOADING), ProcessEnd(returncode, "killed by SIGKILL")) == Code.WORKER_OOM


@pytest.mark.parametrize(
    "line",
    [
        "ggml_backend_cuda_buffer_type_alloc_buffer: allocating 9 MiB on device 0: cudaMalloc failed: out of memory",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
        "ggml_aligned_malloc: insufficient memory (attempted to allocate 1152.00 MB)",
        "MemoryError",
    ],
)
def test_a_log_that_names_memory_is_out_of_memory(line: str) -> None:
    found = describe_end(record(LOADING), ProcessEnd(1, "exited with code 1", ("before", line, "after")), 200.0)
    assert found.reason is ExitReason.START_FAILED
    assert found.error is not None
    assert found.error["code"] == Code.WORKER_OOM
    assert found.error["details"]["needed_bytes"] == 100 * 2**20


def test_a_failed_start_has_the_last_lines_of_the_log() -> None:
    log = tuple(f"line {number}" for number in range(100))
    found = describe_end(record(LOADING), ProcessEnd(3, "exited with code 3", log), 200.0)
    assert found.reason is ExitReason.START_FAILED
    assert found.error is not None
    assert found.error["code"] == Code.WORKER_START_FAILED
    assert found.error["details"]["log"] == list(log[-LOG_LINES:])
    assert "exited with code 3" in found.error["message"]
    assert "line 99" in found.error["message"]
    assert "w-00000001" in found.error["hint"]


@pytest.mark.parametrize(
    ("told", "code"),
    [("MODEL_INVALID", Code.MODEL_INVALID), ("WORKER_OOM", Code.WORKER_OOM), ("INTERNAL", Code.WORKER_START_FAILED)],
)
def test_the_workers_own_report_counts_where_it_says_more(told: str, code: Code) -> None:
    line = f'{{"error": {{"code": "{told}", "message": "the reason", "details": {{"ctx": 64, "log": "theirs"}}}}}}'
    found = describe_end(record(LOADING), ProcessEnd(1, "exited with code 1", ("[1, 2]", "{}", line, "exit")), 200.0)
    assert found.error is not None
    assert found.error["code"] == code
    assert "the reason" in found.error["message"]
    assert isinstance(found.error["details"]["log"], list), "ours"
    assert found.error["details"].get("ctx") == (None if told == "INTERNAL" else 64)


@pytest.mark.parametrize("state", [IDLE, BUSY])
@pytest.mark.parametrize(
    ("returncode", "how"), [(-11, "killed by SIGSEGV"), (1, "exited with code 1"), (None, "ended")]
)
def test_death_while_serving_is_a_crash(state: WorkerState, returncode: int | None, how: str) -> None:
    found = describe_end(record(LOADING, state), ProcessEnd(returncode, how), 200.0)
    assert found.reason is ExitReason.CRASHED
    assert found.returncode == returncode
    assert found.error is not None
    assert found.error["code"] == Code.WORKER_CRASHED
    assert how in found.error["message"]


def test_a_worker_that_ends_well_by_itself_did_not_crash() -> None:
    found = describe_end(record(LOADING, IDLE, WorkerState.DRAINING), ProcessEnd(0, "exited with code 0"), 200.0)
    assert (found.reason, found.error) == (ExitReason.ENDED, None)


def test_one_that_ends_well_before_its_model_is_loaded_failed_to_start() -> None:
    assert code_of(record(LOADING), ProcessEnd(0, "exited with code 0")) == Code.WORKER_START_FAILED


@pytest.mark.parametrize("reason", [ExitReason.STOPPED, ExitReason.IDLE, ExitReason.HIVE_SHUTDOWN])
@pytest.mark.parametrize("returncode", [0, -15, -9, None])
def test_an_end_that_was_asked_for_is_no_failure(reason: ExitReason, returncode: int | None) -> None:
    found = describe_end(record(LOADING, IDLE, ending=reason), ProcessEnd(returncode, "ended"), 200.0)
    assert (found.reason, found.error) == (reason, None)


def test_a_load_that_took_too_long_tells_how_far_it_came() -> None:
    found = describe_end(record(LOADING, FAILED, ending=ExitReason.LOADING_TIMEOUT), ProcessEnd(-9, "killed"), 401.0)
    assert found.error is not None
    assert found.error["code"] == Code.LOADING_TIMEOUT
    assert found.error["details"]["progress"] == 0.4
    assert found.error["details"]["limit_s"] == 300.0
    assert "40%" in found.error["message"]


def test_a_worker_that_never_answered_is_told_as_such() -> None:
    mute = replace(record(LOADING, FAILED, ending=ExitReason.LOADING_TIMEOUT), answered=False)
    found = describe_end(mute, ProcessEnd(-9, "killed"), 131.0)
    assert found.error is not None
    assert "had not answered" in found.error["message"]
    assert found.error["details"]["limit_s"] == 30.0


@pytest.mark.parametrize(("misses", "words"), [(3, "missed 3 health checks"), (0, "said that it is broken")])
def test_an_unhealthy_worker_is_a_crash_with_its_reason(misses: int, words: str) -> None:
    sick = replace(record(LOADING, BUSY, WorkerState.UNHEALTHY, ending=ExitReason.UNHEALTHY), misses=misses)
    found = describe_end(sick, ProcessEnd(-9, "killed by SIGKILL"), 200.0)
    assert found.reason is ExitReason.UNHEALTHY
    assert found.error is not None
    assert found.error["code"] == Code.WORKER_CRASHED
    assert words in found.error["message"]


def test_the_exit_tells_who_and_when() -> None:
    found = describe_end(record(LOADING, IDLE), ProcessEnd(-6, "killed by SIGABRT"), 200.0)
    assert (found.id, found.pid, found.started_at, found.ended_at) == ("w-00000001", 4711, 100.0, 200.0)
    assert found.state is IDLE
    assert found.how == "killed by SIGABRT"


def test_memory_that_ran_out_while_serving_is_told_as_such() -> None:
    log = ("generating", "CUDA error: out of memory", "  current device: 0", "ggml-cuda.cu:85: CUDA error")
    found = describe_end(record(LOADING, BUSY), ProcessEnd(-6, "killed by SIGABRT", log), 200.0)
    assert (found.reason, found.error and found.error["code"]) == (ExitReason.CRASHED, Code.WORKER_OOM)
    assert found.error is not None
    assert "while it was busy: killed by SIGABRT" in found.error["message"]


def test_memory_that_an_earlier_request_lacked_is_no_reason_for_a_crash() -> None:
    log = ("failed to allocate a buffer", *(f"generated request {number}" for number in range(LAST_LINES)))
    assert code_of(record(LOADING, BUSY), ProcessEnd(-11, "killed by SIGSEGV", log)) == Code.WORKER_CRASHED


def test_what_an_adopted_worker_died_of_is_not_made_up() -> None:
    """No exit code: only its own last line tells that it ended in order."""
    died = describe_end(record(IDLE), ProcessEnd(None, "ended", ("INFO generating",)), 200.0)
    assert (died.reason, died.error and died.error["code"]) == (ExitReason.CRASHED, Code.WORKER_CRASHED)
    assert died.error is not None
    assert "how is not known" in died.error["message"]
    ended = describe_end(record(IDLE), ProcessEnd(None, "ended", (f"INFO {LAST_WORDS}",)), 200.0)
    assert (ended.reason, ended.error) == (ExitReason.ENDED, None)


def test_an_exit_code_goes_with_the_last_words() -> None:
    log = ('{"error": {"code": "ENGINE_FAILED", "message": "llama_decode gave -3"}}',)
    found = describe_end(record(LOADING, BUSY), ProcessEnd(1, "exited with code 1", log), 200.0)
    assert found.error is not None
    assert found.error["message"].endswith("exited with code 1; the last it said: llama_decode gave -3")


def test_a_limit_of_the_load_that_is_shorter_than_that_of_http_is_the_one_that_is_told() -> None:
    mute = replace(record(LOADING, FAILED, ending=ExitReason.LOADING_TIMEOUT), answered=False, load_deadline=103.0)
    found = describe_end(mute, ProcessEnd(-9, "killed"), 104.0)
    assert found.error is not None
    assert found.error["details"]["limit_s"] == 3.0
