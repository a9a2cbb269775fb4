"""Steps of features/160-install.feature."""

import fcntl
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from daemons.kit.auth import read_key
from daemons.kit.procs.identity import send_signal
from daemons.kit.runfile import read_run_file
from daemons.kit.settings import Settings, setting_keys
from daemons.lifecycle.units import is_as_written
from rbee_tui.cli.main import rbee as rbee_group
from rbee_tui.keeper.install import find_scripts
from tests.bdd.conftest import quoted
from tests.conftest import StartTopology
from tests.support.harness import eventually
from tests.support.harness_keeper import KEEPER_MODULE, Finished
from tests.support.namespaces import mounted
from tests.support.systemd import verify_units
from tests.support.topology import Topology

scenarios("160-install.feature")

NOBODY = 65534
"""Neither the user of these tests nor root."""

LONG_NAME = "h" * 200


@dataclass
class Person:
    """Somebody with a home folder and nothing else; `changes` to the environment, None removes a variable."""

    rbee: Topology
    home: Path
    changes: dict[str, str | None] = field(default_factory=lambda: {"RBEE_HOME": None})
    wrapper: tuple[str, ...] = ()
    kept: dict[Path, bytes] = field(default_factory=dict)

    @property
    def prefix(self) -> Path:
        return self.rbee.root / "prefix"

    def environ(self) -> dict[str, str]:
        given = {**self.rbee.environ(), "PATH": "/usr/bin:/bin", "SHELL": "/bin/bash", **self.changes}
        return {name: value for name, value in given.items() if value is not None}

    def run(self, *args: str, wrapper: tuple[str, ...] | None = None) -> Finished:
        wrapper = self.wrapper if wrapper is None else wrapper
        return self.rbee.keeper(*args, environ=self.environ(), wrapper=wrapper)

    def tree(self) -> dict[str, str]:
        """Everything in the home folder: files with their bytes, links with their targets."""
        return {str(path.relative_to(self.home)): _content(path) for path in sorted(self.home.rglob("*"))}


def _content(path: Path) -> str:
    if path.is_symlink():
        return os.readlink(path)
    return path.read_bytes().hex() if path.is_file() else "folder"


@given("a person with an empty home folder", target_fixture="person")
def person(fresh_topology: StartTopology) -> Person:
    topology = fresh_topology({})
    return Person(topology, topology.user_home)


@when(parsers.parse('the person runs "rbee {line}"'), target_fixture="finished")
def run_line(person: Person, line: str) -> Finished:
    return person.run(*shlex.split(line.replace("{prefix}", str(person.prefix))))


# --- T56


@then("the home folder is still empty")
def home_is_empty(person: Person) -> None:
    assert person.tree() == {}


@then(parsers.parse('each of the five programs in "{folder}" is that of this environment and runs'))
def programs_run(person: Person, folder: str) -> None:
    scripts = find_scripts()
    assert len(scripts) == 5
    for name, script in scripts.items():
        program = person.home / folder / name
        assert os.path.samefile(program, script)
        done = subprocess.run([program, "--version"], capture_output=True, text=True, env=person.environ(), check=True)
        assert re.search(r"\d+\.\d+\.\d+", done.stdout), name


