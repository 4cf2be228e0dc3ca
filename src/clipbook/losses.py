"""Every objective of the book, a function each. All take un-normalised features and normalise inside.

Reading order: `unit` and `check_features`, which everything shares; `clip_loss`, the objective; `nt_xent` and
`clap_loss`, for views of one kind; `negclip_loss` and `hcl_loss`, which choose and weigh negatives; then the two
properties that they all trade, `alignment` and `uniformity`, and `cua_loss` and `cuaxu_loss`, which add them to the
objective. Where a docstring says "stacks", leading dimensions hold batches side by side, of several seeds or
settings, and the result has a value for each.
"""

from __future__ import annotations

import math
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_BLOCK = 4_000_000  # cosines that exist at a time in the uniformities
ABOVE_0 = math.ulp(0.0)  # the least number above 0


def unit(x: Tensor) -> Tensor:
    """Rows at length 1, (..., d); half precision becomes float32, because sums over d lose too much in it."""
    return F.normalize(x.float() if x.dtype in (torch.float16, torch.bfloat16) else x, dim=-1)


def check_features(n_min: int = 1, same_shape: bool = True, **features: Tensor) -> None:
    """Raises ValueError unless every named tensor is a finite floating (n, d) with n >= n_min, d >= 1.

    Args: same_shape: all must have the same n and d; otherwise only the same d.
    """
    first_name, first = next(iter(features.items()))
    for name, x in features.items():
        if not isinstance(x, Tensor) or x.ndim != 2 or not x.is_floating_point() or x.shape[1] == 0:
            got = f"{x.dtype} {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name} must be a floating-point tensor (n, d), got {got}")
        if len(x) < n_min:
            raise ValueError(f"{name} must have at least {n_min} row{'s' * (n_min > 1)}, got {len(x)}")
        if x.shape[1] != first.shape[1] or (same_shape and len(x) != len(first)):
            what = "shapes" if same_shape else "widths"
            got = f"{tuple(first.shape)} and {tuple(x.shape)}"
            raise ValueError(f"{first_name} and {name} must have matching {what}, got {got}")
        finite = torch.isfinite(x)
        if not bool(finite.all()):
            row = int((~finite).any(1).nonzero()[0])
            raise ValueError(f"{name} must be finite, got NaN or infinity in row {row}")


def check_number(
    name: str, value: float | Tensor, low: float = -math.inf, high: float = math.inf, *, stacked: bool = False
) -> None:
    """Raises ValueError unless value is a finite number in low..high; stacked: or a tensor of any number of them."""
    usable = isinstance(value, Tensor) and not (value.is_complex() or value.dtype == torch.bool)
    if isinstance(value, bool) or not (isinstance(value, Real) or (usable and (stacked or value.ndim == 0))):
        got = f"a tensor {tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else repr(value)
        raise ValueError(f"{name} must be a number, got {got}")
    numbers = torch.as_tensor(value, dtype=torch.float64).detach().flatten()
    wrong = numbers[~(numbers.isfinite() & (numbers >= low) & (numbers <= high))]
    if len(wrong):
        expected = {ABOVE_0: "finite and above 0", -math.inf: "finite"}.get(low, f"finite and at least {low:g}")
        expected = f"in [{low:g}, {high:g}]" if high < math.inf else expected
        raise ValueError(f"{name} must be {expected}, got {float(wrong[0]):g}")


def _check_per_batch(name: str, value: float | Tensor, like: Tensor, low: float = ABOVE_0) -> None:
    """A number, or one for each of a stack's batches, (...)."""
    check_number(name, value, low, stacked=True)
    ours, theirs = (tuple(value.shape) if isinstance(value, Tensor) else ()), tuple(like.shape[:-2])
    if len(ours) > len(theirs) or any(n not in (1, m) for n, m in zip(ours[::-1], theirs[::-1])):
        raise ValueError(f"{name} must be one number, or one for each batch, {theirs}, got {ours}")


def _per_batch(name: str, value: float | Tensor, like: Tensor) -> Tensor:
    """A positive number, or one for each of a stack's batches, as (..., 1, 1) beside its logits."""
    _check_per_batch(name, value, like)
    if not isinstance(value, Tensor):  # a plain number takes the features' precision
        value = torch.as_tensor(value, dtype=like.dtype)
    return value.to(like.device)[..., None, None]


