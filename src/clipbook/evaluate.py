"""The protocols: features and labels in, numbers out. Nothing here knows a model, an image or a file.

Cosines are computed in float64 and two closer than `TIE` count as equal: features come in float32, and
what is below its rounding is not a preference. Each function says what a tie is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from clipbook import prototypes
from clipbook.geometry import unit_rows
from clipbook.losses import ABOVE_0, check_features, check_number, check_stacks, unit

TIE = 1e-6
CONVENTIONS = ("normalise-mean-normalise", "mean-normalise", "mean")
_BLOCK = 4_000_000  # cosines that exist at a time


def _check_labels(name: str, label: Tensor, n: int) -> None:
    whole = isinstance(label, Tensor) and not (label.is_floating_point() or label.is_complex())
    if not whole or label.dtype == torch.bool or label.shape != (n,):
        got = f"{label.dtype} {tuple(label.shape)}" if isinstance(label, Tensor) else type(label).__name__
        raise ValueError(f"{name} must be an integer tensor ({n},), got {got}")


def _check_range(name: str, label: Tensor, classes: int, of: str) -> None:
    low, high = int(label.min()), int(label.max())
    if low < 0 or high >= classes:
        raise ValueError(f"{name} must be in 0..{classes - 1} ({of}), got {low}..{high}")


def class_text(text: Tensor, convention: str = "normalise-mean-normalise") -> Tensor:
    """One vector per class from several prompts per class: a prompt ensemble.

    Args:
        text: features of t prompts for each of c classes, (t, c, d); not normalised.
        convention: which of the three in circulation.
            "normalise-mean-normalise"  mean of unit vectors, made unit: every prompt has the same say
                                        (CLIP, open_clip)
            "mean-normalise"            mean of the features as they come, made unit: a prompt with a longer
                                        feature has more say
            "mean"                      mean of unit vectors, left at its length: the score is the mean of
                                        the cosines, so that a class whose prompts disagree scores lower
                                        (Maniparambil et al. 2023, arXiv 2307.11661); give the result to
                                        `zero_shot` with keep_length=True, which would undo it otherwise

    Returns: (c, d). Raises ValueError for another convention, a wrong shape, non-finite features.
    Defined in {ref}`zero-shot`.
    """
    if convention not in CONVENTIONS:
        raise ValueError(f"convention must be one of {', '.join(CONVENTIONS)}, got {convention!r}")
    if not isinstance(text, Tensor) or text.ndim != 3 or 0 in text.shape:
        got = tuple(text.shape) if isinstance(text, Tensor) else type(text).__name__
        raise ValueError(f"text must be a tensor (templates, classes, d), got {got}")
    check_features(text=text.flatten(0, 1))
    if convention == "mean-normalise":
        return unit(text.mean(0))
    mean = unit(text).mean(0)
    return unit(mean) if convention == "normalise-mean-normalise" else mean


def predict(image: Tensor, class_text: Tensor, keep_length: bool = False) -> Tensor:
    """The class whose text is nearest in angle to each image; among equals the first.

    Args:
        image: (n, d); normalised here.
        class_text: one vector per class, (c, d); normalised here unless keep_length.
        keep_length: use class vectors at the length they have (see `class_text`, "mean").

    Returns: int64 (n,) in 0..c-1. Raises ValueError for different widths, non-finite features.
    """
    check_features(1, False, image=image, class_text=class_text)
    weight = (class_text.double() if keep_length else unit(class_text.double())).T
    blocks = image.split(max(1, _BLOCK // max(image.shape[1], len(class_text))))
    return torch.cat([(unit(block.double()) @ weight).argmax(1) for block in blocks])


def zero_shot(image: Tensor, class_text: Tensor, label: Tensor, keep_length: bool = False) -> float:
    """Share of images whose nearest class text is that of their own class (top-1 accuracy).

    Args:
        image: (n, d); normalised here.
        class_text: one vector per class, (c, d); normalised here unless keep_length (see `predict`).
        label: int64 (n,) in 0..c-1.

    Returns: accuracy in [0, 1]. Raises ValueError for mismatched shapes, a label out of range, non-finite
    features. Source: Radford et al. 2021 (arXiv 2103.00020), sec. 3.1. Defined in {ref}`zero-shot`.
    """
    predicted = predict(image, class_text, keep_length)
    _check_labels("label", label, len(image))
    _check_range("label", label, len(class_text), "rows of class_text")
    return float((predicted == label.to(predicted.device)).double().mean())


def retrieval(image: Tensor, text: Tensor, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall at k both ways: how often the match is among the k nearest of the other modality.

    Ties count against: the match ranks behind everything as near as itself, so collapsed features score
    0 and not 1, and two images with the same caption miss each other's text at k = 1.

    Args:
        image, text: matched rows, (n, d); normalised here.
        ks: cut-offs, positive ints.

    Returns: {"i2t@k": ..., "t2i@k": ...} for k in ks, shares in [0, 1]; i2t: an image searches its text.
    Raises ValueError for mismatched shapes, k < 1, non-finite features. Memory grows with n, not n^2.
    """
    check_features(1, image=image, text=text)
    ks = tuple(ks)
    if not ks or any(isinstance(k, bool) or not isinstance(k, int) or k < 1 for k in ks):
        raise ValueError(f"ks must be positive ints, got {ks}")
    x, y = unit(image.double()), unit(text.double())
    bar = (x * y).sum(1) - TIE
    i2t, t2i = [], torch.zeros(len(x), dtype=torch.int64, device=x.device)
    start = 0
    for rows in x.split(max(1, _BLOCK // len(x))):  # one product serves both directions
        cosine = rows @ y.T
        i2t.append((cosine >= bar[start : start + len(rows), None]).sum(1))
        t2i += (cosine >= bar).sum(0)
        start += len(rows)
    rank = {"i2t": torch.cat(i2t), "t2i": t2i}  # 1 is best; the match counts itself
    return {f"{way}@{k}": float((rank[way] <= k).double().mean()) for k in ks for way in ("i2t", "t2i")}


def mixed_rank(image: Tensor, text: Tensor) -> Tensor:
    """Where the right image comes when a text searches an index that holds images and texts alike.

    The index is all images and all texts but the query itself. With a modality gap every text is nearer than any
    image, and the right image comes after all of them, however well images alone are found.

    Args: image, text: matched rows, (n, d); normalised here; text i searches image i.

    Returns: int64 (n,), 1 is best and 2n - 1 worst; ties count against. Raises ValueError for mismatched shapes,
    non-finite or zero rows. Memory grows with n, not n^2. Defined in {ref}`measuring-the-gap`.
    """
    x, y = unit_rows(1, True, image=image, text=text)
    bar, ranks, start = (x * y).sum(1) - TIE, [], 0
    for rows in y.split(max(1, _BLOCK // len(x))):
        mine = bar[start : start + len(rows), None]
        images, texts = (rows @ x.T >= mine).sum(1), (rows @ y.T >= mine).sum(1)
        ranks.append(images + texts - 1)  # the query itself is always among the texts
        start += len(rows)
    return torch.cat(ranks)


def binding(image: Tensor, true_text: Tensor, false_text: Tensor) -> float:
    """Share of scenes whose own caption scores higher than a false one; a tie counts one half.

    So a bag of words, to which both captions are the same, scores one half and not zero.

    Args: image, true_text, false_text: matched rows, (n, d); normalised here.

    Returns: share in [0, 1]; 1/2 is chance. Raises ValueError for mismatched shapes, non-finite features.
    """
    check_features(1, image=image, true_text=true_text, false_text=false_text)
    x, true, false = (unit(z.double()) for z in (image, true_text, false_text))
    return float(wins((x * (true - false)).sum(1)).mean())


def wins(margin: Tensor) -> Tensor:
    """1 where a score is ahead, 0 where it is behind, one half for a tie; float64, in the shape of margin.

    Args: margin: by how much, of cosines. Defined in {ref}`bag-of-words`.
    """
    return torch.where(margin.abs() <= TIE, 0.5, (margin > 0).double())


def probes(features: Tensor, factors: Mapping[str, Tensor], *, seed: int = 0) -> dict[str, float]:
    """Held-out accuracy of linear probes: what a straight cut through the features can tell of each factor.

    Logistic regression with an L2 penalty (scikit-learn's C = 1) on standardised features, fitted to its
    optimum with L-BFGS, all factors at once; a random half trains, the other half tests. A factor of two values has a
    weight vector for each, which is scikit-learn's single one at C = 2.

    Args:
        features: (n, d), used as they are: whether length may tell is the caller's choice.
        factors: name -> int64 (n,) in 0..k-1: what is to be read. Other integers do as well.
        seed: of the split.

    Returns: {name: accuracy in [0, 1]}. Raises ValueError for mismatched shapes, non-finite features, no factors.
    Source: Alain & Bengio 2016 (arXiv 1610.01644). Defined in {ref}`content-and-style`.
    """
    check_features(4, features=features)
    if not factors:
        raise ValueError("factors must hold at least one factor, got none")
    for name, label in factors.items():
        _check_labels(f"factors[{name!r}]", label, len(features))
        if int(label.min()) < 0:
            raise ValueError(f"factors[{name!r}] must be at least 0, got {int(label.min())}")
    order = torch.randperm(len(features), generator=torch.Generator().manual_seed(seed)).to(features.device)
    half = len(order) // 2
    x = features.detach()[order].double()
    x = (x - x[:half].mean(0)) / x[:half].std(0).clamp(min=1e-12)
    labels = [label.to(x.device).long()[order] for label in factors.values()]
    sizes = [int(label.max()) + 1 for label in labels]
    weight = torch.zeros(x.shape[1], sum(sizes), dtype=x.dtype, device=x.device, requires_grad=True)
    bias = torch.zeros(sum(sizes), dtype=x.dtype, device=x.device, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def logits(rows: Tensor) -> tuple[Tensor, ...]:
        return (rows @ weight + bias).split(sizes, 1)

    def closure() -> Tensor:
        solver.zero_grad()
        pairs = zip(logits(x[:half]), labels, strict=True)
        loss = sum(F.cross_entropy(z, y[:half], reduction="sum") for z, y in pairs) + weight.square().sum() / 2
        loss = loss / half
        loss.backward()
        return loss

    with torch.enable_grad():
        solver.step(closure)
    with torch.no_grad():
        answers = [z.argmax(1) for z in logits(x[half:])]
    right = [float((a == y[half:]).double().mean()) for a, y in zip(answers, labels, strict=True)]
    return dict(zip(factors, right, strict=True))


def draw_shots(label: Tensor, shots: int, seeds: Sequence[int]) -> Tensor:
    """Which examples a few-shot method gets: as many of each class, at random, for several seeds.

    More shots of a seed keep the fewer: the first k of the last dimension are the draw of k shots.

    Args: label: int64 (n,) in 0..c-1; shots: per class, >= 1; seeds: at least one.

    Returns: rows, int64 (seeds, c, shots). Raises ValueError for a class with fewer examples, fewer than 2 classes,
    other labels.
    """
    usable = isinstance(label, Tensor) and label.dtype == torch.int64 and label.ndim == 1 and len(label)
    if not usable or int(label.min()) < 0 or int(label.max()) < 1:
        raise ValueError(f"label must be int64 (n,) in 0..c-1 of at least 2 classes, got {repr(label)[:60]}")
    seeds = list(seeds)
    if isinstance(shots, bool) or not isinstance(shots, int) or shots < 1 or not seeds:
        raise ValueError(f"shots must be a positive int and seeds at least one, got {shots!r} and {seeds}")
    label = label.cpu()
    counts = label.bincount()
    if int(counts.min()) < shots:
        rarest = f"class {int(counts.argmin())} has {int(counts.min())}"
        raise ValueError(f"shots must be at most the number of examples of every class, got {shots}, but {rarest}")
    first = counts.cumsum(0) - counts
    drawn = []
    for seed in seeds:
        shuffled = torch.randperm(len(label), generator=torch.Generator().manual_seed(seed))
        by_class = shuffled[label[shuffled].argsort(stable=True)]
        drawn.append(by_class[first[:, None] + torch.arange(shots)])
    return torch.stack(drawn)


def mixing_accuracy(base: Tensor, added: Tensor, label: Tensor, alphas: Tensor) -> Tensor:
    """Accuracy of base + alpha * added for every alpha at once, in the time of about one.

    A sample's margin over each other class is a straight line in alpha, so that the sample is right on one interval
    of alphas; what is left is to count intervals. Zero-shot logits with any function of the shots added are of this
    form, and so are mixtures of probabilities: (1 - alpha) p + alpha q = p + alpha (q - p).

    Args:
        base, added: scores, (n, c) or stacks (..., n, c) that broadcast.
        label: int64 (n,) in 0..c-1, or (..., n).
        alphas: (a,), ascending, finite.

    Returns: accuracies in [0, 1], float64 (..., a). A tie with another class counts against. Raises ValueError for
    mismatched shapes, fewer than 2 classes, labels out of range, non-finite scores, alphas out of order. Defined in
    {ref}`few-shot-adaptation`.
    """
    alphas = torch.as_tensor(alphas, dtype=torch.float64)
    if alphas.ndim != 1 or not len(alphas) or not bool(alphas.isfinite().all()) or bool((alphas.diff() < 0).any()):
        raise ValueError(f"alphas must be finite numbers in ascending order, got {alphas.tolist()!r:.60}")
    check_stacks(1, base=base)
    check_stacks(1, added=added)
    try:
        shape = torch.broadcast_shapes(base.shape, added.shape)
        fits = shape[-1] > 1 and label.shape[-1:] == shape[-2:-1]
        fits = fits and torch.broadcast_shapes(label.shape, shape[:-1]) == shape[:-1]
    except (AttributeError, RuntimeError):  # no tensor, or shapes that do not broadcast
        fits = False
    if not fits:
        got = [tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__ for z in (base, added, label)]
        got = f"{got[0]}, {got[1]} and {got[2]}"
        raise ValueError(f"base, added and label must be (..., n, c), (..., n, c) and (..., n), c >= 2, got {got}")
    prototypes.check_labels("label", label, shape[-2], shape[-1])
    label = label.to(base.device)
    base, added = base.double().expand(shape), added.double().expand(shape)
    own = label.expand(shape[:-1])[..., None]
    others = torch.ones(shape, dtype=torch.bool, device=base.device).scatter_(-1, own, False)
    margin, slope = (z.gather(-1, own) - z for z in (base, added))
    crossing = -margin / slope
    low = crossing.masked_fill(~(others & (slope > 0)), -torch.inf).amax(-1)
    high = crossing.masked_fill(~(others & (slope < 0)), torch.inf).amin(-1)
    never = (others & (slope == 0) & (margin <= 0)).any(-1) | (low >= high)
    alphas = alphas.to(base.device)
    start = torch.searchsorted(alphas, low, right=True)
    stop = torch.searchsorted(alphas, high).masked_fill(never, 0)
    start = torch.minimum(start, stop)  # empty where it is never right
    changes = torch.zeros(*shape[:-2], len(alphas) + 1, dtype=torch.float64, device=base.device)
    one = torch.ones_like(low)
    changes.scatter_add_(-1, start, one).scatter_add_(-1, stop, -one)
    return changes.cumsum(-1)[..., :-1] / shape[-2]


def few_shot_probe(
    pool: Tensor,
    pool_label: Tensor,
    test: Tensor,
    test_label: Tensor,
    *,
    shots: Sequence[int] = (1, 4, 8, 16, 32),
    seeds: Sequence[int] = (0, 1, 2),
    strength: float = 100.0,
) -> Tensor:
    """Accuracy of a linear probe on a few labelled examples of each class, for several kinds of features at once.

    Multinomial logistic regression on unit vectors, without a bias, fitted to its optimum with L-BFGS; all seeds and
    kinds of a number of shots are one problem to the solver, so that they take the time of one. A seed draws the same
    examples for every kind, and more shots keep the fewer.

    Args:
        pool: labelled features to draw from, kinds by rows, (k, n, d): the same rows in every kind; normalised here.
        pool_label: int64 (n,) in 0..c-1.
        test: other features of the same kinds, (k, m, d); normalised here. test_label: int64 (m,) in 0..c-1.
        shots: examples per class, >= 1.
        seeds: of the draw.
        strength: of the fit against the penalty |W|^2 / 2, as scikit-learn's C, times the number of examples of a
            class: the same for every number of shots; > 0. With two classes, as for `prototypes.linear_probe`, it is
            half of scikit-learn's.

    Returns: accuracies in [0, 1], (shots, seeds, k), float64. Raises ValueError for mismatched shapes or dtypes,
    non-finite features, labels out of range, fewer than max(shots) examples of a class; RuntimeError where a probe
    does not converge.
    Source: Radford et al. 2021 (arXiv 2103.00020), sec. 3.1.2. Defined in {ref}`strength-and-robustness`.
    """
    for name, x, label in (("pool", pool, pool_label), ("test", test, test_label)):
        if not isinstance(x, Tensor) or x.ndim != 3 or 0 in x.shape:
            raise ValueError(f"{name} must be a tensor (kinds, n, d), got {tuple(getattr(x, 'shape', ()))}")
        check_features(1, **{name: x.flatten(0, 1)})
        _check_labels(f"{name}_label", label, x.shape[1])
    if pool.shape[0] != test.shape[0] or pool.shape[2] != test.shape[2]:
        got = f"{tuple(pool.shape)} and {tuple(test.shape)}"
        raise ValueError(f"pool and test must have the same kinds and width, got {got}")
    if pool.dtype != test.dtype:
        raise ValueError(f"pool and test must have matching dtypes, got {pool.dtype} and {test.dtype}")
    classes, kinds = int(pool_label.max()) + 1, len(pool)
    if int(pool_label.min()) < 0 or classes < 2:
        got = f"{int(pool_label.min())}..{classes - 1}"
        raise ValueError(f"pool_label must be in 0..c-1 of at least 2 classes, got {got}")
    _check_range("test_label", test_label, classes, "classes of pool_label")
    shots, seeds = list(shots), list(seeds)
    whole = all(isinstance(k, Integral) and not isinstance(k, bool) and k > 0 for k in shots)
    if not shots or not whole or not seeds:
        raise ValueError(f"shots must be positive ints and seeds at least one, got {shots} and {seeds}")
    check_number("strength", strength, ABOVE_0)
    order = draw_shots(pool_label.long(), int(max(shots)), seeds)
    results = []
    for k in shots:
        rows = order[:, :, :k].flatten(1)  # (seeds, c * k)
        label = torch.arange(classes).repeat_interleave(k)
        weight = prototypes.linear_probe(pool[:, rows].flatten(0, 1), label, classes, strength / k)
        results.append(_accuracy(weight.view(kinds, len(seeds), classes, -1), test.detach(), test_label))
    return torch.stack(results)


def _accuracy(weight: Tensor, x: Tensor, label: Tensor) -> Tensor:
    """Share of right answers of probes (k, seeds, c, d) on rows x (k, m, d), a block of rows at a time; (seeds, k)."""
    size = max(1, _BLOCK // weight[..., 0].numel())
    blocks = zip(unit(x).split(size, 1), label.to(x.device).split(size), strict=True)
    right = [((rows[:, None] @ weight.mT).argmax(-1) == truth).sum(-1) for rows, truth in blocks]
    return torch.stack(right).sum(0).T.double() / len(label)
