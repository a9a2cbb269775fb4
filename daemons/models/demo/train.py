"""Train the demo model: `python -m daemons.models.demo.train --out DIR` (needs the extra `demo-model`).

Text, tokenizer, weights and order of batches follow from one seed. Prints its progress; writes `tokenizer.model`,
`checkpoint.pt` and `demo.gguf` into DIR.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from daemons.models.demo.corpus import Document, documents
from daemons.models.demo.export import export_checkpoint
from daemons.models.demo.muon import Muon
from daemons.models.demo.network import DemoNetwork, Shape
from daemons.models.demo.tokenizer import DemoTokenizer, train_tokenizer

WINDOW, ROWS = 512, 8
IGNORE = -100
PEAK_MATRIX, PEAK_OTHER = 0.02, 4e-3
STEPS = 2200
"""About 25 minutes on two free cores."""


def windows(stream: Iterator[Document], tokenizer: DemoTokenizer) -> Iterator[tuple[list[int], list[int]]]:
    """Pack documents into windows of WINDOW inputs and targets; none is cut, the rest of a window is ignored padding."""
    ids: list[int] = []
    learn: list[bool] = []
    for document in stream:
        new_ids, new_learn = tokenizer.encode_document(document)
        if len(new_ids) > WINDOW + 1:
            continue
        if len(ids) + len(new_ids) > WINDOW + 1:
            yield _window(ids, learn)
            ids, learn = [], []
        ids += new_ids
        learn += new_learn


def _window(ids: list[int], learn: list[bool]) -> tuple[list[int], list[int]]:
    padding = WINDOW + 1 - len(ids)
    targets = [token if wanted else IGNORE for token, wanted in zip(ids, learn, strict=True)] + [IGNORE] * padding
    return (ids + [0] * padding)[:-1], targets[1:]


def batches(seed: int, tokenizer: DemoTokenizer) -> Iterator[tuple[Tensor, Tensor]]:
    """Endless (inputs, targets), each of shape (ROWS, WINDOW)."""
    packed = windows(documents(seed), tokenizer)
    while True:
        rows = list(islice(packed, ROWS))
        yield torch.tensor([row[0] for row in rows]), torch.tensor([row[1] for row in rows])


def loss_of(network: DemoNetwork, inputs: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy over the learned targets; scores are computed only where they count."""
    hidden = network(inputs)
    wanted = targets != IGNORE
    return functional.cross_entropy(network.logits(hidden[wanted]), targets[wanted])


def schedule(step: int, steps: int) -> float:
    """Share of the peak rate: short warm-up, plateau, linear decay over the second half."""
    return min(1.0, (step + 1) / 60, max(0.02, (steps - step) / (steps * 0.5)))


@torch.no_grad()
def validate(network: DemoNetwork, batch: tuple[Tensor, Tensor]) -> float:
    """Loss on text that training does not see."""
    return float(loss_of(network, *batch))


def fit(network: DemoNetwork, tokenizer: DemoTokenizer, *, steps: int, seed: int) -> None:
    """Run the whole training in place, printing a line each 50 steps."""
    matrices = [p for p in network.blocks.parameters() if p.ndim == 2]
    others = [p for p in network.parameters() if not any(p is matrix for matrix in matrices)]
    muon, adam = Muon(matrices), torch.optim.AdamW(others, lr=PEAK_OTHER, betas=(0.9, 0.98), weight_decay=0.0)
    source, held_out = batches(seed, tokenizer), next(batches(seed + 1_000_003, tokenizer))
    begin = time.monotonic()
    for step in range(steps):
        share = schedule(step, steps)
        muon.rate, adam.param_groups[0]["lr"] = PEAK_MATRIX * share, PEAK_OTHER * share
        loss = loss_of(network, *next(source))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        muon.step()
        adam.step()
        network.zero_grad(set_to_none=True)
        if step % 50 == 0 or step == steps - 1:
            spent = time.monotonic() - begin
            print(f"step {step} of {steps}  loss {float(loss.detach()):.3f}  held out {validate(network, held_out):.3f}  {spent:.0f} s", flush=True)


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