def clip_loss(image: Tensor, text: Tensor, scale: float | Tensor) -> Tensor:
    """CLIP's loss: find your caption among the batch's captions, and your image among its images.

    logits_ij = scale * cos(image_i, text_j); the mean of the cross-entropies over rows (image to text)
    and over columns (text to image), the matched pair on the diagonal being the right class.

    Args:
        image, text: matched rows, (n, d), or stacks of batches (..., n, d); normalised here.
        scale: multiplies the cosines, 1 / temperature; > 0. For stacks also one for each, (...). A tensor stays
            in the graph: it can be learned.

    Returns: scalar, in nats, or (...) for stacks; log n is chance. Raises ValueError unless n >= 2, shapes match,
    all is finite.
    Source: Radford et al. 2021 (arXiv 2103.00020), figure 3. Defined in {ref}`contrastive-pretraining`.
    """
    check_stacks(2, image=image, text=text)
    x, y = unit(image), unit(text)
    logits = _per_batch("scale", scale, x) * (x @ y.mT)
    matched = logits.diagonal(dim1=-2, dim2=-1)
    return ((logits.logsumexp(-1) + logits.logsumexp(-2)) / 2 - matched).mean(-1)


def nt_xent(a: Tensor, b: Tensor, temperature: float | Tensor) -> Tensor:
    """Normalised-temperature cross-entropy over two views of a batch.

    Every one of the 2n views is an anchor; its other view is the positive and the remaining 2n - 2 are
    negatives, those of its own kind included.

    Args:
        a, b: the two views, (n, d), or stacks of batches (..., n, d); normalised here.
        temperature: divides the cosines; > 0. For stacks also one for each, (...).

    Returns: scalar, in nats, or (...) for stacks; log(2n - 1) is chance. Raises ValueError unless n >= 2,
    shapes match, all is finite and the temperature above 0.
    Source: Chen et al. 2020 (arXiv 2002.05709), eq. 1. Defined in {ref}`augmented-prompts`.
    """
    check_stacks(2, a=a, b=b)
    views = unit(torch.cat([a, b], -2))
    logits = views @ views.mT / _per_batch("temperature", temperature, views)
    n = a.shape[-2]
    itself = torch.eye(2 * n, dtype=torch.bool, device=a.device)
    logits = logits.masked_fill(itself, -math.inf)
    index = torch.arange(2 * n, device=a.device)
    return (logits.logsumexp(-1) - logits[..., index, (index + n) % (2 * n)]).mean(-1)


def clap_loss(
    prompt: Tensor,
    augmented: Tensor,
    content: Tensor,
    temperature: float | Tensor = 0.5,
    content_temperature: float | Tensor = 1.0,
    weight: float | Tensor = 1.0,
) -> Tensor:
    """CLAP's loss: two wordings of a class agree, and the second agrees with the bare name of the class.

    nt_xent(prompt, augmented; temperature) + weight * nt_xent(augmented, content; content_temperature), all
    three after the head. A batch holds one prompt per class: two of one class would count as negatives.

    Args:
        prompt: features of prompts full of style, (n, d), or stacks (..., n, d); normalised here.
        augmented: of the same prompts with style deleted, reordered or drowned in noise.
        content: of the bare class names.
        temperature, content_temperature: > 0; weight: >= 0. For stacks also one for each, (...).

    Returns: scalar, in nats, or (...). Raises ValueError as `nt_xent`, and for a weight below 0.
    Source: Cai et al. 2024 (arXiv 2311.16445), eq. 6. Defined in {ref}`augmented-prompts`.
    """
    check_stacks(2, prompt=prompt, augmented=augmented, content=content)
    _check_per_batch("content_temperature", content_temperature, content)
    _check_per_batch("weight", weight, content, low=0)
    weight = weight.to(content.device) if isinstance(weight, Tensor) else weight
    attract = nt_xent(augmented, content, content_temperature)
    return nt_xent(prompt, augmented, temperature) + weight * attract


def check_stacks(n_min: int, **features: Tensor) -> None:
    """`check_features` for (..., n, d): the same, and equal shapes in front."""
    first_name, first = next(iter(features.items()))
    for name, x in features.items():
        if not isinstance(x, Tensor) or x.ndim < 2:
            got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{name} must be a tensor (..., n, d), got {got}")
        if x.shape != first.shape:
            shapes = f"{tuple(first.shape)} and {tuple(x.shape)}"
            raise ValueError(f"{first_name} and {name} must have matching shapes, got {shapes}")
        if x.shape[-2] < n_min:
            raise ValueError(f"{name} must have at least {n_min} row{'s' * (n_min > 1)}, got {x.shape[-2]}")
    check_features(1, **{name: x.flatten(0, -2) for name, x in features.items()})


