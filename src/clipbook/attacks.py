"""L-infinity attacks: the change to an image, within a budget per pixel, that does a classifier most harm.

All three take pixels in [0, 1] and a differentiable function from pixels to logits, in which normalisation, image
tower, head and class texts are the caller's: what is attacked is then all of it, and the budget means the same for
every model. Reading order: `pgd`, of which `fgsm` is a single step and `cw` the same steps on another loss.
Defined in {ref}`strength-and-robustness`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from clipbook.losses import check_number

Logits = Callable[[Tensor], Tensor]


def fgsm(model_logits: Logits, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Fast gradient sign method: one step of epsilon, each pixel in the direction that raises the cross-entropy.

    Exact for a linear model; for others the best answer to its linearisation at the image.

    Args: as `pgd`. Returns: images like `images`. Raises ValueError as `pgd`.
    Source: Goodfellow et al. 2015 (arXiv 1412.6572).
    """
    return pgd(model_logits, images, labels, epsilon, 1, step_size=epsilon, random_start=False)


def pgd(
    model_logits: Logits,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 20,
    *,
    step_size: float | None = None,
    random_start: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Projected gradient descent: small steps up the cross-entropy, each followed by a return into the budget.

    x <- project(x + step_size * sign(gradient)), where project keeps |x - image| <= epsilon and 0 <= x <= 1.

    Args:
        model_logits: pixels (n, ...) -> logits (n, classes), differentiable. Logits at the scale at which the
            model was trained: the cross-entropy of bare cosines hardly says which wrong class is near.
        images: (n, ...), floating, in [0, 1]: pixels, before any normalisation.
        labels: int64 (n,), the classes to be left.
        epsilon: largest change of a pixel value, in [0, 1]; 8/255, about 0.031, is usual for photographs.
        steps: gradient steps, >= 1.
        step_size: of each; default epsilon / 10, as published.
        random_start: begin at a point drawn uniformly from the budget, as published, not at the image.
        generator: CPU generator for that point.

    Returns: the last iterate, like `images`, detached. Raises ValueError for a bad argument, naming it, and for
    logits without a gradient or not finite.
    Source: Madry et al. 2018 (arXiv 1706.06083).
    """
    return _attack(_cross_entropy, model_logits, images, labels, epsilon, steps, step_size, random_start, generator)


def cw(
    model_logits: Logits,
    images: Tensor,
    labels: Tensor,
    epsilon: float,
    steps: int = 20,
    *,
    step_size: float | None = None,
    random_start: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The steps of `pgd` on Carlini and Wagner's margin, the best wrong logit minus the right one.

    The margin does not saturate where the cross-entropy of a sure model does. It is not cut off once the answer is
    wrong, as in the released code of CLAP, where the confidence asked for is never reached.

    Args, returns, raises: as `pgd`. Source: Carlini & Wagner 2017 (arXiv 1608.04644), their f6, with PGD.
    """
    return _attack(margin, model_logits, images, labels, epsilon, steps, step_size, random_start, generator)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Best wrong logit minus the right one, (n,): above 0 where the answer is wrong."""
    own = labels.to(logits.device)[:, None]
    return logits.scatter(1, own, -math.inf).amax(1) - logits.gather(1, own)[:, 0]


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(logits, labels, reduction="none")


def _attack(loss, model_logits, images, labels, epsilon, steps, step_size, random_start, generator) -> Tensor:
    _check(images, labels, epsilon, steps, step_size)
    step_size = epsilon / 10 if step_size is None else step_size
    images = images.detach()
    low, high = (images - epsilon).clamp(min=0), (images + epsilon).clamp(max=1)
    x = images
    if random_start:
        noise = torch.rand(images.shape, generator=generator, dtype=images.dtype).to(images.device)
        x = (images + (2 * noise - 1) * epsilon).clamp(low, high)
    for _ in range(steps):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            logits = model_logits(x)
            if logits.ndim != 2 or len(logits) != len(images) or logits.shape[1] < 2:
                raise ValueError(
                    f"model_logits must return ({len(images)}, classes), 2 classes or more, got {tuple(logits.shape)}"
                )
            if int(labels.max()) >= logits.shape[1]:
                top = logits.shape[1] - 1
                raise ValueError(f"labels must be in 0..{top}, as many as model_logits has, got {int(labels.max())}")
            if not bool(logits.isfinite().all()):  # their gradient has no sign: nothing would be attacked
                raise ValueError("model_logits must be finite, got NaN or infinity")
            gradient = None
            if logits.requires_grad:  # a sum: no image sees another's gradient
                total = loss(logits, labels.to(logits.device)).sum()
                (gradient,) = torch.autograd.grad(total, x, allow_unused=True)
            if gradient is None:
                raise ValueError("model_logits must be differentiable in the pixels, got logits without a gradient")
        x = (x.detach() + step_size * gradient.sign()).clamp(low, high)
    return x


def _check(images: Tensor, labels: Tensor, epsilon: float, steps: int, step_size: float | None) -> None:
    check_number("epsilon", epsilon, 0, 1)
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps must be a positive int, got {steps!r}")
    if step_size is not None:
        check_number("step_size", step_size, 0)
    if not isinstance(images, Tensor) or not images.is_floating_point() or images.ndim < 2 or not len(images):
        got = f"{images.dtype} {tuple(images.shape)}" if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"images must be a floating-point tensor (n, ...) with n > 0, got {got}")
    if not bool(((images >= 0) & (images <= 1)).all()):
        raise ValueError(
            f"images must be pixels in [0, 1], before normalisation, got values from {float(images.min()):.3g} to "
            f"{float(images.max()):.3g}"
        )
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != (len(images),):
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be an int64 tensor ({len(images)},), one for each image, got {got}")
    if int(labels.min()) < 0:
        raise ValueError(f"labels must be at least 0, got {int(labels.min())}")
