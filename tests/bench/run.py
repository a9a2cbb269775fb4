"""`make bench`: interleaved rounds, medians, ratios. Prints a table with the load average; claims come from here.

python -m tests.bench.run [--rounds 6] [--params 150M] [--tokens 96] [--only worker|relay|prefix|cancel|narrow …]
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from daemons.models.demo.synthetic import WIDTHS, parse_count, write_synthetic
from tests.bench import servers
from tests.bench.latency import cancel_to_free_slot_ms, prefix_ttft_ms
from tests.bench.load import Target
from tests.bench.required import missed, of_title

STREAMS = (1, 4, 8)
PROMPTS = [
    f"Story {number}: the bees of hive {number} went out to find " + "clover and thyme " * 8 for number in range(8)
]
NARROW_WIDTH, NARROW_PARAMS, NARROW_ROUNDS = 768, "120M", 2

Figure = tuple[str, float]
Rates = dict[tuple[str, int], list[float]]
"""(target, streams) -> one value per round."""


def load(target: Target, streams: int, tokens: int) -> tuple[float, float]:
    """One batch of streams: (tokens per second, median ms to the first token)."""
    job = json.dumps({"target": asdict(target), "streams": streams, "prompts": PROMPTS})
    argv = servers.pinned(servers.CLIENT_CORE, [sys.executable, "-m", "tests.bench.load"])
    done = subprocess.run(argv, input=job, capture_output=True, text=True, check=True, timeout=600)
    result: dict[str, Any] = json.loads(done.stdout)
    if min(result["events"]) < tokens * 0.8:
        raise RuntimeError(f"{target.url}: a stream had {min(result['events'])} events; its end: {result['tail']}")
    return streams * tokens / result["seconds"], statistics.median(result["ttft_ms"])


def rounds(targets: Mapping[str, tuple[Target, tuple[int, ...]]], count: int, tokens: int) -> tuple[Rates, Rates]:
    """Every target at each of its numbers of streams, all in turn, `count` times after one warm-up.

    Returns tokens per second, and ms to the first token.
    """
    rates: Rates = defaultdict(list)
    firsts: Rates = defaultdict(list)
    for number in range(count + 1):
        for width in STREAMS:
            order = [(name, target) for name, (target, widths) in targets.items() if width in widths]
            for name, target in order if number % 2 else reversed(order):
                rate, first = load(target, width, tokens)
                if number:
                    rates[name, width].append(rate)
                    firsts[name, width].append(first)
        print(f"  round {number} of {count} done, load {os.getloadavg()[0]:.2f}", file=sys.stderr)
    return rates, firsts


def peer_rates(job: servers.Job, folder: Path, streams: tuple[int, ...], count: int) -> Rates:
    """Tokens per second of the worker alone, of llama-server, and (at 8 streams) of the packaged server."""
    with contextlib.ExitStack() as stack:
        worker = stack.enter_context(servers.worker_alone(job, folder))
        split = stack.enter_context(servers.llama_server(job, folder, unified=False))
        unified = stack.enter_context(servers.llama_server(job, folder, unified=True))
        packaged = stack.enter_context(servers.packaged_server(job, folder))
        targets = {
            "worker": (worker, streams),
            "llama-server": (split, streams),
            "llama-server unified": (unified, streams),
            "packaged": (packaged, (8,)),
        }
        rates, _ = rounds(targets, count, job.tokens)
    show(rates)
    return rates


def of_llama_server(rates: Rates, width: int) -> float:
    """Tokens per second of the better of its two cache layouts."""
    return max(statistics.median(rates[name, width]) for name in ("llama-server", "llama-server unified"))


def against_packaged(rates: Rates, model: str = "") -> Iterator[Figure]:
    """What batching gains over one request at a time, here and in llama-server; `model` goes into the titles."""
    packaged = statistics.median(rates["packaged", 8])
    yield f"worker / packaged server, 8 streams{model}", statistics.median(rates["worker", 8]) / packaged
    yield f"llama-server / packaged server, 8 streams{model}", of_llama_server(rates, 8) / packaged


def worker_against_peers(job: servers.Job, folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Ratios of the worker alone against llama-server and the packaged server."""
    rates = peer_rates(job, folder, STREAMS, options.rounds)
    for width in STREAMS:
        title = f"worker / llama-server, {width} stream{'s' if width > 1 else ''}"
        yield title, statistics.median(rates["worker", width]) / of_llama_server(rates, width)
    yield from against_packaged(rates)


