"""Where the two modalities lie on the sphere, and how to move them. Tensors in, numbers or tensors out.

Everything is computed in float64 after re-normalising: the gap is a difference of near-constant means,
and features on disk are often only unit to three digits. `centre` and `shift` move features; the rest measures.
"""

from __future__ import annotations

from numbers import Real

import torch
from torch import Tensor

from clipbook.losses import alignment, check_features, uniformity, unit


def unit_rows(n_min: int, same_shape: bool, **features: Tensor) -> list[Tensor]:
    """Checked features as float64 unit rows, without their graph.

    Args: as `losses.check_features`. Raises ValueError as that does, and for a zero row: it has no direction.
    """
    check_features(n_min, same_shape, **features)
    for name, x in features.items():
        zero = (x == 0).all(1).nonzero()
        if len(zero):
            raise ValueError(f"{name} must have a direction in every row, got zeros in row {int(zero[0])}")
    return [unit(x.detach().double()) for x in features.values()]


def modality_gap(image: Tensor, text: Tensor) -> float:
    """Distance between the mean unit image and the mean unit text: ||mean(x) - mean(y)||.

    Args: image (n, d), text (m, d); matched or not; normalised here.

    Returns: a length in [0, 2]. Raises ValueError for different widths, non-finite or zero rows.
    Source: Liang et al. 2022 (arXiv 2203.02053), sec. 4.2.
    """
    x, y = unit_rows(1, False, image=image, text=text)
    return float((x.mean(0) - y.mean(0)).norm())


def gap_report(image: Tensor, text: Tensor) -> dict[str, float]:
    """All the measures of the gap in circulation, on the same features.

    Args: image, text: matched rows, (n, d), n >= 4; normalised here.

    Returns a dict of floats. x_i, y_i are the unit image and text of pair i.
        gap                 ||mean(x) - mean(y)||, in [0, 2]
        relative_gap        h(m) / (h(m) + (h(ii) + h(tt)) / 2), h(c) = (1 - c) / 2 of the mean cosine of
                            matched pairs, within images, within texts: 0 when matched pairs coincide, 1/2
                            when they are as far apart as strangers of one modality, 1 when each modality
                            is a single point
        centroid_cosine     cosine of mean(x) and mean(y)
        matched_cosine      mean of cos(x_i, y_i)
        unmatched_cosine    mean of cos(x_i, y_j), i != j
        image_cosine        mean of cos(x_i, x_j), i != j: how narrow the images' cone is
        text_cosine         the same of texts
        alignment           mean of ||x_i - y_i||^2, in [0, 4]
        image_uniformity    log mean exp(-2 ||x_i - x_j||^2), i < j, in nats
        text_uniformity     the same of texts
        linear_separability accuracy of a logistic regression that tells images from texts, on held-out pairs

    Raises ValueError for mismatched shapes, n < 4, non-finite or zero rows.
    Source: Liang et al. 2022 (arXiv 2203.02053); relative gap: Schrodi et al. 2024 (arXiv 2404.07983);
    alignment and uniformity: Wang & Isola 2020 (arXiv 2005.10242).
    """
    x, y = unit_rows(4, True, image=image, text=text)
    n, sum_x, sum_y = len(x), x.sum(0), y.sum(0)
    # Mean cosines without any n x n matrix: the sum over all pairs is a product of sums.
    matched = (x * y).sum(1).mean()
    unmatched = (sum_x @ sum_y / n - matched) / (n - 1)
    within_x, within_y = ((s @ s / n - 1) / (n - 1) for s in (sum_x, sum_y))
    apart, strangers = (1 - matched) / 2, ((1 - within_x) / 2 + (1 - within_y) / 2) / 2
    report = {
        "gap": (sum_x - sum_y).norm() / n,
        # everything in one point: nothing is apart, so there is no gap to be relative to
        "relative_gap": apart / (apart + strangers).clamp(min=1e-12),
        "centroid_cosine": unit(sum_x) @ unit(sum_y),
        "matched_cosine": matched,
        "unmatched_cosine": unmatched,
        "image_cosine": within_x,
        "text_cosine": within_y,
        "alignment": alignment(x, y),
        "image_uniformity": uniformity(x),
        "text_uniformity": uniformity(y),
        "linear_separability": _separability(x, y),
    }
    return {name: float(value) for name, value in report.items()}


