"""Model references: the text a person writes to name a model, parsed and checked. Imports nothing but the error table.

demo                              an alias: the tiny model that ships with rbee
file:///abs/path/model.gguf       a file on the node, absolute, taken literally (no percent-decoding)
hf:org/repo[:QUANT]               a repository of the Hugging Face hub, by default its best fitting file
hf:org/repo/path/file.gguf        one file of such a repository
"""

import hashlib
import re
from dataclasses import dataclass
from enum import StrEnum

from daemons.contracts.errors import Code, RbeeError

DEMO_ALIAS = "demo"
ALIASES = frozenset({DEMO_ALIAS})
"""Names that stand for a model by themselves."""

ACCEPTED_FORMS = (
    DEMO_ALIAS,
    "file:///abs/path/model.gguf",
    "hf:org/repo[:QUANT]",
    "hf:org/repo/path/file.gguf",
)

MAX_LENGTH = 512
"""Characters of a reference; the wire types hold the same limit."""

_SHOWN_LENGTH = 80
_FILE_PREFIX = "file://"
_PLAIN_PATH = re.compile(r"[\w./+-]{1,200}")
_HF_PREFIX = "hf:"
_HF_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9_])?")
_QUANT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,30}[A-Za-z0-9])?")


class RefKind(StrEnum):
    ALIAS = "alias"
    FILE = "file"
    HF = "hf"


@dataclass(frozen=True, slots=True)
class ModelRef:
    """A parsed reference; ``str()`` gives its canonical text, which parses to an equal reference.

    `name` is the alias, the absolute path, or ``org/repo``. Of the hub forms at most one of `quant` (upper case)
    and `file` (path inside the repository) is set.
    """

    kind: RefKind
    name: str
    quant: str = ""
    file: str = ""

    def __str__(self) -> str:
        if self.kind is RefKind.ALIAS:
            return self.name
        if self.kind is RefKind.FILE:
            return f"{_FILE_PREFIX}{self.name}"
        suffix = f"/{self.file}" if self.file else f":{self.quant}" if self.quant else ""
        return f"{_HF_PREFIX}{self.name}{suffix}"


def parse_model_ref(text: str) -> ModelRef:
    """Parse what a person or a client wrote.

    Raises RbeeError(INVALID_MODEL_REF) that says what is wrong and lists the accepted forms. The text is echoed
    escaped and shortened, so control characters in it reach neither a terminal nor a log.
    """
    if not text:
        raise _invalid(text, "it is empty")
    if len(text) > MAX_LENGTH:
        raise _invalid(text, f"it has {len(text)} characters, more than {MAX_LENGTH}")
    if not text.isprintable():
        raise _invalid(text, "it holds a control or other unprintable character")
    if "\\" in text:
        raise _invalid(text, "it holds a backslash")
    if text in ALIASES:
        return ModelRef(RefKind.ALIAS, text)
    if text.startswith(_FILE_PREFIX):
        return _parse_file(text)
    if text.startswith(_HF_PREFIX):
        return _parse_hf(text)
    raise _invalid(text, "it is neither a known alias nor begins with file:// or hf:", _as_file_reference(text))


def model_id(ref: ModelRef) -> str:
    """Stable id of a reference in catalogs and addresses: ``m-`` and 12 hexadecimal digits of its SHA-256."""
    return "m-" + hashlib.sha256(str(ref).encode()).hexdigest()[:12]


def _parse_file(text: str) -> ModelRef:
    path = text.removeprefix(_FILE_PREFIX)
    if not path.startswith("/"):
        raise _invalid(text, "its path is not absolute (file:// and then a path that begins with /)")
    _check_parts(text, path[1:].split("/"))
    return ModelRef(RefKind.FILE, path)


def _parse_hf(text: str) -> ModelRef:
    location, colon, quant = text.removeprefix(_HF_PREFIX).partition(":")
    parts = location.split("/")
    _check_parts(text, parts)
    if len(parts) < 2:
        raise _invalid(text, "it names no repository (org/repo)")
    for part in parts[:2]:
        if not _HF_NAME.fullmatch(part):
            raise _invalid(text, f"{part!r} is no name of an organisation or repository")
    name = "/".join(parts[:2])
    if len(parts) > 2:
        file = "/".join(parts[2:])
        if colon or not file.endswith(".gguf"):
            raise _invalid(text, "a file of a repository ends in .gguf and takes no quantisation")
        return ModelRef(RefKind.HF, name, file=file)
    if colon and not _QUANT.fullmatch(quant):
        raise _invalid(text, "what follows the colon is no quantisation such as Q4_K_M")
    return ModelRef(RefKind.HF, name, quant=quant.upper())


def _check_parts(text: str, parts: list[str]) -> None:
    """Refuse what could lead out of a folder, or be written in two ways."""
    for part in parts:
        if part in ("", ".", ".."):
            raise _invalid(text, f"it has the path part {part!r}")


def _as_file_reference(text: str) -> str | None:
    """The command for what looks like the path of a file."""
    if not _PLAIN_PATH.fullmatch(text) or not (text.endswith(".gguf") or text.startswith("/")):
        return None
    path = text if text.startswith("/") else "/absolute/path/" + text.rpartition("/")[2]
    return f"rbee infer --model {_FILE_PREFIX}{path}"


def _invalid(text: str, why: str, hint: str | None = None) -> RbeeError:
    shown = ascii(text[:_SHOWN_LENGTH]) + ("…" if len(text) > _SHOWN_LENGTH else "")
    forms = ", ".join(ACCEPTED_FORMS)
    return RbeeError(
        Code.INVALID_MODEL_REF,
        f"{shown} is not a model reference: {why}; accepted are {forms}",
        details={"model": shown, "reason": why, "accepted": list(ACCEPTED_FORMS)},
        hint=hint,
    )
