"""Small trainable maps on frozen features. Defined in {ref}`augmented-prompts`."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class DisentangledNetwork(nn.Module):
    """A residual head: f(z) = z + alpha * V (W silu(z) + b).

    V is zero at first, so an untrained head changes nothing, and training departs from the model as it is.
    `alpha` is an attribute, 1 while training: afterwards it sets how far the head may pull, from 0 (the frozen
    model) on, and can be changed at any time. It is no parameter and is not learned.

    Args:
        dim: of the features, which enter un-normalised: the residual then keeps each feature's own length.
        hidden: width of the layer between W and V; default dim.
        out: of the result; default dim. Another width repeats or leaves out entries of z in the sum
            (nearest neighbour, as the released code does).
        alpha: strength; finite.

    Called with (..., dim), returns (..., out). Raises ValueError for another width, or a bad argument.
    Source: Cai et al. 2024 (arXiv 2311.16445), sec. 4.2.
    """

    def __init__(self, dim: int, hidden: int | None = None, out: int | None = None, alpha: float = 1.0):
        super().__init__()
        hidden, out = dim if hidden is None else hidden, dim if out is None else out
        for name, width in (("dim", dim), ("hidden", hidden), ("out", out)):
            if isinstance(width, bool) or not isinstance(width, int) or width < 1:
                raise ValueError(f"{name} must be a positive int, got {width!r}")
        if not math.isfinite(alpha):
            raise ValueError(f"alpha must be finite, got {alpha!r}")
        self.dim, self.alpha = dim, alpha
        self.register_buffer("skip", torch.arange(out) * dim // out, persistent=False)
        self.linear = nn.Linear(dim, hidden)
        self.project = nn.Linear(hidden, out, bias=False)
        nn.init.zeros_(self.project.weight)

    def forward(self, z: Tensor) -> Tensor:
        if z.shape[-1] != self.dim:
            raise ValueError(f"z must be (..., {self.dim}), got {tuple(z.shape)}")
        kept = z if self.project.out_features == self.dim else z[..., self.skip]
        return kept + self.alpha * self.project(self.linear(nn.functional.silu(z)))
