"""Files of references: only inside allowed folders, never through a link, and said with the folders."""

import os
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.models.demo import DEMO_MODEL_PATH
from daemons.models.locations import locate_model, model_folders, resolve_file_ref
from daemons.models.references import ModelRef, RefKind, parse_model_ref


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "models"
    made.mkdir()
    (made / "a.gguf").write_bytes(b"GGUF")
    (tmp_path / "outside.gguf").write_bytes(b"GGUF")
    return made


def ref(path: Path) -> ModelRef:
    return parse_model_ref(f"file://{path}")


def refusal(path: Path, *folders: Path) -> RbeeError:
    with pytest.raises(RbeeError) as caught:
        resolve_file_ref(ref(path), folders)
    return caught.value


def test_file_inside_is_found(folder: Path) -> None:
    """The path comes back as it really is, through links of the folder itself."""
    link = folder.parent / "link"
    link.symlink_to(folder)
    assert resolve_file_ref(ref(folder / "a.gguf"), [folder]) == folder / "a.gguf"
    assert resolve_file_ref(ref(link / "a.gguf"), [folder]) == folder / "a.gguf"
    assert resolve_file_ref(ref(folder / "a.gguf"), [link]) == folder / "a.gguf"


def test_links_within_the_folders_are_followed(folder: Path) -> None:
    """A catalog may lay out names as links to content; the real file is what is opened."""
    (folder / "name.gguf").symlink_to("a.gguf")
    assert resolve_file_ref(ref(folder / "name.gguf"), [folder]) == folder / "a.gguf"


def test_outside_is_forbidden_whether_it_exists_or_not(folder: Path) -> None:
    """The same answer for both, so that nobody can ask which files a machine has."""
    for path in (folder.parent / "outside.gguf", folder.parent / "absent.gguf", Path("/etc/passwd")):
        error = refusal(path, folder)
        assert error.code is Code.MODEL_PATH_FORBIDDEN
        assert str(folder) in error.message
        assert "models.allowed_folders" in error.message
        assert error.details["allowed_folders"] == [str(folder)]


def test_link_that_leads_out_is_forbidden_and_not_described(folder: Path) -> None:
    """Links of files, of folders, chains and loops: none leads out, and none tells where it leads."""
    (folder / "file.gguf").symlink_to(folder.parent / "outside.gguf")
    (folder / "up").symlink_to(folder.parent)
    (folder / "chain.gguf").symlink_to("file.gguf")
    for path in (folder / "file.gguf", folder / "up" / "outside.gguf", folder / "chain.gguf"):
        error = refusal(path, folder)
        assert error.code is Code.MODEL_PATH_FORBIDDEN
        assert str(folder.parent / "outside.gguf") not in error.message.replace(str(path), "")
    (folder / "loop.gguf").symlink_to("loop.gguf")
    assert refusal(folder / "loop.gguf", folder).code in (Code.MODEL_PATH_FORBIDDEN, Code.MODEL_NOT_FOUND)


def test_sibling_with_the_same_beginning_is_outside(folder: Path) -> None:
    """Folders are compared by their parts, not by the beginning of their text."""
    sibling = folder.parent / "models-private"
    sibling.mkdir()
    (sibling / "a.gguf").write_bytes(b"GGUF")
    assert refusal(sibling / "a.gguf", folder).code is Code.MODEL_PATH_FORBIDDEN


def test_no_folders_forbid_everything(folder: Path) -> None:
    """Without a setting nothing is open."""
    assert refusal(folder / "a.gguf").code is Code.MODEL_PATH_FORBIDDEN


def test_what_is_no_file_is_not_found(folder: Path) -> None:
    """Absent files, folders and pipes inside an allowed folder are told apart; no pipe is opened (it would hang)."""
    (folder / "sub.gguf").mkdir()
    os.mkfifo(folder / "pipe.gguf")
    for name, why in (("absent.gguf", "No such file"), ("sub.gguf", "folder"), ("pipe.gguf", "not a regular file")):
        error = refusal(folder / name, folder)
        assert error.code is Code.MODEL_NOT_FOUND
        assert why in error.message


def test_demo_is_located_without_any_folder() -> None:
    """The shipped model needs no setting."""
    assert locate_model(parse_model_ref("demo"), []) == DEMO_MODEL_PATH


def test_file_is_located_inside_folders_only(folder: Path) -> None:
    """`locate_model` keeps the rule of `resolve_file_ref`."""
    assert locate_model(ref(folder / "a.gguf"), [folder]) == folder / "a.gguf"
    with pytest.raises(RbeeError) as caught:
        locate_model(ref(folder.parent / "outside.gguf"), [folder])
    assert caught.value.code is Code.MODEL_PATH_FORBIDDEN


@pytest.mark.parametrize("unknown", [ModelRef(RefKind.HF, "org/repo"), ModelRef(RefKind.ALIAS, "other")])
def test_models_without_a_file_here_are_not_found(unknown: ModelRef) -> None:
    """The message names the reference and how a file is named."""
    with pytest.raises(RbeeError) as caught:
        locate_model(unknown, [])
    assert caught.value.code is Code.MODEL_NOT_FOUND
    assert str(unknown) in caught.value.message


def test_only_file_references_resolve() -> None:
    """A wrong call is the caller's defect, not a person's mistake."""
    with pytest.raises(ValueError, match="demo"):
        resolve_file_ref(parse_model_ref("demo"), [])


def test_folders_come_from_the_setting(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """rbee's own folder first; ``~`` is the user's; a relative one would mean something else in each daemon."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert model_folders(Path("/m"), ["/data", "~/ggufs"]) == (Path("/m"), Path("/data"), tmp_path / "ggufs")
    with pytest.raises(RbeeError) as caught:
        model_folders(Path("/m"), ["data"])
    assert caught.value.code is Code.CONFIG_INVALID
    assert "'data'" in caught.value.message
