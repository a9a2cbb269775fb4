"""Which worker has computed which beginning of a prompt last: a chain of hashes, one per message or stretch of text.

Two prompts that begin alike share the first links of their chains; the longest shared link names the worker whose KV
cache is warmest.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b

from daemons.contracts.inference import Generation, Message

_STRETCH = 256
"""Characters of a plain prompt per link."""

_LONGEST_CHAIN = 64
_REMEMBERED_LINKS = 8192


def prefix_chain(request: Generation) -> tuple[bytes, ...]:
    """Links of a prompt, each 8 bytes, shortest prefix first. The rest of a prompt beyond 64 links does not count."""
    if request.messages is not None:
        pieces = [_text_of(message) for message in request.messages[:_LONGEST_CHAIN]]
    else:
        prompt = (request.prompt or "")[: _STRETCH * _LONGEST_CHAIN]
        pieces = [prompt[start : start + _STRETCH] for start in range(0, len(prompt), _STRETCH)]
    chain: list[bytes] = []
    link = b""
    for piece in pieces:
        link = blake2b(link + piece.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        chain.append(link)
    return tuple(chain)


def _text_of(message: Message) -> str:
    return "\0".join((message.role, message.name or "", message.text, str(message.tool_calls or "")))


class PrefixMemory:
    """Link -> worker that served it last; the least recently used links are forgotten."""

    def __init__(self) -> None:
        self._worker_of: OrderedDict[bytes, str] = OrderedDict()

    def record(self, chain: Sequence[bytes], worker_id: str) -> None:
        for link in chain:
            self._worker_of[link] = worker_id
            self._worker_of.move_to_end(link)
        while len(self._worker_of) > _REMEMBERED_LINKS:
            self._worker_of.popitem(last=False)

    def warmth(self, chain: Sequence[bytes], worker_id: str) -> int:
        """Links of the prompt that this worker served last; 0 when none."""
        for length in range(len(chain), 0, -1):
            if self._worker_of.get(chain[length - 1]) == worker_id:
                return length
        return 0
