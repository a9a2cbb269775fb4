"""What a model would take in memory, from llama.cpp itself: a context in which nothing is allocated tells its sizes."""

import logging
import re
from pathlib import Path

import llama_cpp.llama_cpp as llama

from daemons.contracts.errors import Code, RbeeError
from daemons.worker.engine.llama.backend import (
    LoadOptions,
    context_parameters,
    device_list,
    load_error,
    model_parameters,
)
from daemons.worker.engine.llama.library import LOG, prepare

# llama.cpp tells these in its log only: "CUDA0 compute buffer size = 26.01 MiB", and "llama_kv_cache: size = 96.00 MiB
# (8192 cells, …" for each of its caches, recurrent ones included. (Its other sizes are 0 when nothing is allocated.)
_BUFFER = re.compile(r"(compute|output) buffer size\s*=\s*([\d.]+) MiB")
_CACHE = re.compile(r"(): size =\s*([\d.]+) MiB \(")
_MIB = 2**20


class BufferSizes(logging.Handler):
    """Collects the sizes, in bytes, that pass by in llama.cpp's log, by kind."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: dict[str, int] = {}

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        found = _BUFFER.search(text) or _CACHE.search(text)
        if found:
            kind = found.group(1) or "cache"
            self.bytes[kind] = self.bytes.get(kind, 0) + round(float(found.group(2)) * _MIB)


def buffer_sizes(options: LoadOptions, ctx: int) -> dict[str, int]:
    """Bytes by kind: `weights`, `cache` (KV and recurrent), `compute`, `output`. Needs the file, loads no tensor.

    Raises RbeeError: MODEL_NOT_FOUND, MODEL_INVALID, DEVICE_NOT_FOUND.
    """
    path = Path(options.model_path)
    if not path.is_file():
        raise RbeeError(Code.MODEL_NOT_FOUND, f"no model file at {path}", details={"path": str(path)})
    prepare()
    sizes, level = BufferSizes(), LOG.level
    LOG.addHandler(sizes)
    LOG.setLevel(logging.DEBUG)
    try:
        sizes.bytes["weights"] = _make_nothing(options, ctx)
    finally:
        LOG.removeHandler(sizes)
        LOG.setLevel(level)
    return sizes.bytes


def _make_nothing(options: LoadOptions, ctx: int) -> int:
    """Model and context without memory behind them; returns the bytes of the model's tensors."""
    devices = device_list(options.device)
    parameters = model_parameters(options, devices)
    parameters.no_alloc = True
    parameters.load_mode = llama.LLAMA_LOAD_MODE_NONE
    model = llama.llama_model_load_from_file(options.model_path.encode(), parameters)
    if not model:
        raise load_error(f"llama.cpp cannot read {Path(options.model_path).name}", {"path": options.model_path})
    try:
        context = llama.llama_init_from_model(model, context_parameters(options, ctx, every_output=False))
        if not context:
            raise load_error(f"llama.cpp cannot plan a context of {ctx} tokens", {"ctx": ctx})
        llama.llama_free(context)
        return int(llama.llama_model_size(model))
    finally:
        llama.llama_model_free(model)
