"""Where the file of a model reference lies on this machine, and whether it may be opened."""

import stat
from collections.abc import Sequence
from pathlib import Path

from daemons.contracts.errors import Code, RbeeError
from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.references import DEMO_ALIAS, ModelRef, RefKind

_ALIAS_PATHS = {DEMO_ALIAS: DEMO_MODEL_PATH}


def model_folders(models_folder: Path, further: Sequence[str]) -> tuple[Path, ...]:
    """Folders that ``file://`` models may come from: rbee's own, and those of the setting models.allowed_folders.

    Raises RbeeError(CONFIG_INVALID) for one that is not absolute; ``~`` stands for the user's home.
    """
    folders = [models_folder]
    for text in further:
        folder = Path(text).expanduser()
        if not folder.is_absolute():
            raise RbeeError(
                Code.CONFIG_INVALID,
                f"models.allowed_folders names {text!r}, which is not an absolute path",
                details={"key": "models.allowed_folders", "value": text},
            )
        folders.append(folder)
    return tuple(folders)


def locate_model(ref: ModelRef, allowed_folders: Sequence[Path]) -> Path:
    """The file to load for a reference.

    Raises RbeeError: what `resolve_file_ref` raises; MODEL_NOT_FOUND for ``hf:`` references, of which the node's
    catalog knows the files, and for an alias whose file this installation lacks.
    """
    if ref.kind is RefKind.FILE:
        return resolve_file_ref(ref, allowed_folders)
    path = _ALIAS_PATHS.get(ref.name) if ref.kind is RefKind.ALIAS else None
    if path is None:
        raise RbeeError(
            Code.MODEL_NOT_FOUND,
            f"this node has no file of {str(ref)!r}; a file on the node is named file:///path/model.gguf",
            details={"model": str(ref)},
        )
    if not path.is_file():
        raise _not_found(ref, f"the installation lacks {path}")
    return path


def resolve_file_ref(ref: ModelRef, allowed_folders: Sequence[Path]) -> Path:
    """The real path, free of symbolic links, of a ``file://`` reference.

    The folder is checked before anything is said about the file, and nothing outside of `allowed_folders` is ever
    opened or described: who may not read a folder learns nothing of what is in it. Callers open the returned path.

    Raises RbeeError: MODEL_PATH_FORBIDDEN when the path, or where its links lead, is outside of all folders;
    MODEL_NOT_FOUND when inside there is no regular file of that name.
    """
    if ref.kind is not RefKind.FILE:
        raise ValueError(f"{ref} is not a file:// reference")
    try:
        real = Path(ref.name).resolve()
    except (OSError, RuntimeError):  # a loop of links, or a folder that may not be searched
        raise _forbidden(ref, allowed_folders) from None
    if not any(real.is_relative_to(folder.resolve()) for folder in allowed_folders):
        raise _forbidden(ref, allowed_folders)
    try:
        mode = real.stat().st_mode
    except OSError as error:
        raise _not_found(ref, error.strerror or str(error)) from error
    if not stat.S_ISREG(mode):
        raise _not_found(ref, "it is a folder" if stat.S_ISDIR(mode) else "it is not a regular file")
    return real


def _forbidden(ref: ModelRef, allowed_folders: Sequence[Path]) -> RbeeError:
    folders = [_without_home(folder) for folder in allowed_folders]
    return RbeeError(
        Code.MODEL_PATH_FORBIDDEN,
        f"{ref.name!r} is, or leads, outside the folders that models may come from"
        f" ({', '.join(folders) or 'none'}); the setting models.allowed_folders, read when a hive starts, names more",
        details={"path": ref.name, "allowed_folders": folders, "setting": "models.allowed_folders"},
        hint="add its folder to models.allowed_folders, then: rbee hive stop",
    )


def _without_home(folder: Path) -> str:
    """Who asks from elsewhere learns no name of a user here; `~` works in a shell of this machine."""
    home = Path("~").expanduser()
    return str(Path("~") / folder.relative_to(home)) if folder.is_relative_to(home) else str(folder)


def _not_found(ref: ModelRef, why: str) -> RbeeError:
    return RbeeError(
        Code.MODEL_NOT_FOUND, f"no model file for {str(ref)!r}: {why}", details={"model": str(ref), "reason": why}
    )
