"""State folders: where they are, how they are made, and what is said when they cannot be."""

from collections.abc import Callable
from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.auth import ensure_key
from daemons.kit.paths import find_paths, system_places, user_places
from tests.support.small_disk import small_disk


def test_rbee_home_moves_everything(tmp_path: Path) -> None:
    paths = find_paths({"RBEE_HOME": str(tmp_path), "HOME": "/home/bee"})
    assert paths.home == tmp_path
    assert paths.models == tmp_path / "models"
    assert paths.user_config == Path("/home/bee/.config/rbee/config.toml")


def test_defaults_follow_the_home_folder() -> None:
    paths = find_paths({"HOME": "/home/bee"})
    assert paths.home == Path("/home/bee/.rbee")
    assert paths.models == Path("/home/bee/.local/share/rbee/models")


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"RBEE_HOME": "relative/folder"}])
def test_no_usable_home_says_what_to_set(environ: dict[str, str]) -> None:
    with pytest.raises(RbeeError) as caught:
        find_paths(environ)
    assert caught.value.code is Code.HOME_UNUSABLE
    assert "RBEE_HOME" in caught.value.message + caught.value.hint


def test_folders_are_private(tmp_path: Path) -> None:
    paths = find_paths({"RBEE_HOME": str(tmp_path / "new")})
    paths.create()
    for folder in (paths.home, paths.run, paths.worker_run, paths.logs, paths.keys, paths.backups):
        assert folder.stat().st_mode & 0o777 == 0o700


def test_a_home_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RbeeError) as caught:
        find_paths({"RBEE_HOME": str(tmp_path / "file" / "home")}).create()
    assert caught.value.code is Code.HOME_UNUSABLE
    assert str(tmp_path / "file") in caught.value.message


@pytest.mark.parametrize("made", [Path.touch, lambda path: path.symlink_to("nowhere")])
def test_a_home_that_is_no_folder_is_told_before_anything_is_made(tmp_path: Path, made: Callable[[Path], None]) -> None:
    made(tmp_path / "thing")
    with pytest.raises(RbeeError, match="RBEE_HOME is '.*thing', which is not a folder") as caught:
        find_paths({"RBEE_HOME": str(tmp_path / "thing")})
    assert caught.value.code is Code.HOME_UNUSABLE


class TestPlaces:
    def test_of_a_user(self) -> None:
        places = user_places({"HOME": "/home/bee"})
        assert places.programs == Path("/home/bee/.local/bin")
        assert places.config == Path("/home/bee/.config/rbee/config.toml")
        assert places.units == Path("/home/bee/.config/systemd/user")
        assert places.state == find_paths({"HOME": "/home/bee"})

    def test_of_a_user_who_moved_his_folders(self) -> None:
        environ = {"HOME": "/home/bee", "RBEE_HOME": "/data/rbee", "XDG_CONFIG_HOME": "/home/bee/etc"}
        places = user_places(environ)
        assert places.state.home == Path("/data/rbee")
        assert places.config == Path("/home/bee/etc/rbee/config.toml")
        assert places.units == Path("/home/bee/etc/systemd/user")

    def test_without_home_there_is_no_place_for_programs(self) -> None:
        with pytest.raises(RbeeError, match="HOME is not set") as caught:
            user_places({"RBEE_HOME": "/data/rbee"})
        assert (caught.value.code, caught.value.hint) == (Code.HOME_UNUSABLE, "export HOME=/path/to/folder")

    @pytest.mark.parametrize("prefix", ["/", "/tmp/below"])
    def test_of_the_machine(self, prefix: str) -> None:
        places = system_places(Path(prefix))
        for path, plain in [
            (places.programs, "usr/local/bin"),
            (places.config, "etc/rbee/config.toml"),
            (places.units, "etc/systemd/system"),
            (places.state.home, "var/lib/rbee"),
            (places.state.models, "var/lib/rbee/models"),
        ]:
            assert path == Path(prefix) / plain


def test_a_full_disk_is_told_with_its_free_bytes(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", mebibytes=1) as disk:
        paths = find_paths({"RBEE_HOME": str(disk.folder)})
        disk.fill()
        with pytest.raises(RbeeError) as caught:
            paths.create()
        assert caught.value.code is Code.HOME_UNUSABLE
        assert "No space left on device, 0 bytes free of 1,048,576" in caught.value.message
        assert caught.value.hint == f"df -h {disk.folder}"
        with pytest.raises(RbeeError, match="0 bytes free"):
            ensure_key(paths, "admin")
        assert list(paths.keys.iterdir()) == [], "no half-written key"
        disk.make_room()
        paths.create()
        assert ensure_key(paths, "admin")