def negclip_loss(image: Tensor, text: Tensor, negatives: Tensor | None, scale: float | Tensor) -> Tensor:
    """CLIP's loss with captions that nobody wrote: every image must also avoid the negatives of the whole batch.

    They are further texts in the image-to-text direction only: no image belongs to them, so that they have no row in
    the other one.

    Args:
        image, text: matched rows, (n, d), or stacks (..., n, d); normalised here.
        negatives: features of false captions, (m, d) or (..., m, d), any number of them; normalised here. None is
            `clip_loss`.
        scale: as in `clip_loss`.

    Returns: scalar, in nats, or (...): the mean of both directions. Raises ValueError as `clip_loss`, and for
    negatives of another width.
    Source: Yuksekgonul et al. 2023 (arXiv 2210.01936), sec. 4. Defined in {ref}`negative-captions`.
    """
    if negatives is None:
        return clip_loss(image, text, scale)
    check_stacks(2, image=image, text=text)
    if not isinstance(negatives, Tensor) or negatives.ndim != image.ndim or negatives.shape[-1] != image.shape[-1]:
        got = tuple(negatives.shape) if isinstance(negatives, Tensor) else type(negatives).__name__
        raise ValueError(f"negatives must be a tensor (..., m, {image.shape[-1]}), got {got}")
    check_stacks(1, negatives=negatives)
    x, y = unit(image), unit(text)
    logits = _per_batch("scale", scale, x) * (x @ torch.cat([y, unit(negatives)], -2).mT)
    true = logits[..., : x.shape[-2]]
    matched = true.diagonal(dim1=-2, dim2=-1)
    return ((logits.logsumexp(-1) + true.logsumexp(-2)) / 2 - matched).mean(-1)


def hcl_loss(a: Tensor, b: Tensor, temperature: float = 0.5, beta: float = 1.0, tau_plus: float = 0.1) -> Tensor:
    """`nt_xent` with negatives that are weighed by hardness and debiased.

    With s the cosines, t the temperature and N = 2n - 2 negatives of an anchor, their sum is replaced by

        (N * sum e^((1 + beta) s / t) / sum e^(beta s / t) - tau_plus * N * e^(s_positive / t)) / (1 - tau_plus),

    at least N e^(-1 / t): negatives weigh e^(beta s / t) each, and the share tau_plus of them that really are of the
    anchor's class is taken out.

    Args:
        a, b: the two views, (n, d), or stacks (..., n, d); normalised here.
        temperature: > 0. beta: how much hard negatives count, >= 0. tau_plus: share of false negatives, in [0, 1).

    Returns: scalar, in nats, or (...); `nt_xent` at beta = tau_plus = 0. Raises ValueError as `nt_xent`, and for
    settings that are no numbers or out of range.
    Source: Robinson et al. 2021 (arXiv 2010.04592), eq. 4 (the pseudo-code there has another denominator). Defined in
    {ref}`weighing-negatives`.
    """
    check_stacks(2, a=a, b=b)
    settings = {"temperature": temperature, "beta": beta, "tau_plus": tau_plus}
    for name, value in settings.items():
        check_number(name, value, ABOVE_0 if name == "temperature" else -math.inf)
    for name, value, high in (("beta", beta, math.inf), ("tau_plus", tau_plus, 1)):
        if not (math.isfinite(value) and 0 <= value < high):
            raise ValueError(f"{name} must be finite and in [0, {high:g}), got {value!r}")
    views = unit(torch.cat([a, b], -2))
    n, index = a.shape[-2], torch.arange(2 * a.shape[-2], device=a.device)
    logits = views @ views.mT / temperature
    positive = logits[..., index, (index + n) % (2 * n)]
    others = torch.ones(2 * n, 2 * n, dtype=torch.bool, device=a.device)
    others[index, index] = others[index, (index + n) % (2 * n)] = False
    negative = logits.masked_fill(~others, -math.inf)
    # Everything relative to the positive and in logarithms: e^(1 / t) overflows for the small t in use.
    weighed = math.log(2 * n - 2) + ((1 + beta) * negative).logsumexp(-1)
    weighed = weighed - (beta * logits).masked_fill(~others, -math.inf).logsumexp(-1) - positive
    floor = math.log(2 * n - 2) - 1 / temperature - positive
    if tau_plus:
        share = math.log(tau_plus * (2 * n - 2)) - weighed  # of the sum that is taken out
        left = torch.log1p(-share.clamp(max=-1e-6).exp())
        weighed = torch.where(share < -1e-6, weighed + left - math.log1p(-tau_plus), floor)
    return F.softplus(torch.maximum(weighed, floor)).mean(-1)


def alignment(x: Tensor, y: Tensor) -> Tensor:
    """How far apart matched unit vectors are: mean_i ||x_i - y_i||^2.

    Args: x, y: matched rows, (n, d), or stacks (..., n, d); normalised here.

    Returns: scalar in [0, 4], or (...), equal to 2 - 2 * mean matched cosine. Raises ValueError unless shapes match.
    Source: Wang & Isola 2020 (arXiv 2005.10242), sec. 4.1. Defined in {ref}`contrastive-pretraining`.
    """
    check_stacks(1, x=x, y=y)
    return (unit(x) - unit(y)).square().sum(-1).mean(-1)


