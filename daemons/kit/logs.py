"""Logs: one JSON object per line, with the request id of the request being served; rotated by size; mode 0600.

A line has ``at`` (unix seconds), ``level``, ``source``, ``text``, and the fields of the event. JSON escapes control
characters, so that a foreign string cannot forge a line or drive a terminal.
"""

import atexit
import json
import logging
import logging.handlers
import math
import os
import queue
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import structlog

from daemons.contracts.fleet import LogLine
from daemons.kit.settings import LogSettings

REQUEST_ID_KEY = "request_id"
_AS_JSON = structlog.processors.JSONRenderer(ensure_ascii=False, default=str)
_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029]")
_OWN_KEYS = frozenset({"at", "level", "source", "text"})


class _PrivateRotatingFile(logging.handlers.RotatingFileHandler):
    """Rotating log file that only its owner may read. Lines that a full disk refuses are counted, and told of later."""

    _refused = 0

    def emit(self, record: logging.LogRecord) -> None:
        before = self._refused
        super().emit(record)
        if before and self._refused == before:
            self._refused = 0
            get_logger().warning("lines of this log were refused by the disk", lines=before)

    def handleError(self, record: logging.LogRecord) -> None:
        """A trace on stderr for each line would fill the same disk."""
        if isinstance(sys.exc_info()[1], OSError):
            self._refused += 1
        else:
            super().handleError(record)

    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        # Half a surrogate pair, as of a file name that is no UTF-8: what this writes is its escape in JSON, too.
        return os.fdopen(descriptor, self.mode, encoding=self.encoding, errors="backslashreplace")


class _HandOver(logging.handlers.QueueHandler):
    """Passes records to the writing thread as they are, so that no event loop waits for a disk."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


def _stamp(_logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    return {"at": round(time.time(), 3), "level": method, **event}


def _as_line(logger: object, method: str, event: structlog.typing.EventDict) -> str:
    """One line of JSON: other languages as they are, every control character escaped.

    JSON itself lets DEL and the C1 controls through, among them a one-byte CSI.
    """
    line = str(_AS_JSON(logger, method, event))
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", line)


def configure_logs(source: str, path: Path, settings: LogSettings) -> None:
    """Send this process's log (ours and the libraries' warnings) to a rotated file at `path`.

    A thread of its own writes; what is waiting is written before the process exits.
    """
    handler = _PrivateRotatingFile(
        path, maxBytes=settings.max_bytes, backupCount=settings.keep, encoding="utf-8", delay=True
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_stamp_foreign, structlog.processors.format_exc_info],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("text"),
                _as_line,
            ],
        )
    )
    root = logging.getLogger()
    lines: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    writer = logging.handlers.QueueListener(lines, handler)
    writer.start()
    atexit.register(writer.stop)
    root.handlers = [_HandOver(lines)]
    root.setLevel(settings.level.upper())
    for library in ("httpx", "httpcore", "uvicorn", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)  # httpx would tell of every request
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            lambda logger, method, event: {**_stamp(logger, method, event), "source": source},
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _stamp_foreign(_logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    record: logging.LogRecord = event["_record"]
    return {**_stamp(_logger, record.levelname.lower(), event), "source": record.name}


def get_logger(**fields: Any) -> structlog.stdlib.BoundLogger:
    """A logger whose lines carry `fields`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(**fields)
    return logger


def bind_request_id(request_id: str) -> Mapping[str, Any]:
    """Put the request id on every line that this task logs from now on; give the answer to `unbind`."""
    return structlog.contextvars.bind_contextvars(**{REQUEST_ID_KEY: request_id})


def log_start_line(**fields: Any) -> None:
    """First line of a daemon: its command line, which never holds a secret."""
    get_logger().info("started", command=sys.orig_argv, pid=os.getpid(), **fields)


def parse_log_line(line: str, node: str, source: str) -> LogLine:
    """One line of a log file; text that is not ours (llama.cpp's own output) is kept as it is."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict):
            raise ValueError("not an object")
        at = float(row.get("at", 0.0))
        if not math.isfinite(at):
            raise ValueError("no time")
    except (ValueError, TypeError, OverflowError):
        return LogLine(node=node, source=source, at=0.0, level="info", text=line.rstrip("\n"))
    return LogLine(
        node=node,
        source=source,
        at=at,
        level=str(row.get("level", "info")),
        text=str(row.get("text", "")),
        fields={key: value for key, value in row.items() if key not in _OWN_KEYS},
    )


def read_log(path: Path, node: str, source: str, *, since: float = 0.0, tail: int = 0) -> list[LogLine]:
    """Lines of a log file and its rotated predecessors, oldest first; the last `tail` of them (0: all)."""
    lines = [row for file in _rotated(path) for row in _parse(file, node, source) if not row.at or row.at >= since]
    return lines[-tail:] if tail else lines


def _rotated(path: Path) -> Iterable[Path]:
    older = sorted(path.parent.glob(f"{path.name}.*"), key=lambda p: p.suffix, reverse=True)
    return [file for file in [*older, path] if file.is_file()]


def _parse(file: Path, node: str, source: str) -> Iterator[LogLine]:
    with file.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            yield parse_log_line(line, node, source)
