"""What models, nodes and logs say, made safe for a terminal."""

import re

# ECMA-48: CSI sequences, OSC/DCS/PM/APC/SOS strings up to their terminator, two-byte escapes.
_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-Z\\^-~]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# What may become one of these; a line's end ends also what had begun in it.
_UNFINISHED = re.compile(
    r"(?:(?:\x1b\[|\x9b)[0-?]*[ -/]*"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c\n]*\x1b?"
    r"|\x1b[ -/]*)\Z"
)
MOST_HELD = 256
"""Characters of a sequence that does not end which are held back, before they are shown as text."""

_BREAKS = re.compile(r"[\t\r\n]+")


def clean(text: str) -> str:
    r"""`text` without escape sequences and control characters; ``\n`` and ``\t`` stay.

    A sequence that does not end loses its escape character, which is what makes it act.
    """
    return _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", text))


class StreamCleaner:
    """`clean` for text that comes in pieces: a sequence that is cut in two waits for its end, but not for ever."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be shown of the text so far."""
        text = self._held + text
        unfinished = _UNFINISHED.search(text)
        ready = unfinished.start() if unfinished and len(text) - unfinished.start() <= MOST_HELD else len(text)
        self._held = text[ready:]
        return clean(text[:ready])

    def rest(self) -> str:
        """What was held back, when nothing follows."""
        held, self._held = self._held, ""
        return clean(held)


def one_line(text: str) -> str:
    """`clean`, and on a single line without tabs: a cell of a table, or one line of a log."""
    return clean(_BREAKS.sub(" ", text))
