"""Small trainable maps on frozen features.

`DisentangledNetwork` moves features of both modalities in the space they share; `TwoTowers` maps two kinds of
inputs into a space of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from clipbook.losses import ABOVE_0, check_number


def _check_widths(**widths: int) -> None:
    for name, width in widths.items():
        if isinstance(width, bool) or not isinstance(width, int) or width < 1:
            raise ValueError(f"{name} must be a positive int, got {width!r}")


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

    Called with (..., dim), returns (..., out). Raises ValueError for another width, or a bad argument; for an
    alpha that is not finite whenever it is set.
    Source: Cai et al. 2024 (arXiv 2311.16445), sec. 4.2. Defined in {ref}`augmented-prompts`.
    """

    def __init__(self, dim: int, hidden: int | None = None, out: int | None = None, alpha: float = 1.0):
        super().__init__()
        hidden, out = dim if hidden is None else hidden, dim if out is None else out
        _check_widths(dim=dim, hidden=hidden, out=out)
        self.dim, self.alpha = dim, alpha
        self.register_buffer("skip", torch.arange(out) * dim // out, persistent=False)
        self.linear = nn.Linear(dim, hidden)
        self.project = nn.Linear(hidden, out, bias=False)
        nn.init.zeros_(self.project.weight)

    @property
    def alpha(self) -> float:
        return self._alpha

    @alpha.setter
    def alpha(self, alpha: float) -> None:
        check_number("alpha", alpha)
        self._alpha = alpha

    def forward(self, z: Tensor) -> Tensor:
        if z.shape[-1] != self.dim:
            raise ValueError(f"z must be (..., {self.dim}), got {tuple(z.shape)}")
        kept = z if self.project.out_features == self.dim else z[..., self.skip]
        return kept + self.alpha * self.project(self.linear(nn.functional.silu(z)))


class TwoTowers(nn.Module):
    """CLIP in small: an image map and a text map into one space, and the logarithm of a scale.

    Each map is a perceptron with ReLUs between its layers; without hidden layers it is a linear projection, what
    CLIP puts on top of its frozen or trained towers. A few of them train side by side in seconds (`training.fit`),
    which is how the book repeats one experiment over seeds and temperatures.

    Args:
        image_dim, text_dim: widths of the inputs.
        out: width of the shared space.
        hidden: widths of the layers in between, the same for both maps.
        scale: the scale's first value, 1 / temperature; > 0. 14.3 is CLIP's.

    Called with image (..., image_dim) and text (..., text_dim); returns image and text features (..., out),
    un-normalised, and the scale, a scalar. Raises ValueError for other widths, or a bad argument.
    Defined in {ref}`causes-of-the-gap`.
    """

    def __init__(self, image_dim: int, text_dim: int, out: int, hidden: Sequence[int] = (), scale: float = 1 / 0.07):
        super().__init__()
        _check_widths(image_dim=image_dim, text_dim=text_dim, out=out)
        for width in hidden:
            _check_widths(hidden=width)
        check_number("scale", scale, ABOVE_0)
        self.image, self.text = (_perceptron([dim, *hidden, out]) for dim in (image_dim, text_dim))
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))

    def forward(self, image: Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for name, x, tower in (("image", image, self.image), ("text", text, self.text)):
            if x.shape[-1] != tower[0].in_features:
                raise ValueError(f"{name} must be (..., {tower[0].in_features}), got {tuple(x.shape)}")
        return self.image(image), self.text(text), self.log_scale.exp()


def _perceptron(widths: Sequence[int]) -> nn.Sequential:
    layers = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.ReLU())]
    return nn.Sequential(*layers[:-1])