@then("the configuration file has every setting as a comment, and all settings are the defaults")
def all_commented(person: Person) -> None:
    text = (person.home / ".config/rbee/config.toml").read_text(encoding="utf-8")
    assert not any(tomllib.loads(text).values())
    uncommented = tomllib.loads(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    assert Settings.model_validate(uncommented) == Settings()
    for name in person.rbee.settings:
        person.changes[name] = None
    rows = json.loads(person.run("config", "show", "--json").out)["settings"]
    assert [row["key"] for row in rows] == [key.dotted for key in setting_keys()]
    assert {row["source"] for row in rows} == {"default"}
    person.changes = {"RBEE_HOME": None}


@then("state and keys are closed to others")
def closed(person: Person) -> None:
    state = person.home / ".rbee"
    assert {path.stat().st_mode & 0o777 for path in (state, *state.rglob("*")) if path.is_dir()} == {0o700}
    for name in ("admin", "infer", "hive"):
        assert len(read_key(state / "keys" / f"{name}.key")) >= 16


@then("systemd accepts the two units, which start programs of this environment and let workers outlive them")
def units_are_fine(person: Person) -> None:
    units = {path.name: path for path in (person.home / ".config/systemd/user").iterdir()}
    assert set(units) == {"rbee-queen.service", "rbee-hive.service"}
    for name, program in (("rbee-queen.service", "queen-rbee"), ("rbee-hive.service", "rbee-hive")):
        lines = units[name].read_text(encoding="utf-8").splitlines()
        assert f"ExecStart={find_scripts()[program]} serve" in lines
        assert {"KillMode=process", "OOMPolicy=continue", "Restart=on-failure"} <= set(lines)
    assert "RestartKillSignal=SIGUSR1" in units["rbee-hive.service"].read_text(encoding="utf-8")
    verify_units(units.values(), {**person.environ(), "XDG_RUNTIME_DIR": str(person.home)}, of_user=True)


@then("stdout says how to reach the programs, to enable the service, and to keep it running after logout")
def next_steps(person: Person, finished: Finished) -> None:
    assert f"""echo 'export PATH={person.home}/.local/bin:"$PATH"' >> ~/.bashrc""" in finished.out
    assert "systemctl --user daemon-reload && systemctl --user enable --now rbee-queen" in finished.out
    assert "loginctl enable-linger" in finished.out
    person.kept = {Path("tree"): json.dumps(person.tree()).encode()}


@then(parsers.parse('stdout says "{words}"'))
def stdout_says(finished: Finished, words: str) -> None:
    assert words in finished.out, str(finished)


@then("nothing in the home folder has changed")
def unchanged(person: Person) -> None:
    assert json.dumps(person.tree()).encode() == person.kept[Path("tree")]


@when(
    parsers.parse('the person asks the installed "{program}" for {tokens:d} tokens of the demo model, ephemerally'),
    target_fixture="finished",
)
def ask_installed(person: Person, program: str, tokens: int) -> Finished:
    installed = person.home / ".local/bin" / program
    args = ("infer", "--ephemeral", "--model", "demo", "--max-tokens", str(tokens), "Once upon a time")
    began = time.monotonic()
    done = subprocess.run([installed, *args], capture_output=True, text=True, env=person.environ(), check=False)
    return Finished(args, done.returncode, done.stdout, done.stderr, time.monotonic() - began)


@given(parsers.parse('the person\'s file "{name}" says "{text}"'))
def file_says(person: Person, name: str, text: str) -> None:
    path = person.home / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.replace("\\n", "\n").encode())
    person.kept[path] = path.read_bytes()


@then("both files are as they were")
def files_are_kept(person: Person) -> None:
    assert len(person.kept) == 2
    assert {path: path.read_bytes() for path in person.kept} == person.kept


@then(parsers.re(r"the programs (?P<names>.+) are installed all the same"))
def others_installed(person: Person, names: str) -> None:
    assert len(quoted(names)) == 4
    for name in quoted(names):
        assert os.path.samefile(person.home / ".local/bin" / name, find_scripts()[name])


# --- T57


@then(parsers.re(r"below the prefix there are (?P<names>.+)"))
def below_prefix(person: Person, names: str) -> None:
    missing = [name for name in quoted(names) if not (person.prefix / name).is_file()]
    assert not missing


@dataclass
class StartedQueen:
    """A queen that was started as its unit says, and the socket on which systemd would listen."""

    process: "subprocess.Popen[bytes]"
    notices: socket.socket
    home: Path


