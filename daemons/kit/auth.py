"""Keys: files of one line with mode 0600 under ``keys/``; roles; constant-time comparison; fingerprints for logs."""

import hashlib
import hmac
import os
import re
import secrets
import shlex
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.routes import Role
from daemons.kit.logs import get_logger
from daemons.kit.paths import Paths, discard, unusable

ADMIN_KEY = "admin"
INFER_KEY = "infer"
HIVE_KEY = "hive"
KEY_BYTES = 32
_KEY = re.compile(rb"[!-~]+")
"""What a bearer key may consist of: visible ASCII."""

_LONGEST_FILE = 4096


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

    Raises RbeeError(KEY_FILE_INVALID) when it is missing, no file, readable by others, or holds anything but one line
    that an HTTP header can carry.
    """
    try:
        # What is no file is not waited for.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_LONGEST_FILE + 1) if stat.S_ISREG(mode) else b""
    except OSError as error:
        raise _invalid(path, f"cannot be read: {error.strerror}", f"ls -l {shlex.quote(str(path))}") from error
    if not stat.S_ISREG(mode):
        raise _invalid(path, "is no regular file")
    if mode & 0o077:
        others = f"has mode {stat.S_IMODE(mode):04o}; others may use it"
        raise _invalid(path, others, f"chmod 600 {shlex.quote(str(path))}")
    lines = text.splitlines()
    if len(lines) != 1 or len(text) > _LONGEST_FILE or not _KEY.fullmatch(lines[0].strip()):
        raise _invalid(path, f"has {len(text)} bytes in {len(lines)} lines; expected is one line with a key")
    return lines[0].strip().decode()


def _invalid(path: Path, problem: str, hint: str | None = None) -> RbeeError:
    """Without a better hint: the daemon makes a new key at its next start."""
    renewal = f"rm {shlex.quote(str(path))}; rbee {'hive' if path.stem == HIVE_KEY else 'queen'} start"
    return RbeeError(
        Code.KEY_FILE_INVALID, f"the key file {path} {problem}", details={"path": str(path)}, hint=hint or renewal
    )


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


class KeyFiles:
    """The keys of one daemon, read from its files; `reload` takes in new ones while the daemon runs."""

    def __init__(self, paths: Paths, roles: Mapping[str, Role]) -> None:
        """`roles`: name of the file (``admin``) -> what its key may do; a file that is missing is made.

        Raises RbeeError(KEY_FILE_INVALID) as `read_key` does.
        """
        self._paths = paths
        self._roles = roles
        self.keys: Mapping[str, Role] = self._checked({name: ensure_key(paths, name) for name in roles})

    def keyring(self, others: Mapping[str, Role] | None = None) -> Keyring:
        """The keys that count now, and `others`."""
        return Keyring({**self.keys, **(others or {})})

    def reload(self) -> None:
        """Read the files again. As long as one is not as it should be, all old keys stay, which is logged. Blocks."""
        try:
            self.keys = self._checked({name: read_key(key_path(self._paths, name)) for name in self._roles})
        except RbeeError as error:
            get_logger().warning("the keys stay as they were", code=error.code.value, why=error.message, run=error.hint)

    def _checked(self, keys: Mapping[str, str]) -> Mapping[str, Role]:
        """Raises RbeeError(KEY_FILE_INVALID) when two files hold the same key: which role would it have?"""
        by_key = {key: self._roles[name] for name, key in keys.items()}
        if len(by_key) < len(keys):
            raise _invalid(key_path(self._paths, list(keys)[-1]), "holds the same key as another one")
        get_logger().info("keys read", **{name: fingerprint(key) for name, key in keys.items()})
        return by_key


def may(role: Role, needed: Role) -> bool:
    """Whether `role` may use a route that needs `needed`: admin may all but the workers' own callback."""
    return role is needed or (role is Role.ADMIN and needed is Role.INFER)
