"""The worker program: `llm-worker-rbee serve | devices | self-test | estimate`. Imports little until a command runs."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import click
from pydantic import BaseModel

import daemons
from daemons.contracts.errors import Code, RbeeError
from daemons.kit.entry import needing
from daemons.worker.runtime import EXTRA, importing_runtime

ReportT = TypeVar("ReportT", bound=BaseModel)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(daemons.__version__, prog_name="llm-worker-rbee")
def main() -> None:
    """One model, loaded in llama.cpp, behind HTTP. Hives start this program; people rarely do."""


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("labels", nargs=-1, type=click.UNPROCESSED)
def serve(labels: tuple[str, ...]) -> None:
    """Serve one model. Settings and key come as one line of JSON on stdin.

    LABELS (id, model, backend, device, address) are for whoever reads the list of processes; they set nothing.
    """
    del labels
    with needing(EXTRA, Code.WORKER_RUNTIME_MISSING):
        from daemons.kit.server import run_daemon
        from daemons.worker import serve as serving

    run_daemon(serving.main)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="one JSON object instead of lines for people")
def devices(as_json: bool) -> None:
    """List what llama.cpp can compute on here."""
    with _failures_told(as_json):
        with importing_runtime():
            from daemons.worker.checks import devices_lines, devices_report
        _print(devices_report(), devices_lines, as_json)


@main.command("self-test")
@click.option("--model", "model_path", type=click.Path(), default=None, help="GGUF file; default: the demo model")
@click.option("--json", "as_json", is_flag=True, help="one JSON object instead of lines for people")
def self_test(model_path: str | None, as_json: bool) -> None:
    """Load a model and decode a few tokens. Exits with 1 when that fails."""
    with _failures_told(as_json):
        with importing_runtime():
            from daemons.worker.checks import self_test_lines, self_test_report
        report = self_test_report(model_path)
        _print(report, self_test_lines, as_json)
        sys.exit(0 if report.ok else 1)


@main.command()
@click.option("--model", "model_path", type=click.Path(), required=True, help="GGUF file")
@click.option("--ctx", type=click.IntRange(1), default=4096, show_default=True, help="tokens per slot")
@click.option("--slots", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--batch", type=click.IntRange(1), default=512, show_default=True)
@click.option("--device", default="", help="llama.cpp's name of the device, e.g. CUDA0; empty: the CPU")
@click.option("--json", "as_json", is_flag=True, help="one JSON object instead of lines for people")
def estimate(model_path: str, ctx: int, slots: int, batch: int, device: str, as_json: bool) -> None:
    """Tell the memory that a model would take, without loading it.

    The figures are llama.cpp's own.
    """
    with _failures_told(as_json):
        with importing_runtime():
            from daemons.worker.checks import estimate_lines, estimate_report
        report = estimate_report(model_path, ctx=ctx, slots=slots, batch=batch, device=device)
        _print(report, estimate_lines, as_json)


def _print(report: ReportT, lines: Callable[[ReportT], list[str]], as_json: bool) -> None:
    click.echo(report.model_dump_json() if as_json else "\n".join(lines(report)))


@contextmanager
def _failures_told(as_json: bool) -> Iterator[None]:
    """Prints the error that prevented a report, and exits with 1."""
    try:
        yield
    except RbeeError as error:
        text = json.dumps({"error": error.as_dict()}) if as_json else f"{error.code.value}: {error.message}"
        click.echo(text, err=not as_json)
        sys.exit(1)


if __name__ == "__main__":
    main()
