"""Keys: files, roles, fingerprints."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import Role
from daemons.kit.auth import Keyring, ensure_key, fingerprint, key_path, may, new_key, read_key
from daemons.kit.paths import Paths


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    paths = Paths(home=tmp_path, models=tmp_path, user_config=tmp_path)
    paths.create()
    return paths


def test_a_key_is_made_once_and_private(paths: Paths) -> None:
    key = ensure_key(paths, "admin")
    assert ensure_key(paths, "admin") == key
    assert key_path(paths, "admin").stat().st_mode & 0o777 == 0o600
    assert list(paths.keys.iterdir()) == [key_path(paths, "admin")]


def test_racing_starts_agree_on_one_key(paths: Paths) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = set(pool.map(lambda _: ensure_key(paths, "hive"), range(8)))
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("content", "mode", "problem"),
    [("", 0o600, "0 lines"), ("a\nb\n", 0o600, "2 lines"), ("  \n", 0o600, "1 lines"), ("key\n", 0o644, "0644")],
)
def test_bad_key_files_are_refused(paths: Paths, content: str, mode: int, problem: str) -> None:
    path = key_path(paths, "admin")
    path.write_text(content)
    path.chmod(mode)
    with pytest.raises(RbeeError, match=problem) as caught:
        read_key(path)
    assert caught.value.code is Code.KEY_FILE_INVALID


def test_roles() -> None:
    ring = Keyring({"a" * 20: Role.ADMIN, "b" * 20: Role.INFER})
    assert ring.role_of("a" * 20) is Role.ADMIN
    assert ring.role_of("b" * 20) is Role.INFER
    assert ring.role_of("c" * 20) is None
    assert ring.role_of("ä") is None


@pytest.mark.parametrize(
    ("role", "needed", "allowed"),
    [
        (Role.ADMIN, Role.INFER, True),
        (Role.ADMIN, Role.ADMIN, True),
        (Role.ADMIN, Role.WORKER, False),
        (Role.INFER, Role.ADMIN, False),
        (Role.WORKER, Role.INFER, False),
        (Role.WORKER, Role.WORKER, True),
    ],
)
def test_who_may(role: Role, needed: Role, allowed: bool) -> None:
    assert may(role, needed) is allowed


def test_fingerprints_are_short_and_differ() -> None:
    first, second = new_key(), new_key()
    assert len(fingerprint(first)) == 6
    assert fingerprint(first) != fingerprint(second)
    assert fingerprint(first) not in first
