"""Homes and fake worker programs for tests of the hive."""

from pathlib import Path

import pytest

from daemons.kit.paths import Paths
from tests.support.hive_harness import fake_worker_program, paths_under


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return paths_under(tmp_path)


@pytest.fixture
def fake_program(tmp_path: Path) -> Path:
    return fake_worker_program(tmp_path)
