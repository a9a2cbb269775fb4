"""systemd units of queen and hive, as text. Directives: systemd.unit(5), systemd.service(5), systemd.kill(5).

What a unit has to bear in mind: workers, and a hive that the queen started, are processes of the unit too. They outlive
the end and the restart of its daemon (``KillMode=process``), and one of them that the kernel ends for lack of memory
ends nobody else (``OOMPolicy=continue``). systemd restarts the daemon; what that started, it restarts itself.
"""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from daemons.kit.policy import Policy
from daemons.lifecycle.plan import HIVE, KEEP_WORKERS_SIGNAL, QUEEN, DaemonKind, stop_limit_s

_ABOUT = {
    QUEEN.name: "rbee queen: decides which worker answers which request, and relays the tokens",
    HIVE.name: "rbee hive: models, devices and workers of this machine",
}
RESTART_S = "5"
_MARK = re.compile(r"# Written by `rbee install` \(([0-9a-f]{12})\)")


@dataclass(frozen=True, slots=True)
class Service:
    """How a daemon is to run under systemd. `user` is the account of a system service; "" makes a user service."""

    kind: DaemonKind
    argv: Sequence[str]
    environment: Mapping[str, str]
    user: str = ""
    state_directory: str = ""

    @property
    def unit(self) -> str:
        """Name of its unit file."""
        return unit_name(self.kind)


def unit_name(kind: DaemonKind) -> str:
    """``rbee-queen.service`` or ``rbee-hive.service``."""
    return f"rbee-{kind.name}.service"


def unit_text(service: Service, policy: Policy) -> str:
    """The unit file. Its first lines hold a hash of the rest, by which `is_as_written` knows it again."""
    rest = "\n\n".join(
        "\n".join([f"[{section}]", *(f"{name}={value}" for name, value in directives)])
        for section, directives in (
            ("Unit", _unit(service, policy)),
            ("Service", _service(service, policy)),
            ("Install", [("WantedBy", "multi-user.target" if service.user else "default.target")]),
        )
    )
    edit = "systemctl edit" if service.user else "systemctl --user edit"
    head = (
        f"# Written by `rbee install` ({_digest(rest)}), which replaces it as long as nobody has changed it.\n"
        f"# Changes of your own: {edit} {service.unit.removesuffix('.service')}\n"
    )
    return f"{head}\n{rest}\n"


def is_as_written(text: str) -> bool:
    """Whether a unit file is one that `unit_text` made, and unchanged since."""
    mark = _MARK.match(text)
    _, _, rest = text.partition("\n\n")
    return mark is not None and mark[1] == _digest(rest.removesuffix("\n"))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _unit(service: Service, policy: Policy) -> list[tuple[str, str]]:
    # Nothing waits for a network: all of it listens on loopback. A hive that has a unit too comes first.
    after = [("After", unit_name(HIVE))] if service.kind is QUEEN else []
    return [
        ("Description", _ABOUT[service.kind.name]),
        *after,
        ("StartLimitIntervalSec", f"{policy.restart_window_s:g}"),
        ("StartLimitBurst", str(policy.restart_crashes)),
    ]


def _service(service: Service, policy: Policy) -> list[tuple[str, str]]:
    # A restart of the hive keeps its workers for the next hive; SIGTERM would end them.
    keep = [("RestartKillSignal", KEEP_WORKERS_SIGNAL.name)] if service.kind is HIVE else []
    return [
        ("Type", "notify"),
        ("ExecStart", " ".join(_quoted(word, in_command=True) for word in service.argv)),
        *(("Environment", _quoted(f"{name}={value}")) for name, value in service.environment.items()),
        *_account(service),
        ("Restart", "on-failure"),
        ("RestartSec", RESTART_S),
        ("KillMode", "process"),
        *keep,
        ("OOMPolicy", "continue"),
        ("TimeoutStopSec", f"{stop_limit_s(policy):g}"),
    ]


def _account(service: Service) -> list[tuple[str, str]]:
    """Who runs a system service. systemd gives the state folder to that account when it starts the unit."""
    if not service.user:
        return []
    state = [("StateDirectory", service.state_directory), ("StateDirectoryMode", "0700")]
    return [("User", service.user), *(state if service.state_directory else []), ("NoNewPrivileges", "yes")]


def _quoted(word: str, *, in_command: bool = False) -> str:
    """One word as systemd reads it: C-style quotes, ``%`` and (in commands) ``$`` doubled (systemd.syntax(7))."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    if in_command:
        escaped = escaped.replace("$", "$$")
    return escaped if re.fullmatch(r"[\w/.=:@%+-]+", escaped) else f'"{escaped}"'
