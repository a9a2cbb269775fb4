"""An installation of its own for each test, and a fake queen that it is configured for."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from daemons.contracts.events import Narration
from rbee_tui.keeper.installation import Installation, open_installation
from tests.support.fake_queen import KEY, FakeQueen, running_queen

FAST = {
    "RBEE_POLICY_HTTP_FIRST_WAIT_S": "0.01",
    "RBEE_POLICY_HTTP_TRIES": "2",
    "RBEE_POLICY_BUSY_FIRST_WAIT_S": "0.01",
}
"""Waits that a test can afford; how long they are by default is the policy's own test."""

Install = Callable[..., Installation]


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """The environment of a person without any configuration."""
    return {"HOME": str(tmp_path / "u"), "RBEE_HOME": str(tmp_path / "h"), **FAST}


@pytest.fixture
def queen() -> Iterator[FakeQueen]:
    with running_queen(FakeQueen()) as queen:
        yield queen


@pytest.fixture
def installed(environ: dict[str, str], queen: FakeQueen) -> Installation:
    """An installation that is configured for the fake queen."""
    return open_installation(environ={**environ, "RBEE_QUEEN_URL": queen.url, "RBEE_QUEEN_KEY": KEY})


class Heard(list[Narration]):
    """A listener that keeps what it was told."""

    def __call__(self, narration: Narration) -> None:
        self.append(narration)

    @property
    def text(self) -> str:
        return "\n".join(f"[{row.actor}] {row.text}" for row in self)


@pytest.fixture
def heard() -> Heard:
    return Heard()
