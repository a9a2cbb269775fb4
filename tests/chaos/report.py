"""What a run has shown, for people and as JSON."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.chaos.audit import Finding

MOST_SHOWN = 5
"""Findings of one requirement that are printed in full; the rest are counted. JSON has all."""


@dataclass
class Report:
    """Figures of one run. `healthy_s`: from the last healing to a healthy fleet; None when it never was."""

    seed: int
    seconds: float
    outcomes: dict[str, Counter[str]]
    faults: Counter[str]
    skipped: int
    queens: int
    healthy_s: float | None
    not_kept: int
    texts_compared: int
    without_disks: str
    findings: list[Finding] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.findings

    def as_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "requests": {kind: dict(outcomes) for kind, outcomes in self.outcomes.items()},
            "faults": dict(self.faults),
            "faults_without_victim": self.skipped,
            "queens": self.queens,
            "healthy_s": self.healthy_s,
            "ends_not_kept": self.not_kept,
            "texts_compared": self.texts_compared,
            "without_full_disks": self.without_disks,
            "missed": [{"requirement": found.requirement, "evidence": found.evidence} for found in self.findings],
        }

    def lines(self) -> Iterator[str]:
        """The report for people."""
        total = sum(sum(outcomes.values()) for outcomes in self.outcomes.values())
        yield f"chaos: seed {self.seed}, {self.seconds:.0f} s, {total} requests, {sum(self.faults.values())} faults"
        yield "requests by kind and outcome"
        for kind, outcomes in sorted(self.outcomes.items()):
            shown = ", ".join(f"{outcome} {count}" for outcome, count in outcomes.most_common())
            yield f"  {kind:<14} {sum(outcomes.values()):>5}: {shown}"
        yield f"faults ({self.skipped} more found nobody to harm)"
        yield from (f"  {fault:<24} {count:>4}" for fault, count in sorted(self.faults.items()))
        if self.without_disks:
            yield f"  no full disks here: {self.without_disks}"
        yield f"queens: {self.queens}; texts compared with those of a quiet fleet: {self.texts_compared}"
        yield f"requests that history may lack or tell otherwise, because of a fault of its own: {self.not_kept}"
        healthy = f"{self.healthy_s:.1f} s after the last fault was healed" if self.healthy_s is not None else "never"
        yield f"fleet healthy: {healthy}"
        yield from self._missed()

    def _missed(self) -> Iterator[str]:
        if self.passed:
            yield "every requirement is met"
            return
        counts = Counter(found.requirement for found in self.findings)
        yield f"{len(self.findings)} times a requirement was missed:"
        for requirement, count in counts.most_common():
            yield f"* {requirement} ({count})"
            same = [found.evidence for found in self.findings if found.requirement == requirement]
            yield from (f"    {evidence}" for evidence in same[:MOST_SHOWN])
