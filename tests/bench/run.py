"""`make bench`: interleaved rounds, medians, ratios. Prints a table with the load average; claims come from here.

python -m tests.bench.run [--rounds 6] [--params 150M] [--tokens 96] [--only worker|relay|prefix|cancel …]
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
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from daemons.models.demo.synthetic import WIDTHS, parse_count, write_synthetic
from tests.bench import servers
from tests.bench.latency import cancel_to_free_slot_ms, prefix_ttft_ms
from tests.bench.load import Target

STREAMS = (1, 4, 8)
PROMPTS = [
    f"Story {number}: the bees of hive {number} went out to find " + "clover and thyme " * 8 for number in range(8)
]
REQUIRED = {
    "worker / llama-server, 1 stream": 0.95,
    "worker / llama-server, 4 streams": 0.95,
    "worker / llama-server, 8 streams": 0.95,
    "worker / packaged server, 8 streams": 1.8,
    "through the queen / worker, 8 streams": 0.92,
}


def load(target: Target, streams: int, tokens: int) -> tuple[float, float]:
    """One batch of streams: (tokens per second, median ms to the first token)."""
    job = json.dumps({"target": asdict(target), "streams": streams, "prompts": PROMPTS})
    argv = servers.pinned(servers.CLIENT_CORE, [sys.executable, "-m", "tests.bench.load"])
    done = subprocess.run(argv, input=job, capture_output=True, text=True, check=True, timeout=600)
    result: dict[str, Any] = json.loads(done.stdout)
    if min(result["events"]) < tokens * 0.8:
        raise RuntimeError(f"{target.url}: a stream had {min(result['events'])} events; its end: {result['tail']}")
    return streams * tokens / result["seconds"], statistics.median(result["ttft_ms"])


Rates = dict[tuple[str, int], list[float]]


def rounds(targets: dict[str, Target], streams: tuple[int, ...], count: int, tokens: int) -> tuple[Rates, Rates]:
    """Every target in turn, `count` times after one warm-up: (tokens per second, ms to the first token)."""
    rates: Rates = defaultdict(list)
    firsts: Rates = defaultdict(list)
    for number in range(count + 1):
        for width in streams:
            order = list(targets.items())
            for name, target in order if number % 2 else reversed(order):
                rate, first = load(target, width, tokens)
                if number:
                    rates[name, width].append(rate)
                    firsts[name, width].append(first)
        print(f"  round {number} of {count} done, load {os.getloadavg()[0]:.2f}", file=sys.stderr)
    return rates, firsts


def worker_against_peers(job: servers.Job, folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Ratios of the worker alone against llama-server (the better of its two cache layouts) and the packaged server."""
    with contextlib.ExitStack() as stack:
        targets = {
            "worker": stack.enter_context(servers.worker_alone(job, folder)),
            "llama-server": stack.enter_context(servers.llama_server(job, folder, unified=False)),
            "llama-server unified": stack.enter_context(servers.llama_server(job, folder, unified=True)),
        }
        rates, _ = rounds(targets, STREAMS, options.rounds, job.tokens)
        packaged = {"packaged": stack.enter_context(servers.packaged_server(job, folder))}
        slow, _ = rounds(packaged | {"worker": targets["worker"]}, (8,), max(2, options.rounds // 2), job.tokens)
    show(rates | {("packaged", 8): slow["packaged", 8]})
    for width in STREAMS:
        best = max(statistics.median(rates[name, width]) for name in ("llama-server", "llama-server unified"))
        plural = "s" if width > 1 else ""
        yield f"worker / llama-server, {width} stream{plural}", statistics.median(rates["worker", width]) / best
    medians = [statistics.median(slow[name, 8]) for name in ("worker", "packaged")]
    yield "worker / packaged server, 8 streams", medians[0] / medians[1]


def queen_between(job: servers.Job, _folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """What the relay costs: throughput at 8 streams, added time to the first token at 1."""
    with servers.fleet(job) as (through, direct):
        targets = {"worker": direct, "through the queen": through}
        rates, firsts = rounds(targets, (1, 8), options.rounds, job.tokens)
    show(rates)
    yield (
        "through the queen / worker, 8 streams",
        statistics.median(rates["through the queen", 8]) / statistics.median(rates["worker", 8]),
    )
    added = statistics.median(firsts["through the queen", 1]) - statistics.median(firsts["worker", 1])
    yield "added ms to first token, 1 stream (at most 8)", added


def shared_prefix(job: servers.Job, folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """Time to the first token with a 1,000-token prefix, first over second request."""
    with servers.worker_alone(job, folder) as target:
        pairs = [prefix_ttft_ms(target, number) for number in range(options.rounds)]
    yield "first / second request with a shared prefix (at least 5)", statistics.median(a / b for a, b in pairs)


def cancelling(job: servers.Job, folder: Path, options: argparse.Namespace) -> Iterator[tuple[str, float]]:
    """From closing the connection to the free slot."""
    with servers.worker_alone(job, folder) as target:
        rows = [cancel_to_free_slot_ms(target) for _ in range(options.rounds)]
    yield "ms from client gone to free slot", statistics.median(row[0] for row in rows)
    yield "ms of one decode step, at the same time", statistics.median(row[1] for row in rows)


PARTS: dict[str, Callable[[servers.Job, Path, argparse.Namespace], Iterator[tuple[str, float]]]] = {
    "worker": worker_against_peers,
    "relay": queen_between,
    "prefix": shared_prefix,
    "cancel": cancelling,
}


def show(rates: Rates) -> None:
    """Medians in tokens per second, one row per target and width."""
    print(f"\n{'':24}{'streams':>8}{'tok/s':>10}{'min':>10}{'max':>10}")
    for (name, width), values in sorted(rates.items()):
        print(f"{name:24}{width:8}{statistics.median(values):10.1f}{min(values):10.1f}{max(values):10.1f}")


def main() -> None:
    """Run the parts and print every ratio next to what is required of it; exit 1 when one is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--params", default="150M")
    parser.add_argument("--vocabulary", type=int, default=32_000, help="pieces, as a real model of this size has")
    parser.add_argument("--width", type=int, default=1536, choices=WIDTHS, help="of a row, as a 1.5 B model has")
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, too
    print(f"load average at start: {os.getloadavg()[0]:.2f}; {time.strftime('%Y-%m-%d %H:%M')}")
    missed = []
    with tempfile.TemporaryDirectory(prefix="rbee-bench-") as name:
        folder = Path(name)
        model = folder / "synthetic.gguf"
        info = write_synthetic(
            model,
            parameters=parse_count(options.params),
            vocabulary=options.vocabulary,
            width=options.width,
            seed=1,
        )
        print(
            f"model: {info.parameters / 1e6:.0f} M parameters, {info.size_bytes / 2**20:.0f} MiB, Q8_0, "
            f"random weights, {info.layers} layers of width {info.width}, {options.vocabulary} pieces"
        )
        for part in options.only:
            context = 4096 if part in {"prefix", "cancel"} else options.context
            for title, value in PARTS[part](servers.Job(model, context, options.tokens), folder, options):
                required = REQUIRED.get(title)
                print(f"{title:60}{value:8.2f}" + (f"   required {required:.2f}" if required else ""))
                if required and value < required:
                    missed.append(title)
    print(f"load average at end: {os.getloadavg()[0]:.2f}")
    if missed:
        sys.exit("missed: " + "; ".join(missed))


if __name__ == "__main__":
    main()
