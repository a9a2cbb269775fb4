"""Settings: which layer wins, and how faults are named."""

from pathlib import Path

import pytest

from daemons.contracts.errors import Code, RbeeError
from daemons.kit.paths import Paths
from daemons.kit.settings import LoadedSettings, load_settings, setting_keys


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(home=tmp_path, models=tmp_path / "models", user_config=tmp_path / "user.toml")


def load(paths: Paths, environ: dict[str, str] | None = None, **flags: object) -> LoadedSettings:
    return load_settings(
        paths,
        flags={key.replace("__", "."): value for key, value in flags.items()},
        environ=environ or {},
        system_config=paths.home / "system.toml",
    )


def test_defaults_without_any_layer(paths: Paths) -> None:
    loaded = load(paths)
    assert loaded.settings.queen.port == 8080
    assert set(loaded.sources.values()) == {"default"}


def test_each_layer_beats_the_one_below(paths: Paths) -> None:
    system, user, named = paths.home / "system.toml", paths.user_config, paths.home / "named.toml"
    expected = []
    system.write_text("[queen]\nport = 1\n[hive]\nport = 11\n")
    expected.append((load(paths), 1, str(system)))
    user.write_text("[queen]\nport = 2\n")
    expected.append((load(paths), 2, str(user)))
    named.write_text("[queen]\nport = 3\n")
    env = {"RBEE_CONFIG": str(named)}
    expected.append((load(paths, env), 3, str(named)))
    env["RBEE_QUEEN_PORT"] = "4"
    expected.append((load(paths, env), 4, "environment RBEE_QUEEN_PORT"))
    expected.append((load(paths, env, queen__port=5), 5, "flag"))
    for loaded, port, source in expected:
        assert (loaded.settings.queen.port, loaded.sources["queen.port"]) == (port, source)
        assert loaded.settings.hive.port == 11  # merged per key, not per file


def test_a_flag_that_was_not_given_does_not_win(paths: Paths) -> None:
    assert load(paths, {"RBEE_QUEEN_PORT": "4"}, queen__port=None).settings.queen.port == 4


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("[queen]\nport = 'many'\n", ["queen.port", "integer", "'many'"]),
        ("[queen]\ncolour = 1\n", ["queen.colour", "unknown key"]),
        ("[quern]\nport = 1\n", ["quern", "unknown key"]),
        ("port = 1\n", ["port", "[queen]"]),
        ("[queen\n", ["line 1"]),
    ],
)
def test_a_wrong_file_is_named_with_key_and_expectation(paths: Paths, text: str, parts: list[str]) -> None:
    paths.user_config.write_text(text)
    with pytest.raises(RbeeError) as caught:
        load(paths)
    assert caught.value.code is Code.CONFIG_INVALID
    for part in [str(paths.user_config), *parts]:
        assert part in caught.value.message


def test_a_wrong_variable_is_named(paths: Paths) -> None:
    with pytest.raises(RbeeError, match="environment RBEE_QUEEN_PORT: queen.port"):
        load(paths, {"RBEE_QUEEN_PORT": "no"})


@pytest.mark.parametrize("text", ["[queen]\nport = 'x'\n", "[queen]\nport = 70000\n"])
def test_a_wrong_file_is_refused_also_where_a_stronger_source_has_the_key(paths: Paths, text: str) -> None:
    paths.user_config.write_text(text)
    for stronger in ({"environ": {"RBEE_QUEEN_PORT": "0"}}, {"queen__port": 0}):
        with pytest.raises(RbeeError) as caught:
            load(paths, **stronger)
        assert caught.value.code is Code.CONFIG_INVALID
        assert f"{paths.user_config}: queen.port: Input should be" in caught.value.message
        assert caught.value.hint == f"${{EDITOR:-nano}} {paths.user_config}"


def test_the_faults_of_all_sources_are_named_at_once(paths: Paths) -> None:
    paths.user_config.write_text("[queen]\nport = 'x'\n")
    with pytest.raises(RbeeError) as caught:
        load(paths, {"RBEE_QUEEN_PORT": "y", "RBEE_HIVE_PORT": "z"})
    named = {(row["file"], row["key"]) for row in caught.value.details["faults"]}
    assert named == {
        (str(paths.user_config), "queen.port"),
        ("environment RBEE_QUEEN_PORT", "queen.port"),
        ("environment RBEE_HIVE_PORT", "hive.port"),
    }


def test_a_named_file_must_exist(paths: Paths) -> None:
    with pytest.raises(RbeeError, match="RBEE_CONFIG"):
        load(paths, {"RBEE_CONFIG": str(paths.home / "none.toml")})


