"""Train the demo model: `python -m daemons.models.demo.train --out DIR` (needs the extra `demo-model`).

On a busy machine set OMP_WAIT_POLICY=passive: threads that spin for each other then waste most of it.

Text, tokenizer, weights and order of batches follow from one seed. Prints its progress; writes `tokenizer.model`,
`checkpoint.pt` and `demo.gguf` into DIR.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from daemons.models.demo.corpus import Document, documents
from daemons.models.demo.export import export_checkpoint
from daemons.models.demo.muon import Muon
from daemons.models.demo.network import DemoNetwork, Shape
from daemons.models.demo.tokenizer import DemoTokenizer, train_tokenizer

WINDOW, LONG_WINDOW, LONG_EVERY = 256, 512, 4
BATCH_TOKENS, WAITING = 4096, 24
IGNORE = -100
PEAK_MATRIX, PEAK_OTHER = 0.02, 4e-3
STEPS = 1000
"""About 10 minutes on two free cores."""

Encoded = tuple[list[int], list[bool]]


class Packer:
    """Packs whole documents into windows, so that little of a window is padding.

    Short windows are cheap, and most documents fit; each fourth batch has long windows, led by the longest documents
    waiting, so that the model meets distant positions too.
    """

    def __init__(self, stream: Iterator[Document], tokenizer: DemoTokenizer) -> None:
        self._encoded = (tokenizer.encode_document(document) for document in stream)
        self._waiting: list[Encoded] = []

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and targets of one step, both of shape (rows, window)."""
        long = step % LONG_EVERY == LONG_EVERY - 1
        size = LONG_WINDOW if long else WINDOW
        rows = [self._window(size, longest_first=long) for _ in range(BATCH_TOKENS // size)]
        return torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])

    def _window(self, size: int, *, longest_first: bool) -> tuple[list[int], list[int]]:
        while sum(len(ids) <= WINDOW + 1 for ids, _ in self._waiting) < WAITING:
            self._waiting.append(next(self._encoded))
        order = sorted(self._waiting, key=lambda one: -len(one[0])) if longest_first else list(self._waiting)
        ids: list[int] = []
        learn: list[bool] = []
        for document in order:
            if len(ids) + len(document[0]) <= size + 1:
                self._waiting.remove(document)
                ids += document[0]
                learn += document[1]
        self._waiting = [one for one in self._waiting if len(one[0]) <= LONG_WINDOW + 1][-2 * WAITING :]
        return _shift(ids, learn, size)


def _shift(ids: list[int], learn: list[bool], size: int) -> tuple[list[int], list[int]]:
    padding = size + 1 - len(ids)
    targets = [token if wanted else IGNORE for token, wanted in zip(ids, learn, strict=True)] + [IGNORE] * padding
    return (ids + [0] * padding)[:-1], targets[1:]


def loss_of(network: DemoNetwork, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the learned targets; scores are computed only where they count."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        hidden = network(inputs)
        wanted = targets != IGNORE
        scores = network.logits(hidden[wanted])
    return functional.cross_entropy(scores.float(), targets[wanted])


def schedule(step: int, steps: int) -> float:
    """Share of the peak rate: short warm-up, plateau, linear decay over the second half."""
    return min(1.0, (step + 1) / 60, max(0.02, (steps - step) / (steps * 0.5)))


def validate(network: DemoNetwork, batch: tuple[Tensor, Tensor]) -> float:
    """Loss on text that training does not see."""
    with torch.no_grad():
        return float(loss_of(network, *batch))


def fit(network: DemoNetwork, tokenizer: DemoTokenizer, *, steps: int, seed: int) -> None:
    """Run the whole training in place, printing a line each 50 steps."""
    matrices = [p for p in network.blocks.parameters() if p.ndim == 2]
    others = [p for p in network.parameters() if not any(p is matrix for matrix in matrices)]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, lr=PEAK_OTHER, betas=(0.9, 0.98), weight_decay=0.0)
    source = Packer(documents(seed), tokenizer)
    held_out = Packer(documents(seed + 1_000_003), tokenizer).batch(0)
    begin = time.monotonic()
    for step in range(steps):
        share = schedule(step, steps)
        muon.rate, adam.param_groups[0]["lr"] = PEAK_MATRIX * share, PEAK_OTHER * share
        loss = loss_of(network, *source.batch(step))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        muon.step()
        adam.step()
        network.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            spent = time.monotonic() - begin
            losses = f"loss {float(loss.detach()):.3f}  held out {validate(network, held_out):.3f}"
            print(f"step {step} of {steps}  {losses}  {spent:.0f} s", flush=True)


def train(out: Path, *, steps: int, seed: int, threads: int) -> Path:
    """Make tokenizer, weights and `demo.gguf` in `out`; returns the path of the GGUF file."""
    torch.manual_seed(seed)
    torch.set_num_threads(threads)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = DemoTokenizer(train_tokenizer(out / "tokenizer", seed=seed))
    network = DemoNetwork(Shape())
    print(f"{sum(p.numel() for p in network.parameters()):,} parameters", flush=True)
    fit(network, tokenizer, steps=steps, seed=seed)
    torch.save(network.state_dict(), out / "checkpoint.pt")
    return export_checkpoint(out, out / "demo.gguf", "q8_0")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train rbee's demo model.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    print(train(arguments.out, steps=arguments.steps, seed=arguments.seed, threads=arguments.threads))


if __name__ == "__main__":
    main()