def uniformity(x: Tensor, t: float = 2.0) -> Tensor:
    """How evenly unit vectors cover the sphere: log of the mean of exp(-t ||x_i - x_j||^2) over pairs i < j.

    0 when all vectors coincide; the more negative, the more even.

    Args:
        x: rows, (n, d), or stacks (..., n, d); normalised here.
        t: sharpness of the kernel; > 0.

    Returns: scalar, in nats, or (...). Raises ValueError unless n >= 2. Memory grows with n, not n^2.
    Source: Wang & Isola 2020 (arXiv 2005.10242), sec. 4.1. Defined in {ref}`contrastive-pretraining`.
    """
    check_stacks(2, x=x)
    check_number("t", t, ABOVE_0)
    u, n, size = unit(x), x.shape[-2], _rows_at_a_time(x)

    def block(u: Tensor, start: int) -> Tensor:  # rows from start against all later ones
        rows = u[..., start : start + size, :]
        pairs = torch.ones(rows.shape[-2], n - start, dtype=torch.bool, device=u.device).triu(1)
        exponent = 2 * t * (rows @ u[..., start:, :].mT - 1)  # ||a - b||^2 = 2 - 2 a.b for unit vectors
        return exponent.masked_fill(~pairs, -math.inf).flatten(-2).logsumexp(-1)

    # the very last row has no later one: no block may consist of it alone
    return _over_blocks(block, range(0, n - 1, size), u) - math.log(n * (n - 1) / 2)


def cross_uniformity(x: Tensor, y: Tensor, t: float = 2.0) -> Tensor:
    """Uniformity across modalities: log of the mean of exp(-t ||x_i - y_j||^2) over i != j.

    Args:
        x, y: matched rows, (n, d), or stacks (..., n, d); normalised here.
        t: sharpness of the kernel; > 0.

    Returns: scalar, in nats, or (...). Raises ValueError unless n >= 2 and shapes match. Memory grows with n, not
    n^2. Source: Fahim et al. 2024 (arXiv 2405.18570), the last term of CUAXU. Defined in {ref}`closing-the-gap`.
    """
    check_stacks(2, x=x, y=y)
    check_number("t", t, ABOVE_0)
    u, v, n, size = unit(x), unit(y), x.shape[-2], _rows_at_a_time(x)

    def block(u: Tensor, v: Tensor, start: int) -> Tensor:
        exponent = 2 * t * (u[..., start : start + size, :] @ v.mT - 1)
        index = torch.arange(exponent.shape[-2], device=u.device)
        matched = torch.zeros(exponent.shape[-2:], dtype=torch.bool, device=u.device)
        matched[index, start + index] = True
        return exponent.masked_fill(matched, -math.inf).flatten(-2).logsumexp(-1)

    return _over_blocks(block, range(0, n, size), u, v) - math.log(n * (n - 1))


def _rows_at_a_time(x: Tensor) -> int:
    return max(1, _BLOCK // (x.numel() // x.shape[-1]))


def _over_blocks(block, starts: range, *tensors: Tensor) -> Tensor:
    """logsumexp over blocks of rows. Backward recomputes a block, so that no n x n matrix is ever kept."""
    if len(starts) > 1 and torch.is_grad_enabled() and any(x.requires_grad for x in tensors):
        parts = [checkpoint(block, *tensors, start, use_reentrant=False) for start in starts]
    else:
        parts = [block(*tensors, start) for start in starts]
    return torch.stack(parts).logsumexp(0)


def cua_loss(image: Tensor, text: Tensor, scale: float | Tensor) -> Tensor:
    """CLIP's loss, plus uniformity and alignment: the mean of both modalities' uniformity, and the alignment.

    The alignment asks for equal pairs, which the contrastive loss alone does not; the uniformity keeps them from
    meeting in one point.

    Args, returns, errors: as `clip_loss`. The two terms do not depend on scale.
    Source: Fahim et al. 2024 (arXiv 2405.18570). Defined in {ref}`closing-the-gap`.
    """
    spread = (uniformity(image) + uniformity(text)) / 2
    return clip_loss(image, text, scale) + spread + alignment(image, text)


def cuaxu_loss(image: Tensor, text: Tensor, scale: float | Tensor) -> Tensor:
    """`cua_loss` plus `cross_uniformity`: strangers of different modalities are pushed apart as well.

    Args, returns, errors: as `clip_loss`.
    Source: Fahim et al. 2024 (arXiv 2405.18570). Defined in {ref}`closing-the-gap`.
    """
    return cua_loss(image, text, scale) + cross_uniformity(image, text)
