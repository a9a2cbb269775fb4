"""The daemons as scenarios call them, and how each is asked with the key that opens all of it."""

import httpx

from daemons.contracts.routes import Daemon
from tests.support.harness_http import Api
from tests.support.topology import Topology

DAEMONS = {"the queen": Daemon.QUEEN, "the hive": Daemon.HIVE, "the worker": Daemon.WORKER}

Answers = list[httpx.Response]


def api_of(rbee: Topology, daemon: str) -> Api:
    if daemon == "the worker":
        row = rbee.only_worker()
        return rbee.api(row["url"], row["key"])
    return rbee.queen if daemon == "the queen" else rbee.hive
