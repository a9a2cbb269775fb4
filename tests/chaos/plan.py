"""What will happen, from a seed alone: which faults when, and how the clients behave. Pure."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

NODES: Final = ("local", "attic", "shed")
"""`local` is the queen's own state folder."""


class Fault(StrEnum):
    """One kind of trouble. All but those of the queen happen on a node."""

    KILL_WORKER = "kill worker"
    FREEZE_WORKER = "freeze worker"
    KILL_HIVE = "kill hive"
    FREEZE_HIVE = "freeze hive"
    TERM_HIVE = "term hive"
    RESTART_HIVE = "restart hive"
    CORRUPT_HIVE = "corrupt hive database"
    TRUNCATE_HIVE_WAL = "truncate hive wal"
    LOSE_HIVE_RUN_FILE = "lose hive run file"
    LOSE_WORKER_RUN_FILES = "lose worker run files"
    FILL_DISK = "fill disk"
    KILL_QUEEN = "kill queen"
    FREEZE_QUEEN = "freeze queen"
    TERM_QUEEN = "term queen"
    RESTART_QUEEN = "restart queen"
    CORRUPT_QUEEN = "corrupt queen database"
    TRUNCATE_QUEEN_WAL = "truncate queen wal"
    LOSE_QUEEN_RUN_FILE = "lose queen run file"


OF_THE_QUEEN: Final = frozenset(fault for fault in Fault if "queen" in fault)

HOLD_S: Final[dict[Fault, tuple[float, float]]] = {
    Fault.FREEZE_WORKER: (0.5, 12.0),
    Fault.FREEZE_HIVE: (0.5, 12.0),
    Fault.FREEZE_QUEEN: (0.3, 5.0),
    Fault.FILL_DISK: (2.0, 6.0),
}
"""How long a fault lasts before it is healed, in seconds."""

AWAY_S: Final = (0.2, 2.5)
"""The other faults are over at once, and so long nobody comes to start anything again."""

WEIGHTS: Final[dict[Fault, int]] = {
    Fault.KILL_WORKER: 4,
    Fault.FREEZE_WORKER: 3,
    Fault.KILL_HIVE: 3,
    Fault.FREEZE_HIVE: 2,
    Fault.RESTART_HIVE: 2,
    Fault.KILL_QUEEN: 2,
    Fault.FREEZE_QUEEN: 2,
    Fault.FILL_DISK: 2,
}
"""How often a fault comes, against 1 for the others."""


class Kind(StrEnum):
    """How a client asks, and what it does then."""

    ATTACHED = "attached"
    VANISH = "vanish"
    DETACHED = "detached"
    CANCEL = "cancel"
    DEADLINE = "deadline"
    OPENAI_STREAM = "openai stream"
    OPENAI_WHOLE = "openai whole"
    OPENAI_VANISH = "openai vanish"
    KEEPER = "keeper"


@dataclass(frozen=True, slots=True)
class Strike:
    """One fault: `at_s` after the start, on `node`, over after `hold_s`. `draw` seeds what it chooses itself."""

    at_s: float
    fault: Fault
    node: str
    hold_s: float
    draw: int

    def __str__(self) -> str:
        where = "" if self.fault in OF_THE_QUEEN else f" on {self.node}"
        return f"{self.at_s:.1f} s: {self.fault}{where}, {self.hold_s:.1f} s"


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One request of one client. `act_after` tokens it vanishes, cancels, or drops its connection to resume later.

    `node` None leaves the choice to the queen. `patience_s` is the time limit that is asked for, or, where no tokens
    are seen, when the client leaves. `pause_s` is the client's rest before its next request.
    """

    kind: Kind
    prompt: int
    max_tokens: int
    node: str | None
    act_after: int
    patience_s: float
    pause_s: float


def strikes(seed: int, seconds: float, faults: Sequence[Fault], every_s: float) -> list[Strike]:
    """Faults at random times between a start and an end without any; each comes once before others come again.

    Raises ValueError when there is no time for any.
    """
    if not faults:
        return []
    calm = min(5.0, seconds / 10)
    count = int((seconds - 2 * calm) / every_s)
    if count < 1:
        raise ValueError(f"{seconds:g} s are too short for a fault each {every_s:g} s")
    draw = random.Random(f"strikes {seed}")
    kinds = draw.sample(list(faults), min(len(faults), count))
    kinds += draw.choices(list(faults), [WEIGHTS.get(fault, 1) for fault in faults], k=count - len(kinds))
    times = sorted(draw.uniform(calm, seconds - calm) for _ in kinds)
    return [_strike(at_s, fault, draw) for at_s, fault in zip(times, kinds, strict=True)]


def _strike(at_s: float, fault: Fault, draw: random.Random) -> Strike:
    node = NODES[0] if fault in OF_THE_QUEEN else draw.choice(NODES)
    hold_s = draw.uniform(*HOLD_S.get(fault, AWAY_S))
    return Strike(round(at_s, 2), fault, node, round(hold_s, 2), draw.getrandbits(32))


MOST_TOKENS: Final = 1000
"""Long enough to be cut off."""

CUT_SHORT: Final = frozenset({Kind.VANISH, Kind.CANCEL, Kind.DEADLINE, Kind.OPENAI_VANISH})

_PLANS: Final[dict[Kind, int]] = {
    Kind.ATTACHED: 4,
    Kind.VANISH: 2,
    Kind.DETACHED: 4,
    Kind.CANCEL: 2,
    Kind.DEADLINE: 1,
    Kind.OPENAI_STREAM: 2,
    Kind.OPENAI_WHOLE: 2,
    Kind.OPENAI_VANISH: 1,
}


def behaviours(seed: int, client: int, prompts: int) -> Iterator[Behaviour]:
    """What client number `client` does, without end. Number 0 is a person with a keeper."""
    draw = random.Random(f"client {client} of {seed}")
    while True:
        yield _behaviour(Kind.KEEPER if client == 0 else draw.choices(*_weighted())[0], prompts, draw)


def _weighted() -> tuple[list[Kind], list[int]]:
    return list(_PLANS), list(_PLANS.values())


def _behaviour(kind: Kind, prompts: int, draw: random.Random) -> Behaviour:
    tokens = draw.choice((20, 60, 200, 600))
    if kind in CUT_SHORT:
        tokens = MOST_TOKENS
    return Behaviour(
        kind=kind,
        prompt=draw.randrange(prompts),
        max_tokens=tokens,
        node=draw.choice((None, *NODES)),
        act_after=draw.randrange(0, tokens // 2),
        patience_s=round(draw.uniform(0.05, 1.5), 3),
        pause_s=round(draw.uniform(0.05, 0.6) if kind is not Kind.KEEPER else draw.uniform(2.0, 6.0), 3),
    )