def on_a_narrow_model(job: servers.Job, folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """The gain over the packaged server on short rows, where llama.cpp's kernels gain less from batching."""
    model = folder / "narrow.gguf"
    write_model(model, NARROW_PARAMS, options.vocabulary, NARROW_WIDTH)
    print("short rows, to show what the gain from batching depends on; nothing is required of it")
    rates = peer_rates(replace(job, model=model), folder, (8,), min(NARROW_ROUNDS, options.rounds))
    yield from against_packaged(rates, f", width {NARROW_WIDTH}")


def queen_between(job: servers.Job, _folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """What keeper's client and queen cost beyond the worker alone, which plain sockets measure."""
    with servers.fleet(job) as (through, direct):
        targets = {"worker": (direct, (1, 8)), "keeper through the queen": (through, (1, 8))}
        rates, firsts = rounds(targets, options.rounds, job.tokens)
    show(rates)
    yield (
        "keeper through the queen / worker, 8 streams",
        statistics.median(rates["keeper through the queen", 8]) / statistics.median(rates["worker", 8]),
    )
    alone, through_ms = (statistics.median(firsts[name, 1]) for name in targets)
    yield "ms to the first token, 1 stream, worker alone", alone
    yield "ms to the first token, 1 stream, keeper through the queen", through_ms
    yield "ms added to the first token, 1 stream", through_ms - alone


def shared_prefix(job: servers.Job, folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """Time to the first token with a 1,000-token prefix, first over second request."""
    with servers.worker_alone(job, folder) as target:
        pairs = [prefix_ttft_ms(target, number) for number in range(options.rounds)]
    yield "first / second request with a shared prefix, ms to first token", statistics.median(a / b for a, b in pairs)


def cancelling(job: servers.Job, folder: Path, options: argparse.Namespace) -> Iterator[Figure]:
    """From closing the connection to the free slot."""
    with servers.worker_alone(job, folder) as target:
        rows = [cancel_to_free_slot_ms(target) for _ in range(options.rounds)]
    yield "ms from client gone to free slot", statistics.median(freed for freed, _ in rows)
    yield "ms of one decode step, at the same time", statistics.median(step for _, step in rows)
    beyond = statistics.median(freed - step for freed, step in rows)
    yield "ms from client gone to free slot, beyond one decode step", beyond


PARTS: dict[str, Callable[[servers.Job, Path, argparse.Namespace], Iterator[Figure]]] = {
    "worker": worker_against_peers,
    "relay": queen_between,
    "prefix": shared_prefix,
    "cancel": cancelling,
    "narrow": on_a_narrow_model,
}


def show(rates: Rates) -> None:
    """Medians in tokens per second, one row per target and width."""
    print(f"\n{'':24}{'streams':>8}{'tok/s':>10}{'min':>10}{'max':>10}")
    for (name, width), values in sorted(rates.items()):
        print(f"{name:24}{width:8}{statistics.median(values):10.1f}{min(values):10.1f}{max(values):10.1f}")


def write_model(path: Path, parameters: str, vocabulary: int, width: int) -> None:
    """Make the model and print its shape, which the ratios depend on."""
    info = write_synthetic(path, parameters=parse_count(parameters), vocabulary=vocabulary, width=width, seed=1)
    print(
        f"model: {info.parameters / 1e6:.0f} M parameters, {info.size_bytes / 2**20:.0f} MiB, Q8_0, "
        f"random weights, {info.layers} layers of width {info.width}, {vocabulary} pieces"
    )


def measure(part: str, job: servers.Job, folder: Path, options: argparse.Namespace) -> list[str]:
    """Run a part and print its figures; what was missed."""
    figures: dict[str, float] = {}
    for title, value in PARTS[part](job, folder, options):
        figures[title] = value
        print(f"{title:64}{value:8.2f}   {of_title(title) or ''}".rstrip())
    return missed(part, figures)


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--params", default="150M")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="pieces, as a real model of this size has")
    parser.add_argument("--width", type=int, default=1536, choices=WIDTHS, help="of a row, as a 1.5 B model has")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    return parser.parse_args()


def main() -> None:
    """Run the parts and print every figure next to what is required of it; exit 1 when one is missed."""
    options = parsed_options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, too
    print(f"load average at start: {os.getloadavg()[0]:.2f}; {time.strftime('%Y-%m-%d %H:%M')}")
    failed: list[str] = []
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as name:
        folder = Path(name)
        model = folder / "synthetic.gguf"
        write_model(model, options.params, options.vocabulary, options.width)
        for part in options.only:
            context = 4096 if part in {"prefix", "cancel"} else options.context
            failed += measure(part, servers.Job(model, context, options.tokens), folder, options)
    print(f"load average at end: {os.getloadavg()[0]:.2f}")
    if failed:
        sys.exit("missed:\n  " + "\n  ".join(failed))


if __name__ == "__main__":
    main()
