"""Keys: files of one line with mode 0600 under ``keys/``; roles; constant-time comparison; fingerprints for logs."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import Role
from daemons.kit.paths import Paths, discard, unusable

ADMIN_KEY = "admin"
INFER_KEY = "infer"
HIVE_KEY = "hive"
KEY_BYTES = 32


def new_key(prefix: str = "rbee") -> str:
    """A fresh bearer key with 256 random bits."""
    return f"{prefix}-{secrets.token_urlsafe(KEY_BYTES)}"


def fingerprint(key: str) -> str:
    """Six hexadecimal digits of SHA-256: enough to tell keys apart in a log, not to guess one."""
    return hashlib.sha256(key.encode()).hexdigest()[:6]


def key_path(paths: Paths, name: str) -> Path:
    return paths.keys / f"{name}.key"


def ensure_key(paths: Paths, name: str) -> str:
    """The key called `name` (``admin``, ``infer``, ``hive``), made on first use.

    Two processes or threads that start at once agree: the file appears whole, and the first one wins.
    Raises RbeeError(KEY_FILE_INVALID) as `read_key` does, HOME_UNUSABLE when it cannot be written.
    """
    path = key_path(paths, name)
    if not path.exists():
        fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        try:
            _write_key(fresh, new_key())
            os.link(fresh, path)
        except FileExistsError:
            pass  # another process was first; its key counts
        except OSError as error:
            raise unusable(path, error) from error
        finally:
            discard(fresh)
    return read_key(path)


def _write_key(path: Path, key: str) -> None:
    """Make the file, and have it on the disk: after a power failure a name must not stand for an empty file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(key + "\n")
        file.flush()
        os.fsync(descriptor)


def read_key(path: Path) -> str:
    """The key in a file.

    Raises RbeeError(KEY_FILE_INVALID) when it is missing, empty, of several lines, or readable by others.
    """
    try:
        mode = path.stat().st_mode & 0o777
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise RbeeError(Code.KEY_FILE_INVALID, f"cannot read the key file {path}: {error.strerror}") from error
    if mode & 0o077:
        raise RbeeError(
            Code.KEY_FILE_INVALID,
            f"the key file {path} has mode {mode:04o}; others may read it",
            hint=f"chmod 600 {path}",
        )
    if len(lines) != 1 or not lines[0].strip():
        raise RbeeError(Code.KEY_FILE_INVALID, f"the key file {path} has {len(lines)} lines; expected exactly one key")
    return lines[0].strip()


@dataclass(frozen=True, slots=True)
class Keyring:
    """Which key has which role. Look-ups compare every key in constant time."""

    roles: Mapping[str, Role]

    def role_of(self, presented: str) -> Role | None:
        """Role of a presented key, or None. Takes the same time whichever key matches."""
        found: Role | None = None
        for key, role in self.roles.items():
            if hmac.compare_digest(key.encode(), presented.encode()):
                found = role
        return found


def may(role: Role, needed: Role) -> bool:
    """Whether `role` may use a route that needs `needed`: admin may all but the workers' own callback."""
    return role is needed or (role is Role.ADMIN and needed is Role.INFER)
