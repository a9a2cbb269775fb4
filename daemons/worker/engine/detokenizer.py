"""Token bytes to text: whole UTF-8 characters only, and never any part of a stop string."""

import codecs
from collections.abc import Sequence


def held_back(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that may be the beginning of a stop string."""
    longest = 0
    for stop in stops:
        for size in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:size]):
                longest = size
                break
    return longest


class Detokenizer:
    """Incremental text of one generation.

    Bytes of an unfinished character and text that may become a stop string wait for the next token. Bytes that are
    not UTF-8 become U+FFFD.
    """

    __slots__ = ("_decoder", "_pending", "_stops", "stopped")

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._stops = tuple(stops)
        self._pending = ""
        self.stopped = False

    def feed(self, piece: bytes) -> str:
        """Text that is certain after one more token; sets `stopped` when a stop string is complete."""
        text = self._decoder.decode(piece)
        return self._certain(text) if self._stops else text

    def flush(self) -> str:
        """What was held back, at the end of a generation; bytes of an unfinished character are dropped."""
        text, self._pending = self._pending, ""
        self._decoder.reset()
        return "" if self.stopped else text

    def _certain(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._pending + text
        found = [at for at in map(text.find, self._stops) if at >= 0]
        if found:
            self.stopped, self._pending = True, ""
            return text[: min(found)]
        keep = len(text) - held_back(text, self._stops)
        self._pending = text[keep:]
        return text[:keep]
