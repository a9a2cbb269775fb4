"""The demo model's network: a small Llama in PyTorch, with weights in the layout that llama.cpp reads.

Rotary positions turn interleaved pairs (2i, 2i+1), as llama.cpp's `llama` graph does, so Q and K need no permutation.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """Sizes of the network. Every side is a multiple of 32, the block length of Q8_0 and Q4_0."""

    vocabulary: int = 2048
    width: int = 192
    layers: int = 6
    heads: int = 6
    kv_heads: int = 3
    hidden: int = 512
    context: int = 2048
    rope_base: float = 10_000.0
    epsilon: float = 1e-5

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.width // self.heads


def rotation(shape: Shape, length: int) -> Tensor:
    """Rotary factors as complex numbers, shape (length, head_width / 2)."""
    exponents = torch.arange(0, shape.head_width, 2, dtype=torch.float32) / shape.head_width
    angles = torch.outer(torch.arange(length, dtype=torch.float32), shape.rope_base**-exponents)
    return torch.polar(torch.ones_like(angles), angles)


def _rotate(heads: Tensor, factors: Tensor) -> Tensor:
    """Turn (batch, time, heads, head_width) by position; pairs are neighbours in the last axis."""
    pairs = torch.view_as_complex(heads.reshape(*heads.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * factors[:, None, :]).flatten(3)


class Attention(nn.Module):
    """Causal self-attention with grouped keys and values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.query = nn.Linear(shape.width, shape.width, bias=False)
        self.key = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.value = nn.Linear(shape.width, shape.kv_heads * shape.head_width, bias=False)
        self.output = nn.Linear(shape.width, shape.width, bias=False)

    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        """(batch, time, width) -> the same."""
        batch, time, width = x.shape
        split = (batch, time, -1, self.shape.head_width)
        query = _rotate(self.query(x).view(split), factors).transpose(1, 2)
        key = _rotate(self.key(x).view(split), factors).transpose(1, 2)
        value = self.value(x).view(split).transpose(1, 2)
        group = self.shape.heads // self.shape.kv_heads
        key, value = key.repeat_interleave(group, 1), value.repeat_interleave(group, 1)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        out: Tensor = self.output(mixed.transpose(1, 2).reshape(batch, time, width))
        return out


class Block(nn.Module):
    """One layer: attention and a SwiGLU, each behind an RMSNorm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.attention = Attention(shape)
        self.feed_norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self.gate = nn.Linear(shape.width, shape.hidden, bias=False)
        self.up = nn.Linear(shape.width, shape.hidden, bias=False)
        self.down = nn.Linear(shape.hidden, shape.width, bias=False)

    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        """(batch, time, width) -> the same."""
        x = x + self.attention(self.attention_norm(x), factors)
        y = self.feed_norm(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class DemoNetwork(nn.Module):
    """Llama with tied embedding."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocabulary, shape.width)
        self.blocks = nn.ModuleList(Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, eps=shape.epsilon)
        self._initialise()

    def _initialise(self) -> None:
        for name, parameter in self.named_parameters():
            if parameter.ndim == 2:
                residual = name.endswith(("output.weight", "down.weight"))
                nn.init.normal_(parameter, std=0.02 / (2 * self.shape.layers) ** 0.5 if residual else 0.02)

    def forward(self, ids: Tensor) -> Tensor:
        """Ids (batch, time) -> normed hidden states (batch, time, width)."""
        factors = rotation(self.shape, ids.shape[1])
        x = self.embedding(ids)
        for block in self.blocks:
            x = block(x, factors)
        out: Tensor = self.norm(x)
        return out

    def logits(self, hidden: Tensor) -> Tensor:
        """Hidden states (..., width) -> scores over the vocabulary (..., vocabulary)."""
        return functional.linear(hidden, self.embedding.weight)
