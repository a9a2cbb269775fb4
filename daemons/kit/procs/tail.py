"""The end of a log file, without reading the rest of it."""

from pathlib import Path

_BLOCK = 16 * 1024
_MOST = 1024 * 1024


def last_lines(path: Path, n: int, *, since: int = 0) -> list[str]:
    """The last `n` lines, oldest first, from byte `since` on and within the last MiB; [] when there is no file.

    Bytes that are not UTF-8 become U+FFFD.
    """
    if n <= 0:
        return []
    try:
        with path.open("rb") as file:
            position = file.seek(0, 2)
            first = max(since, position - _MOST)
            tail = b""
            # One newline more than lines: the block must hold the end of the line before the first wanted one.
            while position > first and tail.count(b"\n") <= n:
                step = min(_BLOCK, position - first)
                position -= step
                file.seek(position)
                tail = file.read(step) + tail
    except FileNotFoundError:
        return []
    lines = tail.decode("utf-8", errors="replace").split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines[-n:]]