@pytest.fixture
def notices(person: Person) -> Iterator[socket.socket]:
    """Where systemd would be told that a service is ready."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(person.rbee.root / "notify"))
        listener.settimeout(30.0)
        yield listener


@when("the queen is started with the command and the environment of its unit", target_fixture="queen")
def start_by_unit(person: Person, notices: socket.socket) -> StartedQueen:
    text = (person.prefix / "etc/systemd/system/rbee-queen.service").read_text(encoding="utf-8")
    (command,) = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)
    variables = dict(line.strip('"').split("=", 1) for line in re.findall(r"^Environment=(.+)$", text, re.MULTILINE))
    environ = {**person.environ(), **variables, "NOTIFY_SOCKET": str(person.rbee.root / "notify")}
    process = subprocess.Popen(shlex.split(command), env=environ, stdout=subprocess.DEVNULL)
    person.rbee.recorder.saw_process(process.pid, command)
    return StartedQueen(process, notices, person.prefix / "var/lib/rbee")


@then(parsers.parse('it tells systemd that it is ready, and answers as the queen of "{folder}"'))
def ready_and_answers(person: Person, queen: StartedQueen, folder: str) -> None:
    assert queen.notices.recv(100) == b"READY=1"
    run = read_run_file(queen.home / "run" / "queen.json")
    assert run is not None
    assert run.identity.pid == queen.process.pid
    assert queen.home == person.prefix / folder
    assert person.rbee.api(run.url, None).send("GET", "/health").json()["status"] == "alive"


@then(parsers.parse("SIGTERM ends it with {code:d}"))
def ends(queen: StartedQueen, code: int) -> None:
    hive = eventually(lambda: read_run_file(queen.home / "run" / "hive.json"), "the hive that it started", within_s=30)
    queen.process.terminate()
    assert queen.process.wait(30) == code
    send_signal(hive.identity, signal.SIGTERM)


@given("a prefix in which only its owner, somebody else, may write")
def foreign_prefix(person: Person) -> None:
    person.prefix.mkdir(mode=0o755)
    if os.geteuid() == 0:
        os.chown(person.prefix, NOBODY, NOBODY)
    else:
        person.prefix.chmod(0o555)


@when(parsers.parse('the person runs "rbee {line}" without any privilege'), target_fixture="finished")
def run_unprivileged(person: Person, line: str) -> Finished:
    args = shlex.split(line.replace("{prefix}", str(person.prefix)))
    powerless = () if os.geteuid() != 0 else ("setpriv", "--bounding-set=-all", "--inh-caps=-all")
    return person.run(*args, wrapper=powerless)


@then("the prefix is still empty")
def prefix_is_empty(person: Person) -> None:
    assert list(person.prefix.iterdir()) == []


# --- W08


@when(parsers.parse("Ctrl+C is pressed in the install after {steps:d} of its steps"), target_fixture="finished")
def interrupt(person: Person, steps: int) -> Finished:
    """The install tells each step on stderr: a pipe that takes so many sentences and no more holds it there."""
    told = [line for line in _rehearse(person).splitlines(keepends=True) if line.startswith("[keeper] made ")]
    room = sum(len(line.encode()) for line in told[: steps - 1])
    read_end, write_end = os.pipe()
    size = fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 4096)
    os.write(write_end, b"." * (size - room))
    argv = [sys.executable, "-m", KEEPER_MODULE, "install", "--service"]
    with subprocess.Popen(argv, env=person.environ(), stderr=write_end, stdout=subprocess.PIPE) as process:
        os.close(write_end)
        person.rbee.recorder.saw_process(process.pid, "rbee install")
        eventually(lambda: _is_held_at_stderr(process.pid), "the install waits to tell its step", within_s=30.0)
        process.send_signal(signal.SIGINT)
        with os.fdopen(read_end, "rb") as reader:
            err = reader.read().decode().lstrip(".")
        assert process.stdout is not None
        return Finished(tuple(argv), process.wait(30), process.stdout.read().decode(), err, 0.0)


def _rehearse(person: Person) -> str:
    """What the install says when nobody interrupts it, in a home whose name is as long."""
    other = person.home.with_name("v" * len(person.home.name))
    other.mkdir()
    environ = {**person.environ(), "HOME": str(other)}
    done = person.rbee.keeper("install", "--service", environ=environ)
    assert done.code == 0, str(done)
    shutil.rmtree(other)
    return done.err


def _is_held_at_stderr(pid: int) -> bool:
    """Whether a process is in a system call on descriptor 2: /proc/PID/syscall has its number, then its arguments."""
    return Path(f"/proc/{pid}/syscall").read_text().split()[1:2] == ["0x2"]


@then(parsers.parse("exactly {steps:d} parts are there, each whole"))
def parts_are_whole(person: Person, steps: int) -> None:
    plan = json.loads(person.run("install", "--service", "--plan", "--json").out)["steps"]
    assert [step["action"] for step in plan] == ["keep"] * steps + ["make"] * (len(plan) - steps)
    for step in plan[:steps]:
        _check_whole(Path(step["path"]), step["about"])
    known = {step["path"] for step in plan[:steps]}
    strays = [path for path in person.home.rglob("*") if path.is_file() and str(path) not in known]
    assert strays == []


def _check_whole(path: Path, about: str) -> None:
    checks: Mapping[str, Callable[[], object]] = {
        "configuration": lambda: tomllib.loads(path.read_text(encoding="utf-8")),
        "key": lambda: read_key(path),
        "systemd unit": lambda: is_as_written(path.read_text(encoding="utf-8")),
    }
    assert checks.get(about, path.exists)(), path


# --- W07


def commands(group: click.Group, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Every command that can be typed, from the table of commands itself."""
    context = click.Context(group, **group.context_settings)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield from commands(command, (*prefix, name)) if isinstance(command, click.Group) else [(*prefix, name)]


