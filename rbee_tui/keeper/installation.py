"""What every use case starts from: folders, settings with their sources, and the id of this request."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.ids import new_request_id
from daemons.kit.paths import Paths, find_paths
from daemons.kit.policy import Policy
from daemons.kit.settings import LoadedSettings, QueenSettings, Settings, load_settings, mend_hint


@dataclass(frozen=True, slots=True)
class Installation:
    """This user's rbee on this machine. `request_id` goes with every request of one keeper command."""

    paths: Paths
    loaded: LoadedSettings
    request_id: str

    @property
    def settings(self) -> Settings:
        return self.loaded.settings

    @property
    def policy(self) -> Policy:
        return self.loaded.settings.policy


def open_installation(
    *,
    queen_url: str | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    request_id: str | None = None,
) -> Installation:
    """Find the folders and merge the settings; `queen_url` and `flags` (dotted key -> value) win over all other layers.

    Raises RbeeError(HOME_UNUSABLE) or RbeeError(CONFIG_INVALID).
    """
    paths = find_paths(environ)
    loaded = load_settings(paths, flags={**(flags or {}), "queen.url": queen_url}, environ=environ)
    _check_url(loaded.settings.queen.url, loaded.sources["queen.url"])
    return Installation(paths, loaded, request_id or new_request_id())


def default_installation(*, queen_url: str | None = None, environ: Mapping[str, str] | None = None) -> Installation:
    """As `open_installation` with default settings, for when the given ones are wrong and something must be stopped.

    Which queen is meant is still taken from `queen_url` and the environment; a wrong address there counts as none.
    Raises RbeeError(HOME_UNUSABLE), or CONFIG_INVALID for a wrong `queen_url`.
    """
    env = os.environ if environ is None else environ
    url, source = queen_url, "flag"
    if url:
        _check_url(url, source)
    elif is_queen_url(env.get("RBEE_QUEEN_URL", "")):
        url, source = env["RBEE_QUEEN_URL"], "environment RBEE_QUEEN_URL"
    settings = Settings(queen=QueenSettings(url=url or "", key=env.get("RBEE_QUEEN_KEY", "")))
    return Installation(find_paths(environ), LoadedSettings(settings, {"queen.url": source}), new_request_id())


def _check_url(url: str, source: str) -> None:
    if url and not is_queen_url(url):
        raise RbeeError(
            Code.CONFIG_INVALID,
            f"{source}: queen.url is {url!a}; expected http://host:port or https://host:port",
            details={"key": "queen.url", "source": source},
            hint=mend_hint(source),
        )


def is_queen_url(url: str) -> bool:
    """Whether a queen may be at this address: ``http://host:port`` or ``https://host:port``."""
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0 and url.isprintable()
    except ValueError:
        return False
