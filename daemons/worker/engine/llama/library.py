"""llama.cpp's library itself: its log, its devices, its version."""

import ctypes
import logging
from collections import deque
from dataclasses import dataclass
from typing import Any

import llama_cpp.llama_cpp as llama
from llama_cpp._ggml import libggml as ggml

LOG = logging.getLogger("llama.cpp")

_LEVELS = {1: logging.DEBUG, 2: logging.DEBUG, 3: logging.WARNING, 4: logging.ERROR}
"""enum ggml_log_level of ggml.h -> ours; its INFO (2) is what we call debug. 5 continues the line before."""

_KINDS = {0: "cpu", 1: "gpu", 2: "igpu", 3: "accel"}
"""enum ggml_backend_dev_type of ggml-backend.h."""


@dataclass(frozen=True, slots=True)
class Device:
    """One ggml backend device; memory in bytes, as the device's own backend reports it."""

    name: str
    description: str
    kind: str
    registry: str
    memory_total: int
    memory_free: int


class LlamaLog:
    """Passes llama.cpp's log on to `logging`, whole lines at a time, and remembers the last complaints."""

    def __init__(self) -> None:
        self.complaints: deque[str] = deque(maxlen=16)
        self._line = ""
        self._level = logging.DEBUG
        self._callback = llama.llama_log_callback(self._take)

    def install(self) -> None:
        llama.llama_log_set(self._callback, ctypes.c_void_p(0))

    def first_complaint(self, default: str) -> str:
        """The first error line since `complaints` was cleared: it names the cause, later ones only what follows."""
        return self.complaints[0] if self.complaints else default

    def _take(self, level: int, text: bytes, _user_data: Any) -> None:
        if level != 5:
            self._level = _LEVELS.get(level, logging.DEBUG)
        self._line += text.decode("utf-8", "replace")
        *lines, self._line = self._line.split("\n")
        for line in filter(None, map(str.strip, lines)):
            if self._level >= logging.ERROR:
                self.complaints.append(line)
            LOG.log(self._level, "%s", line)


LLAMA_LOG = LlamaLog()


def prepare() -> None:
    """Route the log, then initialise ggml's backends. May be called more than once."""
    LLAMA_LOG.install()
    llama.llama_backend_init()


def system_info() -> str:
    """The CPU features and backends this build uses, in llama.cpp's words."""
    return str(llama.llama_print_system_info().decode("utf-8", "replace")).strip()


def version() -> str:
    """llama.cpp's own version."""
    return str(llama.llama_version().decode("utf-8", "replace"))


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(ggml, name)
    function.restype = result
    function.argtypes = list(arguments)
    return function


def device_pointer(name: str) -> int | None:
    """ggml's device of that name (`CUDA0`), or None."""
    by_name = _function("ggml_backend_dev_by_name", ctypes.c_void_p, ctypes.c_char_p)
    found: int | None = by_name(name.encode())
    return found


def devices() -> list[Device]:
    """Every device that llama.cpp can compute on, in its own order."""
    count = _function("ggml_backend_dev_count", ctypes.c_size_t)
    get = _function("ggml_backend_dev_get", ctypes.c_void_p, ctypes.c_size_t)
    return [_device(get(index)) for index in range(count())]


def _device(pointer: int) -> Device:
    name = _function("ggml_backend_dev_name", ctypes.c_char_p, ctypes.c_void_p)
    description = _function("ggml_backend_dev_description", ctypes.c_char_p, ctypes.c_void_p)
    kind = _function("ggml_backend_dev_type", ctypes.c_int, ctypes.c_void_p)
    registry_of = _function("ggml_backend_dev_backend_reg", ctypes.c_void_p, ctypes.c_void_p)
    registry_name = _function("ggml_backend_reg_name", ctypes.c_char_p, ctypes.c_void_p)
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    memory = _function("ggml_backend_dev_memory", None, ctypes.c_void_p, size_pointer, size_pointer)
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    memory(pointer, ctypes.byref(free), ctypes.byref(total))
    return Device(
        name=name(pointer).decode("utf-8", "replace"),
        description=description(pointer).decode("utf-8", "replace").strip(),
        kind=_KINDS.get(kind(pointer), "unknown"),
        registry=registry_name(registry_of(pointer)).decode("utf-8", "replace"),
        memory_total=total.value,
        memory_free=free.value,
    )
