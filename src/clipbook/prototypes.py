"""Classifiers made of a few examples: prototypes, caches, Gaussians and linear probes; and Sinkhorn's assignment.

Nearly all of them are "the zero-shot logits plus alpha times a function of the shots". Everything takes stacks:
leading dimensions hold draws of the shots side by side. `evaluate.draw_shots` draws them, and
`evaluate.mixing_accuracy` scores every alpha at once. Beware of two names: Proto-CLIP adapts CLIP with a few shots;
ProtoCLIP trains it with clusters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from clipbook.losses import ABOVE_0, check_features, check_number, check_stacks, unit

_ROUNDS = 100  # of ten steps, after which a probe is given up; ten rounds are many


def check_labels(name: str, labels: Tensor, n: int, n_classes: int, every: bool = False) -> None:
    """Raises ValueError unless labels are int64 (..., n) in 0..n_classes-1, n_classes >= 2; every: none is missing."""
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape[-1:] != (n,):
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"{name} must be int64 (..., {n}), one for each example, got {got}")
    if isinstance(n_classes, bool) or not isinstance(n_classes, int) or n_classes < 2:
        raise ValueError(f"n_classes must be an int of at least 2, got {n_classes!r}")
    if int(labels.min()) < 0 or int(labels.max()) >= n_classes:
        raise ValueError(f"{name} must be in 0..{n_classes - 1}, got {int(labels.min())}..{int(labels.max())}")
    missing = (F.one_hot(labels, n_classes).sum(-2) == 0).nonzero() if every else ()
    if len(missing):
        raise ValueError(f"{name} must hold every class, got no example of class {int(missing[0, -1])}")


def _check_widths(first: str, x: Tensor, made_unit: bool = True, **others: Tensor) -> None:
    """Widths and, after `unit` or without it, precisions agree."""
    check_stacks(1, **{first: x})
    kind = lambda z: torch.float32 if made_unit and z.dtype in (torch.float16, torch.bfloat16) else z.dtype
    for name, y in others.items():
        check_stacks(1, **{name: y})
        if x.shape[-1] != y.shape[-1]:
            raise ValueError(f"{first} and {name} must have matching widths, got {x.shape[-1]} and {y.shape[-1]}")
        if kind(x) != kind(y):
            raise ValueError(f"{first} and {name} must have matching dtypes, got {x.dtype} and {y.dtype}")


def _check_classes(**vectors: Tensor) -> None:
    for name, x in vectors.items():
        if x.shape[-2] < 2:
            raise ValueError(f"{name} must have a row for each of at least 2 classes, got {x.shape[-2]}")


def _given(name: str, value: float | Tensor, like: Tensor, *shapes: tuple[int, ...]) -> Tensor:
    """A value in one of some shapes, expanded to the last of them, in the precision of `like`."""
    value = torch.as_tensor(value)
    if tuple(value.shape) not in shapes:
        raise ValueError(f"{name} must be {' or '.join(map(str, shapes))}, got {tuple(value.shape)}")
    return value.detach().to(like).expand(shapes[-1])


def class_means(features: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """One prototype per class: the mean of its examples.

    Args:
        features: examples, (n, d), or stacks (..., n, d); used as they are: normalise before, or not.
        labels: int64 (n,) in 0..n_classes-1, or (..., n).
        n_classes: at least 2.

    Returns: (c, d), or (..., c, d). Raises ValueError for a class without an example, labels out of range,
    mismatched shapes, non-finite features.
    Source: Snell et al. 2017 (arXiv 1703.05175), eq. 1. Defined in {ref}`prototype-classifiers`.
    """
    check_stacks(1, features=features)
    check_labels("labels", labels, features.shape[-2], n_classes, every=True)
    belongs = F.one_hot(labels, n_classes).to(features.dtype)
    return belongs.mT @ features / belongs.sum(-2)[..., None]


def prototype_logits(x: Tensor, prototypes: Tensor, beta: float = 1.0) -> Tensor:
    """How near each vector is to each prototype: -beta ||x - p||^2.

    The logarithm of a Gaussian around each prototype, of variance 1 / (2 beta), up to a constant. Between unit
    vectors it is 2 beta times their cosine, up to a constant.

    Args: x (..., n, d), prototypes (..., c, d), used as they are, c >= 1 (one gives a distance); beta: sharpness, >= 0.

    Returns: (..., n, c). Raises ValueError for mismatched widths or dtypes, non-finite features, negative beta.
    Source: Snell et al. 2017 (arXiv 1703.05175), eq. 2. Defined in {ref}`prototype-classifiers`.
    """
    _check_widths("x", x, False, prototypes=prototypes)
    check_number("beta", beta, 0, stacked=True)
    squares = x.square().sum(-1)[..., None] + prototypes.square().sum(-1)[..., None, :]
    return -beta * (squares - 2 * x @ prototypes.mT).clamp(min=0)


def proto_clip_probabilities(
    x: Tensor, image_prototypes: Tensor, text_prototypes: Tensor, alpha: float, beta: float
) -> Tensor:
    """Proto-CLIP: probabilities from image prototypes and from text prototypes, mixed.

    alpha softmax(-beta ||x - image prototype||^2) + (1 - alpha) softmax(-beta ||x - text prototype||^2).

    Args:
        x: queries, (..., n, d); image_prototypes, text_prototypes: (..., c, d); all normalised here.
        alpha: weight of the images, in [0, 1]; both ends are allowed.
        beta: sharpness, >= 0.

    Returns: (..., n, c), rows sum to 1. Raises ValueError for mismatched shapes or dtypes, fewer than 2 classes, alpha
    outside [0, 1], negative beta, non-finite features.
    Source: Jaykumar P et al. 2023 (arXiv 2307.03073), eq. 3. Defined in {ref}`few-shot-adaptation`.
    """
    _check_widths("x", x, image_prototypes=image_prototypes, text_prototypes=text_prototypes)
    _check_classes(image_prototypes=image_prototypes, text_prototypes=text_prototypes)
    check_number("alpha", alpha, 0, 1, stacked=True)
    if image_prototypes.shape[-2] != text_prototypes.shape[-2]:
        counts = f"{image_prototypes.shape[-2]} and {text_prototypes.shape[-2]}"
        raise ValueError(f"image_prototypes and text_prototypes must have as many classes, got {counts}")
    by_image, by_text = (
        prototype_logits(unit(x), unit(prototypes), beta).softmax(-1)
        for prototypes in (image_prototypes, text_prototypes)
    )
    return alpha * by_image + (1 - alpha) * by_text


def tip_adapter_logits(
    x: Tensor, keys: Tensor, labels: Tensor, text: Tensor, alpha: float, beta: float, scale: float = 100.0
) -> Tensor:
    """Tip-Adapter: zero-shot logits, plus votes of the shots, a near one counting more.

    scale * cos(x, text) + alpha * sum over shots of exp(-beta (1 - cos(x, key))), a shot voting for its class.

    Args:
        x: queries, (..., n, d); keys: features of the shots, (..., m, d); all normalised here.
        labels: of the shots, int64 (m,) or (..., m), in 0..c-1.
        text: one vector per class, (c, d) or (..., c, d); normalised here.
        alpha: weight of the votes, >= 0. beta: sharpness, >= 0. scale: of the zero-shot logits, >= 0.

    Returns: (..., n, c). Raises ValueError for mismatched shapes or dtypes, a class without a shot, fewer than 2
    classes, negative or non-finite numbers or features.
    Source: Zhang et al. 2021 (arXiv 2111.03930), eq. 6. Defined in {ref}`few-shot-adaptation`.
    """
    _check_widths("x", x, keys=keys, text=text)
    _check_classes(text=text)
    check_labels("labels", labels, keys.shape[-2], text.shape[-2], every=True)
    for name, value in (("alpha", alpha), ("beta", beta), ("scale", scale)):
        check_number(name, value, 0, stacked=True)
    x = unit(x)
    votes = (-beta * (1 - x @ unit(keys).mT)).exp() @ F.one_hot(labels, text.shape[-2]).to(x.dtype)
    return scale * x @ unit(text).mT + alpha * votes


def gaussian_discriminant(
    features: Tensor, labels: Tensor, n_classes: int, shrinkage: float | Tensor = 0.5
) -> tuple[Tensor, Tensor]:
    """A Gaussian for each class, all of one shape: a linear classifier in closed form.

    The covariance within classes, S, is shrunk towards a ball of the same volume, (1 - s) S + s tr(S) / d I, so that
    it can be inverted with fewer examples than dimensions: linear discriminant analysis with shrinkage and equal
    priors. One example of each class says nothing about S, which is then taken as a ball: the nearest class mean.

    Args:
        features: examples, (..., n, d), used as they are. labels: int64 (n,) or (..., n).
        n_classes: at least 2. shrinkage: in (0, 1], one number or one for each of a stack, (...).

    Returns: weight (..., c, d) and bias (..., c); logits are x @ weight.mT + bias. They are in units of the mean
    variance, tr(S) / d = 1, so that one mixing weight suits every number of shots. Raises ValueError as `class_means`,
    and for a shrinkage outside (0, 1].
    Source: Wang et al. 2024 (arXiv 2402.04087). Defined in {ref}`few-shot-adaptation`.
    """
    means = class_means(features, labels, n_classes)
    check_number("shrinkage", shrinkage, 1e-6, 1, stacked=True)
    rest = features - F.one_hot(labels, n_classes).to(features.dtype) @ means
    covariance = rest.mT @ rest / features.shape[-2]
    d = features.shape[-1]
    volume = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    ball = torch.eye(d, dtype=features.dtype, device=features.device)
    tiny = torch.finfo(features.dtype).eps * features.square().mean((-2, -1))[..., None, None]
    shape = torch.where(volume > tiny, covariance / volume.clamp(min=1e-30), ball)
    s = torch.as_tensor(shrinkage, dtype=features.dtype, device=features.device)[..., None, None]
    weight = torch.linalg.solve((1 - s) * shape + s * ball, means.mT).mT
    return weight, -(weight * means).sum(-1) / 2


def linear_probe(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    strength: float | Tensor = 1.0,
    start: Tensor | None = None,
    weights: Tensor | None = None,
) -> Tensor:
    """Multinomial logistic regression without a bias, fitted to its optimum; many problems at once.

    Minimises strength * (sum over examples of the cross-entropy) + ||W - start||^2 / 2. With `start` at the zero-shot
    classifier the probe departs from it only as far as the examples demand: what matters of a "zero-shot
    initialisation" once training runs to its end. With the class texts among the examples it is cross-modal.

    Args:
        features: examples, (p, n, d): p problems; normalised here.
        labels: int64 (n,) or (p, n).
        n_classes: at least 2.
        strength: of the fit against the penalty, as scikit-learn's C; > 0, one number or one for each problem, (p,).
        start: weights that cost nothing, (c, d) or (p, c, d); None: zero.
        weights: of the examples, (n,) or (p, n), >= 0; None: all 1.

    Returns: W, (p, c, d); logits are unit(x) @ W.mT; solved in float64. For two classes it has a vector each, which is
    scikit-learn's single one at twice the C. Raises ValueError for mismatched shapes, labels out of range, a class
    without an example, non-finite features, a strength that is not above 0, negative weights; RuntimeError where it
    does not converge.
    Source: Radford et al. 2021 (arXiv 2103.00020), sec. 3.1.2; Lin et al. 2023 (arXiv 2301.06267).
    """
    if not isinstance(features, Tensor) or features.ndim != 3:
        raise ValueError(f"features must be a tensor (problems, n, d), got {tuple(getattr(features, 'shape', ()))}")
    check_stacks(1, features=features)
    p, n, d = features.shape
    check_labels("labels", labels, n, n_classes, every=True)
    if labels.shape not in ((n,), (p, n)):
        raise ValueError(f"labels must be ({n},) or ({p}, {n}), got {tuple(labels.shape)}")
    check_number("strength", strength, 1e-12, stacked=True)
    made = unit(features.detach())
    x = made.double()  # in float32 the sum over many problems hides that one of them still falls
    if start is None:
        start = x.new_zeros(p, n_classes, d)
    else:
        check_stacks(1, start=start)
        start = _given("start", start, x, (n_classes, d), (p, n_classes, d))
    if weights is None:
        weights = x.new_ones(p, n)
    else:
        check_number("weights", weights, 0, stacked=True)
        weights = _given("weights", weights, x, (n,), (p, n))
    each = _given("strength", strength, x, (), (p,))[:, None] * weights
    return _logistic_regression(x, labels.to(x.device).expand(p, -1), each, start).to(made.dtype)


def _logistic_regression(x: Tensor, labels: Tensor, each: Tensor, start: Tensor) -> Tensor:
    """W (p, c, d) that minimises sum_i each_i * cross-entropy_i + ||W - start||^2 / 2: one solver for all problems.

    It is done when every gradient is shorter than 1e-4 of its W. The penalty's curvature is 1, so that no W is then
    further than that from its optimum.
    """
    # Real features share a mean, and the fit is far steeper along it. In units in which H = I + sum_i h_i x_i x_i^T is
    # the identity all directions are alike: W = start + moved root^-1, with root root^T = H.
    h = each / (4 * start.shape[-2])
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    root = torch.linalg.cholesky(eye + (x * h[..., None]).mT @ x)
    x_there, before = torch.linalg.solve_triangular(root, x.mT, upper=False), start @ x.mT
    moved = torch.zeros_like(start, requires_grad=True)
    solver = torch.optim.LBFGS(
        [moved], max_iter=10, history_size=10, tolerance_grad=0, tolerance_change=0, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        added = moved @ x_there  # to the logits, (p, c, n): classes come second, as cross_entropy takes them
        fit = F.cross_entropy(before + added, labels, reduction="none") * each
        penalty = moved.square().sum() - (h * added.square().sum(1)).sum()  # ||W - start||^2
        loss = fit.sum() + penalty / 2
        loss.backward()
        return loss

    for _ in range(_ROUNDS):
        with torch.enable_grad():
            solver.step(closure)
            closure()
        found = start + torch.linalg.solve_triangular(root, moved.detach(), upper=False, left=False)
        gradient, length = (z.flatten(1).norm(dim=1) for z in (moved.grad @ root.mT, found))
        if bool((gradient <= 1e-4 * length + 1e-12 * each.sum(1)).all()):  # the second: rounding, where W is 0
            return found
    raise RuntimeError(
        f"linear_probe has not converged in {10 * _ROUNDS} steps: a gradient is {float((gradient / length).max()):.1e} "
        f"of its weights; a smaller strength may help"
    )


def sinkhorn(scores: Tensor, epsilon: float = 0.05, n_iterations: int = 3) -> Tensor:
    """Soft assignments of n samples to k prototypes that use every prototype as much: optimal transport, smoothed.

    Alternately every prototype's share is set to 1 / k and every sample's to 1 / n, starting from
    exp(scores / epsilon). All in logarithms, and those kept above -1e300, so that no score and no epsilon overflows.

    Args:
        scores: similarities, (n, k); finite; any floating dtype, float16 included.
        epsilon: smoothness; > 0. Small ones approach a hard assignment.
        n_iterations: of both steps, >= 1. More of them bring the prototypes' shares closer to equal.

    Returns: (n, k), rows sum to 1, in the dtype of scores (computed in float64). Raises ValueError for
    another shape, non-finite scores, a bad epsilon or n_iterations.
    Source: Cuturi 2013 (arXiv 1306.0895); Caron et al. 2020 (arXiv 2006.09882), sec. 3.1. Defined in
    {ref}`prototypes-in-pretraining`.
    """
    check_features(1, scores=scores)
    check_number("epsilon", epsilon, ABOVE_0)
    if isinstance(n_iterations, bool) or not isinstance(n_iterations, int) or n_iterations < 1:
        raise ValueError(f"n_iterations must be a positive int, got {n_iterations!r}")
    log_q = scores.double()
    log_q = ((log_q - log_q.max()) / epsilon).clamp(min=-1e300)
    for _ in range(n_iterations):
        log_q = log_q - log_q.logsumexp(0)  # every prototype's share is equal
        log_q = log_q - log_q.logsumexp(1, keepdim=True)  # every sample's is 1
    return log_q.softmax(1).to(scores.dtype)  # rows of ties sum to 1 even where log 2 is below the rounding