def _separability(x: Tensor, y: Tensor) -> Tensor:
    """Held-out accuracy of "image or text?": a random half of the pairs trains, the other half tests.

    Pairs are split, not vectors, so that no test image has its caption in training. Logistic regression
    with an L2 penalty of 1 (scikit-learn's default) on the weights, fitted by Newton's method.
    """
    n, d = x.shape
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0)).to(x.device)
    train, test = order[: n // 2], order[n // 2 :]

    def design(rows: Tensor) -> Tensor:  # images then texts, with a column of ones for the bias
        z = torch.cat([x[rows], y[rows]])
        return torch.cat([z, torch.ones_like(z[:, :1])], 1)

    a, target = design(train), (torch.arange(2 * len(train), device=x.device) < len(train)).to(x.dtype)
    penalty = torch.ones(d + 1, dtype=x.dtype, device=x.device)
    penalty[-1] = 1e-9  # the bias is free, but for what keeps the system solvable
    w = torch.zeros(d + 1, dtype=x.dtype, device=x.device)
    for _ in range(50):
        p = torch.sigmoid(a @ w)
        gradient = a.T @ (p - target) + penalty * w
        if gradient.abs().max() < 1e-8:
            break
        w = w - torch.linalg.solve((a.T * (p * (1 - p))) @ a + torch.diag(penalty), gradient)
    correct = (design(test) @ w > 0) == (torch.arange(2 * len(test), device=x.device) < len(test))
    return correct.to(x.dtype).mean()


def centre(image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
    """Close the gap by force: unit vectors, minus their own modality's mean, made unit again.

    Args: image (n, d), text (m, d), n and m >= 2; matched or not; normalised here.

    Returns: the two centred modalities, unit rows, in the dtype they came in. A row that equals its
    modality's mean has no direction left: what it becomes is undefined. Raises ValueError as `modality_gap`.
    """
    x, y = unit_rows(2, False, image=image, text=text)
    x, y = (unit(z - z.mean(0)) for z in (x, y))
    return x.to(image.dtype), y.to(text.dtype)


def shift(image: Tensor, text: Tensor, delta: float) -> tuple[Tensor, Tensor]:
    """Move the two modalities towards each other along the gap, and see what changes.

    Every unit image moves by -delta / 2, every unit text by +delta / 2 along the unit vector from the mean text to
    the mean image; then all are made unit again. 0 changes nothing; a delta of the gap's own length makes the means
    meet before the last step, and not quite after it; a negative one widens the gap.

    Args: image (n, d), text (m, d); matched or not; normalised here. delta: a length, of at most 1e6 either way:
    far beyond it rounding leaves nothing of the features.

    Returns: the two moved modalities, unit rows, in the dtype they came in. Raises ValueError as `modality_gap`,
    for another delta, and where the means coincide, so that there is no direction to move along.
    Source: Liang et al. 2022 (arXiv 2203.02053), sec. 4.2. Defined in {ref}`closing-the-gap`.
    """
    x, y = unit_rows(1, False, image=image, text=text)
    if isinstance(delta, bool) or not isinstance(delta, Real) or not abs(delta) <= 1e6:
        raise ValueError(f"delta must be a number in [-1e6, 1e6], got {delta!r}")
    gap = x.mean(0) - y.mean(0)
    if not float(gap.norm()) > 1e-12:
        raise ValueError("image and text must have different means, got none: there is no gap to shift along")
    step = delta / 2 * unit(gap)
    return unit(x - step).to(image.dtype), unit(y + step).to(text.dtype)


def conformity(x: Tensor) -> Tensor:
    """How usual each vector is among its own kind: the mean of its cosine with all the others.

    Args: x: rows, (n, d), n >= 2; normalised here.

    Returns: (n,) float64 in [-1, 1]: a linear function of the cosine with the mean of the unit vectors, which is
    quicker to have for a vector that is new. Raises ValueError for fewer than two, non-finite or zero rows.
    Source: Levi & Gilboa 2024 (arXiv 2411.14517). Defined in {ref}`measuring-the-gap`.
    """
    (u,) = unit_rows(2, True, x=x)
    return (u @ u.sum(0) - 1) / (len(u) - 1)
