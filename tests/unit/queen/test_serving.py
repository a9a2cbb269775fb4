"""What a queen is made of."""

import shlex
from pathlib import Path

from daemons.kit.notices import Notices
from daemons.kit.paths import Paths
from daemons.kit.settings import load_settings
from daemons.kit.store.store import Store
from daemons.queen.fleet import QueenIdentity
from daemons.queen.serving import make_parts
from daemons.queen.store import MIGRATIONS, QueenStore


def test_the_command_for_a_further_node_starts_it_as_that_node_and_on_any_port(
    tmp_path: Path,
) -> None:
    paths = Paths(home=tmp_path / "h", models=tmp_path / "models", user_config=tmp_path / "user.toml")
    attic = tmp_path / "in the attic"
    store = QueenStore(Store(tmp_path / "queen.duckdb", MIGRATIONS, tmp_path / "backups"))
    settings = load_settings(paths, flags={}, environ={"RBEE_QUEEN_LOCAL_HOMES": f"attic={attic}"}).settings
    hive = make_parts(paths, settings, store, QueenIdentity(1.0), Notices()).hives["attic"]
    *variables, rbee, verb_of, verb = shlex.split(hive.command("start"))
    assert (rbee, verb_of, verb) == ("rbee", "hive", "start")
    environ = dict(variable.split("=", 1) for variable in variables)
    assert environ.pop("RBEE_HOME") == str(attic)
    started = load_settings(paths, flags={}, environ=environ).settings.hive
    assert (started.node, started.port) == ("attic", 0)
