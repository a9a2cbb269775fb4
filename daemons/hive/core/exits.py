"""What the end of a worker process means."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.workers import LAST_WORDS, ExitReason, WorkerExit, WorkerState
from daemons.hive.core.worker import LIVE, WorkerRecord
from daemons.lifecycle.plan import start_error_in

LOG_LINES = 40
"""Last lines of a worker's log that go into the error of a failed start."""

LAST_LINES = 8
"""So many of them tell what a worker died of that had been serving; what stands above is of earlier requests."""

_LONGEST_LINE = 300
_TELLING_CODES = frozenset(
    {Code.MODEL_INVALID, Code.WORKER_OOM, Code.WORKER_RUNTIME_BROKEN, Code.WORKER_RUNTIME_MISSING}
)
"""What a worker may say of its own failed start that is more telling than that it failed."""

_KILLED = frozenset({-9, 137})
_BY_WHOM: Mapping[int | None, str] = {
    **dict.fromkeys(_KILLED, ", by a person or by the system for lack of memory"),
    None: ", and how is not known: an earlier hive had started it",
}
# How llama.cpp, ggml's backends, CUDA and Python say that memory ran out.
_OUT_OF_MEMORY = re.compile(
    r"out of memory|insufficient memory|failed to allocate|unable to allocate|cannot allocate memory|bad_alloc|"
    r"MemoryError|ErrorOutOfDeviceMemory",
    re.IGNORECASE,
)
_OWN_ENDS = frozenset({ExitReason.STOPPED, ExitReason.IDLE, ExitReason.HIVE_SHUTDOWN})


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """What the system told of an ended process.

    `returncode` is negative for a signal and None when the process was not our child. `how` is for people; `log` its
    last lines, oldest first.
    """

    returncode: int | None
    how: str
    log: tuple[str, ...] = ()


def describe_end(record: WorkerRecord, end: ProcessEnd, at: float) -> WorkerExit:
    """The exit as it is recorded and told: with an error where nobody had asked for the end, or it was a failure."""
    reason, error = _judge(record, end)
    return WorkerExit(
        id=record.id,
        model_ref=record.row.model_ref,
        pid=record.row.pid,
        state=record.state,
        reason=reason,
        how=end.how,
        returncode=end.returncode,
        started_at=record.row.started_at,
        ended_at=at,
        error=error.as_dict() if error else None,
    )


def _judge(record: WorkerRecord, end: ProcessEnd) -> tuple[ExitReason, RbeeError | None]:
    if record.ending in _OWN_ENDS:
        return record.ending, None
    if record.ending is ExitReason.LOADING_TIMEOUT:
        return ExitReason.LOADING_TIMEOUT, _loading_timeout(record, end)
    if record.ending is ExitReason.UNHEALTHY:
        return ExitReason.UNHEALTHY, _failure(Code.WORKER_CRASHED, record, end, _unhealthy_sentence(record))
    if _was_loading(record):
        return ExitReason.START_FAILED, _failed_start(record, end)
    if end.returncode == 0 or (end.returncode is None and any(LAST_WORDS in line for line in end.log)):
        return ExitReason.ENDED, None
    return ExitReason.CRASHED, _crash(record, end)


def counts_as_crash(record: WorkerRecord, exit_: WorkerExit) -> bool:
    """Whether a worker that had been serving is gone although nobody wanted that."""
    unwanted = exit_.reason in (ExitReason.CRASHED, ExitReason.UNHEALTHY)
    asked_to_end = bool(record.stop_waiters) or record.drained_by is not None
    return unwanted and not asked_to_end and not _was_loading(record)


def _was_loading(record: WorkerRecord) -> bool:
    """Whether it never got its model loaded; a worker may report itself failed or draining before it ends."""
    last_live = [step.state for step in record.history if step.state in LIVE]
    return not last_live or last_live[-1] is WorkerState.LOADING


def _failed_start(record: WorkerRecord, end: ProcessEnd) -> RbeeError:
    row = record.row
    told = start_error_in(end.log)
    if told is not None and told.code in _TELLING_CODES:
        return _failure(
            told.code, record, end, f"worker {row.id} cannot load {row.model_ref}: {told.message}", told.details
        )
    if end.returncode in _KILLED or any(_OUT_OF_MEMORY.search(line) for line in end.log):
        sentence = (
            f"worker {row.id} ran out of memory while it loaded {row.model_ref} ({end.how}); the estimate was"
            f" {row.memory_bytes:,} bytes on {row.backend.value} device {row.device}"
        )
        return _failure(Code.WORKER_OOM, record, end, sentence, {"needed_bytes": row.memory_bytes})
    sentence = f"worker {row.id} ended while it loaded {row.model_ref}: {end.how}; the last it said: {_said(end)}"
    return _failure(Code.WORKER_START_FAILED, record, end, sentence)


def _said(end: ProcessEnd) -> str:
    """What the process itself told of its end, else its last line."""
    told = start_error_in(end.log)
    last_line = next((line for line in reversed(end.log) if line.strip()), "nothing")
    return told.message if told is not None else last_line[:_LONGEST_LINE]


def _crash(record: WorkerRecord, end: ProcessEnd) -> RbeeError:
    """Death of a worker that had its model loaded."""
    row = record.row
    sentence = f"worker {row.id} (pid {row.pid}, {row.model_ref}) died while it was {record.state.value}: {end.how}"
    if any(_OUT_OF_MEMORY.search(line) for line in end.log[-LAST_LINES:]):
        sentence += f"; it ran out of memory on {row.backend.value} device {row.device}, and last said: {_said(end)}"
        return _failure(Code.WORKER_OOM, record, end, sentence, {"needed_bytes": row.memory_bytes})
    said = f"; the last it said: {_said(end)}" if (end.returncode or 0) > 0 else _BY_WHOM.get(end.returncode, "")
    return _failure(Code.WORKER_CRASHED, record, end, sentence + said)


def _loading_timeout(record: WorkerRecord, end: ProcessEnd) -> RbeeError:
    row = record.row
    deadline = record.load_deadline if record.answered else min(record.http_deadline, record.load_deadline)
    limit_s = deadline - row.started_at
    what = f"had loaded {row.progress:.0%} of {row.model_ref}" if record.answered else "had not answered over HTTP"
    sentence = f"worker {row.id} {what} after {limit_s:.0f} s, its limit; it was ended ({end.how})"
    figures = {"progress": row.progress, "limit_s": round(limit_s, 3)}
    return _failure(Code.LOADING_TIMEOUT, record, end, sentence, figures)


def _unhealthy_sentence(record: WorkerRecord) -> str:
    what = f"missed {record.misses} health checks in a row" if record.misses else "said that it is broken"
    if record.drained_by is not None:
        what = "drained by itself and did not end in time"
    return f"worker {record.id} (pid {record.row.pid}) {what} and was ended"


def _failure(
    code: Code, record: WorkerRecord, end: ProcessEnd, sentence: str, figures: Mapping[str, Any] | None = None
) -> RbeeError:
    return RbeeError(
        code,
        sentence,
        details={
            **(figures or {}),
            "worker": record.id,
            "model": record.row.model_ref,
            "returncode": end.returncode,
            "how": end.how,
            "log": list(end.log[-LOG_LINES:]),
        },
        hint=f"rbee logs --worker {record.id} --tail {LOG_LINES}",
    )
