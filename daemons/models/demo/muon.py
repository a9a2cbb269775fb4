"""The Muon optimizer for matrices: momentum, orthogonalised by a Newton-Schulz iteration.

After Keller Jordan's Muon (https://kellerjordan.github.io/posts/muon/), in float32, with matrices of equal shape
stacked, since many small products are slow on a CPU.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import Tensor, nn

_A, _B, _C = 3.4445, -4.7750, 2.0315


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Push all singular values of (n, rows, columns) toward 1."""
    wide = matrices.shape[1] > matrices.shape[2]
    x = matrices.transpose(1, 2) if wide else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    for _ in range(steps):
        gram = x.transpose(1, 2) @ x if x.shape[1] > x.shape[2] else x @ x.transpose(1, 2)
        mixed = _B * gram + _C * gram @ gram
        x = _A * x + (x @ mixed if x.shape[1] > x.shape[2] else mixed @ x)
    return x.transpose(1, 2) if wide else x


class Muon:
    """Steps all given matrices; the caller sets `rate` before each step."""

    def __init__(self, matrices: Iterable[nn.Parameter], *, momentum: float = 0.95, decay: float = 0.01) -> None:
        self.rate, self._momentum, self._decay = 0.0, momentum, decay
        self._groups: dict[torch.Size, list[nn.Parameter]] = defaultdict(list)
        for matrix in matrices:
            self._groups[matrix.shape].append(matrix)
        self._velocity = {shape: torch.zeros(len(group), *shape) for shape, group in self._groups.items()}

    def step(self) -> None:
        """One update from the gradients of the parameters, which must all be there."""
        with torch.no_grad():
            for shape, group in self._groups.items():
                self._step_group(shape, group)

    def _step_group(self, shape: torch.Size, group: list[nn.Parameter]) -> None:
        gradient = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
        velocity = self._velocity[shape].mul_(self._momentum).add_(gradient)
        update = orthogonalise(gradient + self._momentum * velocity) * max(1.0, shape[0] / shape[1]) ** 0.5
        for matrix, change in zip(group, update, strict=True):
            matrix.mul_(1 - self.rate * self._decay).sub_(change, alpha=self.rate)
