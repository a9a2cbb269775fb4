"""How a program ends that cannot start. Needs no more than every installation has."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from daemons.contracts.errors import Code, RbeeError

_OURS = frozenset({"daemons", "rbee_tui"})
_PROJECTS = {"llama_cpp": "llama-cpp-python", "pynvml": "nvidia-ml-py"}
"""Modules whose project on the package index has quite another name."""


def end_failed(error: RbeeError) -> NoReturn:
    """Exit with 1; the failure is the last line on stdout, as JSON, so that whoever started us can say it again."""
    sys.stdout.write(json.dumps({"error": error.as_dict()}) + "\n")
    sys.stdout.flush()
    sys.exit(1)


def missing_package(error: ModuleNotFoundError, extra: str, code: Code) -> RbeeError:
    """What to say of an import that failed because `extra` is not installed. A module of ours is a defect: raised."""
    module = (error.name or "").partition(".")[0]
    if not module or module in _OURS:
        raise error
    package = _PROJECTS.get(module, module.replace("_", "-"))
    return RbeeError(
        code,
        f"the package {package} is not installed; it comes with the extra rbee[{extra}]",
        details={"package": package, "extra": extra},
        hint="rbee doctor",
    )


@contextmanager
def needing(extra: str, code: Code = Code.DAEMON_START_FAILED) -> Iterator[None]:
    """Around a program's imports: ends it where a package of `extra` is missing."""
    try:
        yield
    except ModuleNotFoundError as error:
        end_failed(missing_package(error, extra, code))
