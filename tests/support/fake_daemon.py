"""FakeDaemon stands for a queen or hive in tests of starting and stopping: real process, state file, HTTP, run file.

Run as ``python -m tests.support.fake_daemon queen serve [--ephemeral --owner-pid N]``. ``FAKE_DAEMON`` makes it fail:
``crash``, ``segv``, ``port`` (a start error), ``mute`` (never answers), ``gated`` (has the state, answers when
the file ``go`` is there), ``stubborn`` (ignores SIGTERM).
"""

import json
import os
import signal
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import FrameType

from daemons.contracts.errors import Code, RbeeError
from daemons.contracts.fleet import Health
from daemons.kit.paths import find_paths
from daemons.kit.procs import identify
from daemons.kit.runfile import RunFile, published, run_path
from daemons.kit.store import Database, Migration

STATE = Migration(1, "state", "CREATE TABLE state (n INTEGER)")


class _Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = Health(version="0.1.0").model_dump_json().encode()
        self.send_response(200 if self.path == "/health" else 404)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class FakeDaemon:
    """One run of the fake."""

    def __init__(self, argv: list[str]) -> None:
        self.name, self.arguments = argv[0], argv[1:]
        self.paths = find_paths()
        self.mode = os.environ.get("FAKE_DAEMON", "")

    def run(self) -> None:
        self._write_start()
        self._fail_early()
        database = Database(self.paths.database(self.name), [STATE], self.paths.backups)
        signal.signal(signal.SIGTERM, signal.SIG_IGN if self.mode == "stubborn" else _leave)
        while self.mode == "gated" and not (self.paths.home / "go").exists():
            time.sleep(0.01)
        with ThreadingHTTPServer(("127.0.0.1", 0), _Health) as server:
            url = f"http://127.0.0.1:{server.server_address[1]}"
            ephemeral = "--ephemeral" in self.arguments
            owner = identify(int(self.arguments[-1])) if ephemeral else None
            run = RunFile.of_this_process(self.name, url, ephemeral=ephemeral, owner=owner)
            with published(run_path(self.paths, self.name), run):
                server.serve_forever(poll_interval=0.05)
        database.close()

    def _write_start(self) -> None:
        """One line for each start, so that a test can count them."""
        with (self.paths.home / "starts").open("a") as starts:
            kept = {key: value for key, value in os.environ.items() if key.startswith("RBEE_")}
            starts.write(json.dumps({"arguments": self.arguments, "env": kept, "cwd": os.getcwd()}) + "\n")

    def _fail_early(self) -> None:
        if self.mode == "crash":
            sys.stderr.write("first line\nModuleNotFoundError: No module named 'bees'\n")
            sys.exit(3)
        if self.mode == "segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.mode == "port":
            raise RbeeError(Code.PORT_IN_USE, "port 8080 is held by nginx", details={"port": 8080}, hint="change it")
        if self.mode == "mute":
            time.sleep(60)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    try:
        FakeDaemon(sys.argv[1:]).run()
    except RbeeError as error:
        sys.stdout.write(json.dumps({"error": error.as_dict()}) + "\n")
        sys.stdout.flush()
        sys.exit(1)