def test_a_secret_is_never_repeated_in_an_error(paths: Paths) -> None:
    paths.user_config.write_text("[queen]\nkey = 12345678\n")
    with pytest.raises(RbeeError) as caught:
        load(paths)
    assert "12345678" not in str(caught.value.as_dict())


def test_every_key_is_described() -> None:
    keys = list(setting_keys())
    assert all(key.description for key in keys)
    assert len({key.variable for key in keys}) == len(keys)


def test_folders_in_the_environment_are_a_path_list(paths: Paths) -> None:
    loaded = load(paths, {"RBEE_MODELS_ALLOWED_FOLDERS": "/a:/b"})
    assert loaded.settings.models.allowed_folders == ["/a", "/b"]
    assert load(paths, {"RBEE_MODELS_ALLOWED_FOLDERS": ""}).settings.models.allowed_folders == []
    assert load(paths, {"RBEE_MODELS_ALLOWED_FOLDERS": "~/a:"}).settings.models.allowed_folders == ["~/a"]


@pytest.mark.parametrize("text", ['["/data"]', "data", "/a:b"])
def test_folders_that_are_not_absolute_are_refused_with_the_separator(paths: Paths, text: str) -> None:
    with pytest.raises(RbeeError) as caught:
        load(paths, {"RBEE_MODELS_ALLOWED_FOLDERS": text})
    assert caught.value.code is Code.CONFIG_INVALID
    for part in ("RBEE_MODELS_ALLOWED_FOLDERS", "models.allowed_folders", repr(text.split(":")[-1]), "':'"):
        assert part in caught.value.message


def test_a_file_names_the_relative_folder_too(paths: Paths) -> None:
    paths.user_config.write_text("[models]\nallowed_folders = ['/a', 'models']\n")
    with pytest.raises(RbeeError, match=r"user\.toml: models\.allowed_folders: 'models' is not an absolute path"):
        load(paths)


def hint_of(paths: Paths, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(RbeeError) as caught:
        load(paths, environ)
    return caught.value.hint


@pytest.mark.parametrize("text", ["[queen]\nport = 'many'\n", "port = 1\n", "[queen\n"])
def test_the_hint_for_a_wrong_file_opens_it(paths: Paths, text: str) -> None:
    named = paths.home / "my own.toml"
    paths.user_config.write_text(text)
    assert hint_of(paths) == f"${{EDITOR:-nano}} {paths.user_config}"
    paths.user_config.rename(named)
    assert hint_of(paths, {"RBEE_CONFIG": str(named)}) == f"${{EDITOR:-nano}} '{named}'"


def test_the_hint_for_a_wrong_variable_unsets_it(paths: Paths) -> None:
    assert hint_of(paths, {"RBEE_QUEEN_PORT": "no"}) == "unset RBEE_QUEEN_PORT"
    assert hint_of(paths, {"RBEE_CONFIG": str(paths.home / "none.toml")}) == "unset RBEE_CONFIG"


def test_a_misspelt_variable_is_refused_with_the_nearest_known_one(paths: Paths) -> None:
    with pytest.raises(RbeeError, match="RBEE_QUEEN_PROT: unknown key; the nearest is RBEE_QUEEN_PORT") as it:
        load(paths, {"RBEE_QUEEN_PROT": "1"})
    assert (it.value.code, it.value.hint) == (Code.CONFIG_INVALID, "unset RBEE_QUEEN_PROT")


def test_variables_of_others_and_of_no_section_are_left_alone(paths: Paths) -> None:
    named = paths.home / "empty.toml"
    named.touch()
    others = {"RBEE_HOME": "/x", "RBEE_CONFIG": str(named), "RBEE_TEST_REPEATS": "1", "QUEEN_PROT": "1"}
    known = {key.variable: "" for key in setting_keys() if key.dotted in {"queen.url", "queen.key", "queen.program"}}
    assert load(paths, {**others, **known}).settings.queen.url == ""


def test_further_nodes_on_this_machine_have_a_name_and_a_folder(paths: Paths) -> None:
    loaded = load(paths, {"RBEE_QUEEN_LOCAL_HOMES": "attic=/srv/attic:shed=/srv/shed"})
    assert loaded.settings.queen.homes == {"attic": Path("/srv/attic"), "shed": Path("/srv/shed")}


@pytest.mark.parametrize("homes", ["attic", "attic=srv", "local=/srv/a", "Attic=/srv/a", "a=/srv/a:a=/srv/b"])
def test_a_further_node_that_is_no_name_and_folder_is_refused(paths: Paths, homes: str) -> None:
    with pytest.raises(RbeeError, match="is not name=/folder with a name of its own"):
        load(paths, {"RBEE_QUEEN_LOCAL_HOMES": homes})
