"""Keys: files, roles, fingerprints."""

import hmac
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import Role
from daemons.kit.auth import KeyFiles, Keyring, ensure_key, fingerprint, key_path, may, new_key, read_key
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


def test_every_key_is_compared_and_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """`hmac.compare_digest` takes its time from the presented key alone; no key is left out once another fits."""
    compared: list[bytes] = []

    def counting(ours: bytes, theirs: bytes) -> bool:
        compared.append(ours)
        return hmac.compare_digest(ours, theirs)

    monkeypatch.setattr("daemons.kit.auth.hmac", SimpleNamespace(compare_digest=counting))
    keys = {new_key(): Role.ADMIN, new_key(): Role.INFER, new_key(): Role.WORKER}
    for presented in (*keys, "wrong"):
        compared.clear()
        assert Keyring(keys).role_of(presented) is keys.get(presented)
        assert compared == [key.encode() for key in keys]


@pytest.mark.parametrize("content", ["two words\n", "k\u00e9y\n", "\ufeffkey\n", "key\x00\n", "k" * 5000])
def test_what_no_header_can_carry_is_no_key(paths: Paths, content: str) -> None:
    path = key_path(paths, "admin")
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(RbeeError) as caught:
        read_key(path)
    assert caught.value.hint == f"rm {path}; rbee queen start"


def test_what_is_no_file_is_refused_at_once(paths: Paths) -> None:
    path = key_path(paths, "hive")
    os.mkfifo(path, 0o600)
    with pytest.raises(RbeeError, match="no regular file") as caught:
        read_key(path)
    assert caught.value.hint == f"rm {path}; rbee hive start"


ROLES = {"admin": Role.ADMIN, "infer": Role.INFER}


def test_new_keys_are_taken_in_all_or_none(paths: Paths) -> None:
    files = KeyFiles(paths, ROLES)
    old = files.keyring().roles
    for name in ROLES:
        key_path(paths, name).write_text(f"new-{name}\n")
    files.reload()
    assert files.keyring().roles == {"new-admin": Role.ADMIN, "new-infer": Role.INFER}
    assert not set(old) & set(files.keyring().roles)
    key_path(paths, "admin").write_text("newer\n")
    key_path(paths, "infer").write_text("")
    files.reload()
    assert set(files.keyring().roles) == {"new-admin", "new-infer"}
    key_path(paths, "infer").unlink()
    files.reload()
    assert set(files.keyring().roles) == {"new-admin", "new-infer"}


def test_one_key_cannot_have_two_roles(paths: Paths) -> None:
    KeyFiles(paths, ROLES)
    key_path(paths, "infer").write_text(read_key(key_path(paths, "admin")) + "\n")
    with pytest.raises(RbeeError, match=r"infer\.key holds the same key"):
        KeyFiles(paths, ROLES)
