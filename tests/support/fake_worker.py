"""A worker program without llama.cpp, for tests of the hive: a real process that speaks the worker's routes.

It behaves as the words in its model's file name say, `slow-3_stubborn.gguf` for instance:

    slow-N      the load takes N seconds, and tells its progress
    stuck       the load never ends
    deaf        HTTP never answers
    crash       prints 60 lines and exits with code 3 while it loads
    invalid     ends while it loads, with MODEL_INVALID as its last words
    killed      is killed by SIGKILL while it loads
    stubborn    ignores both the request to end and SIGTERM
    shy         never calls the hive back

`devices --json` prints the file that FAKE_DEVICES names, or one CPU.
"""

import json
import os
import sys
from pathlib import Path

DEVICES = {
    "devices": [
        {"name": "CPU", "description": "a fake cpu", "backend": "cpu", "memory_total": 2**34, "memory_free": 2**33}
    ],
    "version": {"llama_cpp_python": "0.0-fake"},
}


def main(arguments: list[str]) -> None:
    if arguments[0] == "serve":
        from daemons.kit.server import run_daemon  # late: the other commands are to be quick
        from tests.support.fake_worker_http import serve_fake

        run_daemon(serve_fake)
    elif arguments[0] == "devices":
        named = os.environ.get("FAKE_DEVICES")
        sys.stdout.write(Path(named).read_text() if named else json.dumps(DEVICES))
    elif arguments[0] == "self-test":
        sys.stdout.write(json.dumps({"ok": True, "tokens": 3, "text": "fake"}))


if __name__ == "__main__":
    main(sys.argv[1:])
