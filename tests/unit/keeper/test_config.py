"""Each setting with its source; secrets by their fingerprint only."""

from pathlib import Path

from daemons.kit.settings import setting_keys
from rbee_tui.keeper.config import config_files, settings_rows
from rbee_tui.keeper.installation import open_installation


def test_every_key_has_a_row_with_value_source_and_meaning(environ: dict[str, str]) -> None:
    installation = open_installation(
        queen_url="http://flag:1", environ={**environ, "RBEE_HIVE_PORT": "0"}, flags={"queen.port": 7}
    )
    rows = {row.key: row for row in settings_rows(installation)}
    assert list(rows) == [key.dotted for key in setting_keys()]
    assert (rows["queen.url"].value, rows["queen.url"].source) == ("http://flag:1", "flag")
    assert (rows["queen.port"].value, rows["queen.port"].source) == (7, "flag")
    assert (rows["hive.port"].value, rows["hive.port"].source) == (0, "environment RBEE_HIVE_PORT")
    assert (rows["log.keep"].value, rows["log.keep"].source) == (3, "default")
    assert all(row.description and row.variable == f"RBEE_{row.key}".upper().replace(".", "_") for row in rows.values())


def test_a_secret_is_told_apart_but_not_told(environ: dict[str, str]) -> None:
    def shown(**more: str) -> str:
        rows = settings_rows(open_installation(environ={**environ, **more}))
        return next(str(row.value) for row in rows if row.key == "queen.key")

    first, second = shown(RBEE_QUEEN_KEY="rbee-first-secret"), shown(RBEE_QUEEN_KEY="rbee-second-secret")
    assert first != second
    assert "secret" not in first + second
    assert first.startswith("set, fingerprint ")
    assert shown() == ""


def test_files_are_named_from_the_strongest_to_the_weakest(environ: dict[str, str]) -> None:
    paths = open_installation(environ=environ).paths
    system = Path("/etc/rbee/config.toml")
    assert list(config_files(paths, "/x/y.toml")) == [Path("/x/y.toml"), paths.user_config, system]
    assert list(config_files(paths, None)) == [paths.user_config, system]
