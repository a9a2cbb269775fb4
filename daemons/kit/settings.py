"""Settings, merged per key: flag > environment > ``RBEE_CONFIG`` file > user file > system file > default.

A key such as ``queen.port`` is ``port`` under ``[queen]`` in TOML and ``RBEE_QUEEN_PORT`` in the environment.
"""

import difflib
import os
import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.ids import LOCAL_NODE, NODE_NAME
from daemons.kit.paths import SYSTEM_CONFIG, Paths
from daemons.kit.policy import Policy

_VARIABLE = "environment "
"""What the source of a value from the environment begins with."""

LogLevel = Literal["debug", "info", "warning", "error"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class QueenSettings(_Section):
    url: str = Field(default="", description="address of a queen elsewhere; empty: the one on this machine")
    key: str = Field(default="", repr=False, description="bearer key for that queen; empty: the key file")
    host: str = Field(default="127.0.0.1", description="address that the queen binds")
    port: int = Field(default=8080, ge=0, le=65535, description="port of the queen; 0: any free one")
    local_hive: bool = Field(default=True, description="start a hive on the queen's own machine: the node `local`")
    local_homes: list[str] = Field(
        default_factory=list, description="further nodes on this machine, each with a state folder: name=/folder"
    )
    queue_limit: int = Field(default=100, ge=0, description="tasks that may wait; 0 turns the queue off")
    finish_loads: bool = Field(default=True, description="a load that nobody waits for goes on; false: it ends")
    program: str = Field(default="", description="program that is started as the queen; empty: this installation's")

    @field_validator("local_homes")
    @classmethod
    def _named_folders(cls, homes: list[str]) -> list[str]:
        names = [home.partition("=")[0] for home in homes]
        for home, name in zip(homes, names, strict=True):
            folder = Path(home.partition("=")[2]).expanduser()
            if not NODE_NAME.fullmatch(name) or name == LOCAL_NODE or names.count(name) > 1 or not folder.is_absolute():
                raise ValueError(f"{home!r} is not name=/folder with a name of its own (lower case, no {LOCAL_NODE!r})")
        return homes

    @property
    def homes(self) -> Mapping[str, Path]:
        """Node name -> state folder of the further nodes on this machine."""
        pairs = (home.partition("=") for home in self.local_homes)
        return {name: Path(folder).expanduser() for name, _, folder in pairs}


class HiveSettings(_Section):
    host: str = Field(default="127.0.0.1", description="address that the hive binds")
    port: int = Field(default=9200, ge=0, le=65535, description="port of the hive; 0: any free one")
    worker_port: int = Field(default=8001, ge=0, le=65535, description="first port for workers; 0: any free one")
    cpu_cores: int = Field(default=0, ge=0, description="cores handed out to workers; 0: the physical cores")
    cpu_memory_bytes: int = Field(default=0, ge=0, description="memory handed out to workers; 0: what is free")
    nvml: bool = Field(default=True, description="read live figures of NVIDIA devices")
    node: str = Field(
        default=LOCAL_NODE, pattern=f"^{NODE_NAME.pattern}$", description="name by which a hive speaks of itself"
    )
    program: str = Field(default="", description="program that is started as a hive; empty: this installation's")


class WorkerDefaults(_Section):
    slots: int = Field(default=4, ge=1, le=64, description="requests that one worker answers at once")
    ctx: int = Field(default=0, ge=0, description="tokens per slot; 0: the model's, up to 8192, as memory allows")
    batch: int = Field(default=512, ge=1, le=65_536, description="tokens per decode step")
    threads: int = Field(default=0, ge=0, description="compute threads of a worker; 0: half of the cores")
    program: str = Field(default="", description="program that is started as a worker; empty: this installation's")


class ModelSettings(_Section):
    default: str = Field(default="demo", description="model of `rbee chat` when none is named")
    allowed_folders: list[str] = Field(
        default_factory=list, description="further folders that file:// models may come from"
    )

    @field_validator("allowed_folders")
    @classmethod
    def _absolute(cls, folders: list[str]) -> list[str]:
        for folder in folders:
            if not Path(folder).expanduser().is_absolute():
                raise ValueError(
                    f"{folder!r} is not an absolute path (a list of them in a file, "
                    f"/one{os.pathsep}/two with {os.pathsep!r} between them in the environment)"
                )
        return folders


class LogSettings(_Section):
    level: LogLevel = Field(default="info", description="debug, info, warning or error")
    max_bytes: int = Field(default=10 * 2**20, ge=4096, description="a log file is rotated at this size")
    keep: int = Field(default=3, ge=1, le=100, description="rotated log files that are kept")


class Settings(_Section):
    """All settings with their defaults; section names are the TOML tables."""

    queen: QueenSettings = QueenSettings()
    hive: HiveSettings = HiveSettings()
    worker: WorkerDefaults = WorkerDefaults()
    models: ModelSettings = ModelSettings()
    log: LogSettings = LogSettings()
    policy: Policy = Policy()


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings and, for each key such as ``queen.port``, where its value comes from."""

    settings: Settings
    sources: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SettingKey:
    """One key: its section, name, and what it means. In the environment the parts of a list stand between colons."""

    section: str
    name: str
    description: str
    is_list: bool = False

    @property
    def dotted(self) -> str:
        return f"{self.section}.{self.name}"

    @property
    def variable(self) -> str:
        return f"RBEE_{self.section}_{self.name}".upper()


def setting_keys() -> Iterator[SettingKey]:
    """Every key that a file or the environment may set."""
    for section, field in Settings.model_fields.items():
        section_type = field.annotation
        assert isinstance(section_type, type)
        assert issubclass(section_type, BaseModel)
        for name, inner in section_type.model_fields.items():
            yield SettingKey(section, name, inner.description or "", is_list=inner.annotation == list[str])


def load_settings(
    paths: Paths,
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    system_config: Path = SYSTEM_CONFIG,
) -> LoadedSettings:
    """Merge all layers. `flags` maps dotted keys to values given on the command line (None: not given).

    Raises RbeeError(CONFIG_INVALID) naming file or variable, key, and what was expected.
    """
    env = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    faults: list[dict[str, str]] = []
    for source, layer in _layers(paths, env, system_config, flags or {}):
        faults += _faults(source, layer)
        values.update(layer)
        sources.update(dict.fromkeys(layer, source))
    if faults:
        sentence = "; ".join(f"{row['file']}: {row['key']}: {row['problem']}" for row in faults)
        raise RbeeError(Code.CONFIG_INVALID, sentence, details={"faults": faults}, hint=mend_hint(faults[0]["file"]))
    complete = {key.dotted: sources.get(key.dotted, "default") for key in setting_keys()}
    return LoadedSettings(Settings.model_validate(_nested(values)), complete)


def _nested(values: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """``queen.port`` -> ``port`` under ``queen``."""
    nested: dict[str, dict[str, Any]] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        nested.setdefault(section, {})[name] = value
    return nested


def _layers(
    paths: Paths, env: Mapping[str, str], system_config: Path, flags: Mapping[str, Any]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(source, dotted key -> value) from the weakest layer to the strongest."""
    yield str(system_config), _read_toml(system_config)
    yield str(paths.user_config), _read_toml(paths.user_config)
    named = env.get("RBEE_CONFIG")
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise RbeeError(
                Code.CONFIG_INVALID, f"RBEE_CONFIG names {path}, which is not a file", hint="unset RBEE_CONFIG"
            )
        yield str(path), _read_toml(path)
    yield from _environment(env)
    yield "flag", {key: value for key, value in flags.items() if value is not None}


def mend_hint(source: str) -> str | None:
    """The command that mends a wrong value from this source of `LoadedSettings.sources`; None for a flag."""
    if source.startswith(_VARIABLE):
        return f"unset {source.removeprefix(_VARIABLE)}"
    # `rbee config show` would fail with the same error.
    return f"${{EDITOR:-nano}} {shlex.quote(source)}" if "/" in source else None


def _environment(env: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    _refuse_unknown(env)
    for key in setting_keys():
        text = env.get(key.variable)
        if text is not None:
            value: Any = text
            if key.is_list:
                value = [part for part in text.split(os.pathsep) if part]
            yield f"{_VARIABLE}{key.variable}", {key.dotted: value}


def _refuse_unknown(env: Mapping[str, str]) -> None:
    """A misspelt variable would do nothing, in silence."""
    known = [key.variable for key in setting_keys()]
    sections = tuple(f"RBEE_{section.upper()}_" for section in Settings.model_fields)
    unknown = sorted(name for name in env if name.startswith(sections) and name not in known)
    if unknown:
        nearest = {name: difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0] for name in unknown}
        raise RbeeError(
            Code.CONFIG_INVALID,
            "; ".join(f"{_VARIABLE}{name}: unknown key; the nearest is {near}" for name, near in nearest.items()),
            details={"nearest": nearest},
            hint=f"unset {shlex.join(unknown)}",
        )


def _read_toml(path: Path) -> Mapping[str, Any]:
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise RbeeError(
            Code.CONFIG_INVALID, f"{path}: {error}", details={"file": str(path)}, hint=mend_hint(str(path))
        ) from error
    flat: dict[str, Any] = {}
    for section, table in document.items():
        if not isinstance(table, dict):
            raise RbeeError(
                Code.CONFIG_INVALID,
                f"{path}: key {section!r} stands outside a table; expected one of "
                + ", ".join(f"[{name}]" for name in Settings.model_fields),
                details={"file": str(path), "key": section},
                hint=mend_hint(str(path)),
            )
        flat.update({f"{section}.{name}": value for name, value in table.items()})
    return flat


def _faults(source: str, layer: Mapping[str, Any]) -> list[dict[str, str]]:
    """What is wrong in one source, whether or not a stronger one has the same key."""
    try:
        Settings.model_validate(_nested(layer))
    except ValidationError as error:
        return [_fault_row(source, fault) for fault in error.errors()]
    return []


def _fault_row(source: str, fault: ErrorDetails) -> dict[str, str]:
    key = ".".join(str(part) for part in fault["loc"][:2])
    if fault["type"] == "extra_forbidden":
        return {"file": source, "key": key, "problem": "unknown key"}
    got = "" if key == "queen.key" else f", got {fault['input']!r}"
    return {"file": source, "key": key, "problem": fault["msg"].removeprefix("Value error, ") + got}
