"""Steps of features/360-configuration.feature."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytest_bdd import given, parsers, scenarios, then, when

from daemons.contracts import routes
from daemons.kit.settings import setting_keys
from tests.bdd.conftest import quoted
from tests.support.harness_keeper import Finished
from tests.support.namespaces import mounted
from tests.support.topology import Topology

scenarios("360-configuration.feature")

PLACES = ("flag", "environment", "file named by RBEE_CONFIG", "user's file", "system's file", "default")
SYSTEM_FILE = "/etc/rbee/config.toml"


@dataclass
class Places:
    """The setting `queen.url` in each place, with a value that names the place, and which places are in use."""

    root: Path
    user_file: Path
    in_use: tuple[str, ...] = PLACES

    def value(self, place: str) -> str:
        return "" if place == "default" else f"http://127.0.0.1:{40000 + PLACES.index(place)}"

    def source(self, place: str) -> str:
        """How the keeper names a place."""
        return {
            "flag": "flag",
            "environment": "environment RBEE_QUEEN_URL",
            "file named by RBEE_CONFIG": str(self.named_file),
            "user's file": str(self.user_file),
            "system's file": SYSTEM_FILE,
            "default": "default",
        }[place]

    @property
    def named_file(self) -> Path:
        return self.root / "named.toml"

    @property
    def etc(self) -> Path:
        """What is laid over /etc, for the keeper's process alone."""
        return self.root / "etc"

    def write(self) -> None:
        """Bring the files in line with `in_use`."""
        files = {"user's file": self.user_file, "system's file": self.etc / "rbee" / "config.toml"}
        files["file named by RBEE_CONFIG"] = self.named_file
        for place, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f'[queen]\nurl = "{self.value(place)}"\n' if place in self.in_use else "", encoding="utf-8")

    def show(self, rbee: Topology) -> Finished:
        """`rbee config show --json` as a machine with these places runs it."""
        self.write()
        environ = rbee.environ()
        if "environment" in self.in_use:
            environ["RBEE_QUEEN_URL"] = self.value("environment")
        if "file named by RBEE_CONFIG" in self.in_use:
            environ["RBEE_CONFIG"] = str(self.named_file)
        flag = ("--queen", self.value("flag")) if "flag" in self.in_use else ()
        finished = rbee.keeper(*flag, "config", "show", "--json", environ=environ, wrapper=over_etc(self.etc))
        assert finished.code == 0, str(finished)
        return finished


def over_etc(folder: Path) -> tuple[str, ...]:
    """Runs what follows where `folder` lies over /etc."""
    return mounted(folder, 'mount -t overlay overlay -o "lowerdir=$0:/etc" /etc')


def user_file(rbee: Topology) -> Path:
    return rbee.user_home / ".config" / "rbee" / "config.toml"


# --- T58


@given('the setting "queen.url" is given in all five places, each with its own value', target_fixture="places")
def all_places(rbee: Topology) -> Places:
    places = Places(rbee.root / "places", user_file(rbee))
    places.write()
    return places


@when("the settings are shown with all five places in use", target_fixture="shown")
def show_all(rbee: Topology, places: Places) -> list[dict[str, Any]]:
    return settings_of(places.show(rbee))


@when(parsers.parse("the settings are shown without the {place}"), target_fixture="shown")
def show_without(rbee: Topology, places: Places, place: str) -> list[dict[str, Any]]:
    assert places.in_use[0] == place, "places are taken away from the strongest to the weakest"
    places.in_use = places.in_use[1:]
    return settings_of(places.show(rbee))


def settings_of(finished: Finished) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(finished.out)["settings"]
    return rows


@then(parsers.parse("the value and the place shown are those of the {place}"))
def shown_is(shown: list[dict[str, Any]], places: Places, place: str) -> None:
    row = next(row for row in shown if row["key"] == "queen.url")
    assert (row["value"], row["source"]) == (places.value(place), places.source(place))


@then("every setting is shown with its place")
def all_shown(shown: list[dict[str, Any]]) -> None:
    assert [row["key"] for row in shown] == [key.dotted for key in setting_keys()]
    assert all(row["source"] for row in shown)


@given("the user's configuration file says", target_fixture="config_file")
def write_user_file(rbee: Topology, docstring: str) -> Path:
    path = user_file(rbee)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(docstring + "\n", encoding="utf-8")
    return path


@given("the configuration file named by RBEE_CONFIG says")
def write_named_file(rbee: Topology, docstring: str) -> None:
    path = rbee.root / "named.toml"
    path.write_text(docstring + "\n", encoding="utf-8")
    rbee.settings["RBEE_CONFIG"] = str(path)


@when(parsers.parse('the queen is started and a worker with the model "{model}"'))
def start(rbee: Topology, model: str) -> None:
    rbee.start_queen()
    rbee.start_worker(model)


@then(parsers.parse("the fleet says that {limit:d} tasks may wait"))
def queue_limit(rbee: Topology, limit: int) -> None:
    assert rbee.queen.call(routes.FLEET).json()["queue"]["limit"] == limit


@then(parsers.parse("that worker has {slots:d} slots"))
def slots(rbee: Topology, slots: int) -> None:
    assert rbee.only_worker()["slots_total"] == slots


# --- W06


@then(parsers.re(r'stderr names (?P<code>"[^"]*"), the file, (?P<rest>.+)'))
def names_the_file(finished: Finished, config_file: Path, code: str, rest: str) -> None:
    wanted = [*quoted(code), str(config_file), *quoted(rest)]
    missing = [text for text in wanted if text not in finished.err]
    assert not missing, f"{missing} not in {finished}"
