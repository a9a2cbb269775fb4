"""The worker program's short commands: what llama.cpp can use here, whether it runs, what a model would take."""

from importlib.metadata import version as installed_version
from queue import Empty, SimpleQueue

from pydantic import BaseModel

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.workers import Backend, DeviceReport, DevicesReport, SelfTestReport
from daemons.models.demo import DEMO_MODEL_PATH
from daemons.worker.engine.engine import Engine
from daemons.worker.engine.llama import estimate, library
from daemons.worker.engine.llama.backend import LlamaBackend, LoadOptions
from daemons.worker.engine.request import (
    Event,
    Failed,
    Finished,
    GenerateRequest,
    Loaded,
    LoadFailed,
    SamplingParams,
    Token,
)

SELF_TEST_PROMPT = "How do I add a node?"
SELF_TEST_TOKENS = 16
SELF_TEST_CTX = 512
SELF_TEST_LIMIT_S = 120.0

_BACKENDS = {
    "cpu": Backend.CPU,
    "cuda": Backend.CUDA,
    "metal": Backend.METAL,
    "mtl": Backend.METAL,
    "vulkan": Backend.VULKAN,
    "rocm": Backend.ROCM,
    "hip": Backend.ROCM,
}
"""ggml's names of its backends, in lower case -> ours. Helpers such as BLAS or RPC are no places for a model."""


class EstimateReport(BaseModel):
    """Bytes that a model would take with a context, as llama.cpp counts them."""

    weights_bytes: int
    kv_bytes: int
    compute_bytes: int
    output_bytes: int
    total_bytes: int
    ctx: int
    slots: int
    batch: int


def devices_report() -> DevicesReport:
    """The devices that llama.cpp itself reports."""
    library.prepare()
    return DevicesReport(
        devices=[
            DeviceReport(
                name=device.name,
                description=device.description,
                backend=_BACKENDS[device.registry.lower()],
                memory_total=device.memory_total,
                memory_free=device.memory_free,
            )
            for device in library.devices()
            if device.registry.lower() in _BACKENDS
        ],
        version={
            "llama_cpp_python": installed_version("llama-cpp-python"),
            "llama_cpp": library.version(),
            "system_info": library.system_info(),
        },
    )


def devices_lines(report: DevicesReport) -> list[str]:
    return [
        f"{device.name}  {device.backend.value}  {device.description}  "
        f"{device.memory_free / 2**30:.1f} of {device.memory_total / 2**30:.1f} GiB free"
        for device in report.devices
    ]


def self_test_report(model_path: str | None = None) -> SelfTestReport:
    """Load the model on the CPU and decode through the engine, as a worker would."""
    events: SimpleQueue[list[Event]] = SimpleQueue()
    path = model_path or str(DEMO_MODEL_PATH)
    backend = LlamaBackend(LoadOptions(model_path=path, slots=1, ctx=SELF_TEST_CTX, threads=1))
    engine = Engine(backend, slots=1, batch=SELF_TEST_CTX, sink=events.put)
    engine.start()
    report = SelfTestReport(ok=False)
    try:
        _run_self_test(engine, backend, events, report)
    except RbeeError as error:
        report.error = error.message
    except Empty:
        report.error = f"nothing came for {SELF_TEST_LIMIT_S:g} s"
    finally:
        engine.stop()
        engine.join(SELF_TEST_LIMIT_S)
    report.system_info = library.system_info()
    return report


def _run_self_test(
    engine: Engine, backend: LlamaBackend, events: "SimpleQueue[list[Event]]", report: SelfTestReport
) -> None:
    """Fill in the report. Raises RbeeError for a failure, Empty for silence."""
    while True:
        for event in events.get(timeout=SELF_TEST_LIMIT_S):
            match event:
                case Loaded():
                    report.load_ms = round(event.load_ms, 3)
                    engine.submit(_self_test_request(backend))
                case Token():
                    report.text += event.text
                    report.tokens += 1
                case Finished():
                    report.tokens_per_second = round(event.timings.tokens_per_second, 3)
                    report.ok = report.tokens > 0
                    return
                case LoadFailed() | Failed():
                    raise RbeeError(event.code, event.message, details=event.details)
                case _:
                    pass


def _self_test_request(backend: LlamaBackend) -> GenerateRequest:
    tokens = backend.tokenize(SELF_TEST_PROMPT, add_special=True, parse_special=True)
    greedy = SamplingParams(temperature=0.0)
    return GenerateRequest(
        id="self-test", tokens=tuple(tokens), max_tokens=SELF_TEST_TOKENS, sampling=greedy, ignore_eos=True
    )


def self_test_lines(report: SelfTestReport) -> list[str]:
    if not report.ok:
        return [f"failed: {report.error}"]
    return [
        f"ok: {report.tokens} tokens, {report.tokens_per_second:.0f} tok/s, loaded in {report.load_ms:.0f} ms",
        report.system_info,
    ]


def estimate_report(model_path: str, *, ctx: int, slots: int, batch: int, device: str) -> EstimateReport:
    """Sizes of weights, KV cache and buffers. Raises RbeeError as loading would; CONFIG_INVALID for a small batch."""
    if batch < slots:
        raise RbeeError(
            Code.CONFIG_INVALID,
            f"a batch of {batch} tokens cannot serve {slots} slots",
            details={"batch": batch, "slots": slots},
        )
    options = LoadOptions(model_path=model_path, slots=slots, ctx=ctx, batch=batch, device=device)
    sizes = estimate.buffer_sizes(options, ctx)
    return EstimateReport(
        weights_bytes=sizes["weights"],
        kv_bytes=sizes.get("cache", 0),
        compute_bytes=sizes.get("compute", 0),
        output_bytes=sizes.get("output", 0),
        total_bytes=sum(sizes.values()),
        ctx=ctx,
        slots=slots,
        batch=batch,
    )


def estimate_lines(report: EstimateReport) -> list[str]:
    parts = {
        "weights": report.weights_bytes,
        "KV cache": report.kv_bytes,
        "compute buffers": report.compute_bytes,
        "output buffer": report.output_bytes,
        "total": report.total_bytes,
    }
    return [f"{name:16}{size / 2**20:10.1f} MiB" for name, size in parts.items()]
