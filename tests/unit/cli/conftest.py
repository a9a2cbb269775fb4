"""Whole commands run in this process, with an environment of their own and a fake queen."""

import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_tui.cli.main import run
from tests.support.fake_queen import KEY, FakeQueen, running_queen


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


Rbee = Callable[..., Finished]


class FakeTty(io.TextIOWrapper):
    """A stdin that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def environ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The environment of a person without any configuration; it is that of this process meanwhile."""
    for name in list(os.environ):
        if name.startswith("RBEE_"):
            monkeypatch.delenv(name)
    fresh = {
        "HOME": str(tmp_path / "u"),
        "RBEE_HOME": str(tmp_path / "h"),
        "RBEE_POLICY_HTTP_TRIES": "2",
        "RBEE_POLICY_HTTP_FIRST_WAIT_S": "0.01",
        "RBEE_POLICY_BUSY_FIRST_WAIT_S": "0.01",
    }
    for name, value in fresh.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    return fresh


@pytest.fixture
def queen(environ: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeQueen]:
    """A fake queen that the environment points to."""
    with running_queen(FakeQueen()) as queen:
        monkeypatch.setenv("RBEE_QUEEN_URL", queen.url)
        monkeypatch.setenv("RBEE_QUEEN_KEY", KEY)
        yield queen


@pytest.fixture
def rbee(environ: Mapping[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Rbee:
    """Runs one command line. `stdin` is what is piped into it; None: stdin is a terminal."""

    def command(*args: str, stdin: bytes | None = None) -> Finished:
        pipe = io.BytesIO(stdin or b"")
        stream = FakeTty(pipe, encoding="utf-8") if stdin is None else io.TextIOWrapper(pipe, encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", stream)
        capsys.readouterr()
        code = run(args)
        out, err = capsys.readouterr()
        return Finished(code, out, err)

    return command
