"""What the measured figures must be, in one table, and which of them are not."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Requirement:
    """A bound on the figure called `title`, which `part` of the bench measures."""

    part: str
    title: str
    bound: float
    at_most: bool = False

    def holds(self, value: float) -> bool:
        """Whether the figure is within the bound; no number (NaN) is not."""
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self) -> str:
        return f"required: {'at most' if self.at_most else 'at least'} {self.bound:g}"


REQUIREMENTS = (
    Requirement("worker", "worker / llama-server, 1 stream", 0.95),
    Requirement("worker", "worker / llama-server, 4 streams", 0.95),
    Requirement("worker", "worker / llama-server, 8 streams", 0.95),
    Requirement("worker", "worker / packaged server, 8 streams", 1.8),
    Requirement("relay", "keeper through the queen / worker, 8 streams", 0.92),
    Requirement("relay", "ms added to the first token, 1 stream", 8.0, at_most=True),
    Requirement("prefix", "first / second request with a shared prefix, ms to first token", 5.0),
    Requirement("cancel", "ms from client gone to free slot, beyond one decode step", 50.0, at_most=True),
)


def of_title(title: str) -> Requirement | None:
    """The requirement on a figure, if there is one."""
    return next((row for row in REQUIREMENTS if row.title == title), None)


def missed(part: str, figures: Mapping[str, float]) -> list[str]:
    """What `part` should have reached and did not, figures that it did not even measure included."""
    return [
        f"{row.title}: {figures[row.title]:.2f} ({row})" if row.title in figures else f"{row.title}: not measured"
        for row in REQUIREMENTS
        if row.part == part and not (row.title in figures and row.holds(figures[row.title]))
    ]