ARGUMENTS: Mapping[str, Sequence[str]] = {
    "infer": ("--model", "demo", "--prompt", "hello"),
    "chat": ("--model", "demo"),
    "workers start": ("--model", "demo"),
    "workers shutdown": ("--id", "w-00000000"),
    "workers restart": ("--id", "w-00000000"),
    "tasks show": ("task-000000000000",),
    "tasks cancel": ("task-000000000000",),
    "completion": ("bash",),
}
NEED_NO_HOME = {"completion"}
WRITE = {"infer", "chat", "workers start", "queen start", "hive start", "hive restart", "install"}
"""Commands that start something, or write themselves. The others only read, or talk to what runs already."""


@pytest.fixture
def walked() -> dict[str, Finished]:
    """Command -> how it ended."""
    return {}


def walk(person: Person, walked: dict[str, Finished]) -> None:
    for words in commands(rbee_group):
        name = " ".join(words)
        walked[name] = person.run(*words, *ARGUMENTS.get(name, ()))


@when("every command is run without HOME and RBEE_HOME")
def walk_without_home(person: Person, walked: dict[str, Finished]) -> None:
    person.changes |= {"HOME": None, "RBEE_HOME": None}
    walk(person, walked)


@when("every command is run on a read-only home")
def walk_read_only(person: Person, walked: dict[str, Finished]) -> None:
    person.wrapper = mounted(person.home, 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"')
    walk(person, walked)


@then("each that needs a folder exits with 1, names HOME_UNUSABLE, and says what to set")
def all_say_home(walked: dict[str, Finished]) -> None:
    for name in set(walked) - NEED_NO_HOME:
        finished = walked[name]
        said = finished.out + finished.err
        assert finished.code == 1, str(finished)
        assert "HOME_UNUSABLE" in said, str(finished)
        assert re.search(r"export (RBEE_)?HOME=", said), str(finished)


@then('each that writes exits with 1, names HOME_UNUSABLE, "Read-only file system", and says what to set')
def writers_say_read_only(walked: dict[str, Finished]) -> None:
    for name in WRITE & set(walked):
        finished = walked[name]
        assert finished.code == 1, str(finished)
        assert "HOME_UNUSABLE" in finished.err, str(finished)
        assert "Read-only file system" in finished.err, str(finished)
        assert re.search(r"^hint: export (RBEE_)?HOME=", finished.err, re.MULTILINE), str(finished)


@then("no command failed in any other way")
def no_other_failure(walked: dict[str, Finished]) -> None:
    assert len(walked) >= 20
    for finished in walked.values():
        assert finished.code in {0, 1}, str(finished)
        assert "Traceback" not in finished.err + finished.out, str(finished)
        assert "INTERNAL" not in finished.err, str(finished)
        if finished.code == 1:
            named = ("HOME_UNUSABLE", "QUEEN_UNREACHABLE", "cannot be made in")
            assert any(code in finished.err + finished.out for code in named), str(finished)


@given(parsers.parse("the state folder is {state}"))
def unusable_state(person: Person, state: str) -> None:
    folder = person.home / "state"
    person.changes["RBEE_HOME"] = str(folder)
    if state == "a file":
        folder.write_text("", encoding="utf-8")
    elif state == "a relative path":
        person.changes["RBEE_HOME"] = "some/folder"
    else:
        assert state == "on a full disk"
        folder.mkdir()
        fill = '{ dd if=/dev/zero of="$0/rest" bs=4k 2>/dev/null || true; }'
        person.wrapper = mounted(folder, f'mount -t tmpfs -o size=256k tmpfs "$0" && {fill}')


@when("the daemons are started by hand", target_fixture="daemons")
def by_hand(person: Person) -> list[Finished]:
    return [_serve(person, name) for name in ("queen-rbee", "rbee-hive")]


def _serve(person: Person, program: str) -> Finished:
    argv = [*person.wrapper, str(find_scripts()[program]), "serve"]
    done = subprocess.run(argv, capture_output=True, text=True, env=person.environ(), timeout=60, check=False)
    return Finished((program, "serve"), done.returncode, done.stdout, done.stderr, 0.0)


@then(parsers.re(r"each exits with (?P<code>\d) and names (?P<names>.+)"))
def daemons_say(daemons: list[Finished], code: str, names: str) -> None:
    for finished in daemons:
        assert finished.code == int(code), str(finished)
        missing = [name for name in quoted(names) if name not in finished.out + finished.err]
        assert not missing, f"{missing} not in {finished}"
        assert "Traceback" not in finished.err, str(finished)


@given(parsers.parse('a home folder called "{name}"'))
def named_state(person: Person, name: str) -> None:
    """The long one makes paths longer than that of a UNIX socket may be (108 bytes)."""
    folder = person.rbee.root / name.replace("{two hundred letters}", LONG_NAME)
    folder.mkdir()
    person.changes |= {"HOME": str(folder), "RBEE_HOME": str(folder / "state")}
