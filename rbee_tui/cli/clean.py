"""What models, nodes and logs say, made safe for a terminal."""

import re

# ECMA-48: CSI sequences, OSC/DCS/PM/APC/SOS strings up to their terminator, two-byte escapes.
_ESCAPE_SEQUENCE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-Z\\^-~]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_BREAKS = re.compile(r"[\t\r\n]+")


def clean(text: str) -> str:
    r"""`text` without escape sequences and control characters; ``\n`` and ``\t`` stay.

    A sequence that is cut in two (tokens of a stream) loses its escape character, which is what makes it act.
    """
    return _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", text))


def one_line(text: str) -> str:
    """`clean`, and on a single line without tabs: a cell of a table, or one line of a log."""
    return clean(_BREAKS.sub(" ", text))
