"""The gap against constructions whose answer is known, and against real CLIP features when they are there."""

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from clipbook.evaluate import mixed_rank
from clipbook.geometry import centre, conformity, gap_report, modality_gap, shift
from clipbook.losses import alignment, uniformity

KEYS = [
    "gap", "relative_gap", "centroid_cosine", "matched_cosine", "unmatched_cosine", "image_cosine",
    "text_cosine", "alignment", "image_uniformity", "text_uniformity", "linear_separability",
]  # fmt: skip


def cones(n=200, d=12, tilt=2.0, noise=0.5, seed=0):
    """Matched pairs in two cones: a shared cause, an offset per modality, lengths that must not matter."""
    g = torch.Generator().manual_seed(seed)
    shared = torch.randn(n, d, generator=g)
    image, text = (shared + noise * torch.randn(n, d, generator=g) for _ in range(2))
    image[:, 0] += tilt
    text[:, 0] -= tilt
    return image * (0.1 + torch.rand(n, 1, generator=g)), text * (5 + torch.rand(n, 1, generator=g))


def test_report_is_its_definitions():
    image, text = cones(n=40)
    x, y = (z.double() / z.double().norm(dim=1, keepdim=True) for z in (image, text))
    off = ~torch.eye(40, dtype=torch.bool)
    half = lambda c: (1 - c) / 2
    m, ii, tt = (x * y).sum(1).mean(), (x @ x.T)[off].mean(), (y @ y.T)[off].mean()
    mx, my = x.mean(0), y.mean(0)
    expected = {
        "gap": (mx - my).norm(),
        "relative_gap": half(m) / (half(m) + (half(ii) + half(tt)) / 2),
        "centroid_cosine": mx @ my / mx.norm() / my.norm(),
        "matched_cosine": m,
        "unmatched_cosine": (x @ y.T)[off].mean(),
        "image_cosine": ii,
        "text_cosine": tt,
        "alignment": alignment(x, y),
        "image_uniformity": uniformity(x),
        "text_uniformity": uniformity(y),
    }
    report = gap_report(image, text)
    assert list(report) == KEYS
    assert all(type(v) is float for v in report.values())
    for name, value in expected.items():
        assert report[name] == pytest.approx(float(value), abs=1e-12), name
    assert modality_gap(image, text) == pytest.approx(report["gap"], abs=1e-12)
    # alignment = gap^2 + the variance of the differences: the identity a later chapter leans on
    spread = (x - y - (mx - my)).square().sum(1).mean()
    assert report["alignment"] == pytest.approx(report["gap"] ** 2 + float(spread), abs=1e-12)


def test_extremes():
    x, _ = cones(tilt=0.0)
    same = gap_report(x, x)
    assert same["gap"] == pytest.approx(0, abs=1e-12)
    assert same["relative_gap"] == pytest.approx(0, abs=1e-12)
    assert same["linear_separability"] == 0.5  # identical twins: one of each pair is always wrong
    # each modality a single point, opposite: the widest gap there is
    point = torch.tensor([[1.0, 0.0, 0.0]]).expand(6, -1)
    far = gap_report(point, -point)
    assert far["gap"] == pytest.approx(2)
    assert far["relative_gap"] == pytest.approx(1)
    assert far["linear_separability"] == 1.0
    one = gap_report(point, point)  # everything in one point: no gap, and no 0 / 0
    assert one["gap"] == 0
    assert one["relative_gap"] == 0


def test_linear_separability_is_held_out_logistic_regression():
    for tilt, low, high in ((0.0, 0.35, 0.65), (0.6, 0.65, 0.9), (3.0, 0.99, 1.0)):
        image, text = cones(n=400, tilt=tilt, noise=0.7)
        value = gap_report(image, text)["linear_separability"]
        assert low <= value <= high, (tilt, value)
        z = [(v.double() / v.double().norm(dim=1, keepdim=True)).numpy() for v in (image, text)]
        order = torch.randperm(400, generator=torch.Generator().manual_seed(0)).numpy()
        train, test = order[:200], order[200:]
        model = LogisticRegression(tol=1e-10, max_iter=1000)
        model.fit(np.concatenate([v[train] for v in z]), np.repeat([0, 1], 200))
        score = model.score(np.concatenate([v[test] for v in z]), np.repeat([0, 1], 200))
        assert value == pytest.approx(score)
    # in more dimensions than samples anything separates in training; held-out accuracy must not
    noise = torch.randn(60, 500, generator=torch.Generator().manual_seed(1))
    assert gap_report(noise, noise.roll(1, 0))["linear_separability"] < 0.75


def test_centre_removes_the_gap_and_keeps_unit_rows():
    image, text = cones(tilt=3.0)
    a, b = centre(image, text)
    assert a.dtype == torch.float32
    assert torch.allclose(a.norm(dim=1), torch.ones(200), atol=1e-6)
    assert modality_gap(image, text) > 1.2
    assert modality_gap(a, b) < 0.1
    x = image.double() / image.double().norm(dim=1, keepdim=True)
    expected = x - x.mean(0)
    assert torch.allclose(a.double(), expected / expected.norm(dim=1, keepdim=True), atol=1e-6)
    more, _ = centre(image, text[:50])  # the modalities are centred each on its own
    assert torch.equal(more, a)


def test_input_is_not_touched_and_the_graph_is_not_needed():
    image, text = (z.requires_grad_() for z in cones())
    before = image.detach().clone()
    gap_report(image, text), centre(image, text), modality_gap(image, text[:3])
    assert torch.equal(image.detach(), before)
    with torch.inference_mode():
        assert gap_report(image, text)["gap"] == pytest.approx(modality_gap(image, text), abs=1e-12)


def test_bad_input_names_the_argument():
    image, text = cones(n=8)
    zero, nan = text.clone(), image.clone()
    zero[5], nan[2, 1] = 0, math.nan
    cases = [
        (lambda: gap_report(image, text[:6]), "image and text"),
        (lambda: gap_report(image[:3], text[:3]), "image must have at least 4 rows, got 3"),
        (lambda: gap_report(nan, text), "image must be finite, got NaN or infinity in row 2"),
        (lambda: modality_gap(image, zero), "text must have a direction in every row, got zeros in row 5"),
        (lambda: modality_gap(image, text[:, :5]), "image and text must have matching widths"),
        (lambda: centre(image[:1], text), "image must have at least 2 rows"),
        (lambda: centre(image[0], text), r"image must be a floating-point tensor \(n, d\)"),
        (lambda: mixed_rank(image, zero), "text must have a direction in every row, got zeros in row 5"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def real_features(name):
    """The published features, from CLIPBOOK_DATA or a data folder beside the checkout, or None."""
    beside = Path(__file__).resolve().parents[2] / "shared/data"
    for folder in (os.environ.get("CLIPBOOK_DATA"), beside):
        for path in (Path(folder) / name, Path(folder) / "modality_gap" / name) if folder else ():
            if path.is_file():
                return torch.from_numpy(np.load(path))
    return None


def test_real_clip_features_give_the_known_numbers():
    features = real_features("features_clip.npy")
    if features is None:  # the synthetic identities above pin every definition without them
        pytest.skip("the released features are not here: set CLIPBOOK_DATA")
    report = gap_report(*features)
    # computed once with numpy alone, from the definitions
    known = {
        "gap": 0.8514, "relative_gap": 0.5915, "centroid_cosine": 0.3088, "matched_cosine": 0.3099,
        "unmatched_cosine": 0.1616, "image_cosine": 0.5315, "text_cosine": 0.5152, "alignment": 1.3802,
        "image_uniformity": -1.7945, "text_uniformity": -1.8409, "linear_separability": 1.0,
    }  # fmt: skip
    assert {k: round(v, 4) for k, v in report.items()} == known
    assert modality_gap(*centre(*features)) < 0.05


def test_shift_moves_along_the_gap_and_nothing_else():
    image, text = cones()
    x, y = (z.double() / z.double().norm(dim=1, keepdim=True) for z in (image, text))
    same = shift(image, text, 0.0)
    assert torch.allclose(same[0].double(), x, atol=1e-6) and torch.allclose(same[1].double(), y, atol=1e-6)
    gap = modality_gap(x, y)
    gaps = [modality_gap(*shift(x, y, delta)) for delta in (-gap, 0, gap / 2, gap)]
    assert gaps == sorted(gaps, reverse=True) and gaps[-1] < 0.5 * gap
    # before the last step the difference of the means is gap - delta: undo that step on a known direction
    direction = (x.mean(0) - y.mean(0)) / gap
    moved, _ = shift(x, y, 0.3)
    residual = moved - (moved * x).sum(1, keepdim=True) * x  # the part off x lies along the gap's own part off x
    expected = direction - (x @ direction)[:, None] * x
    cosine = (residual * expected).sum(1) / residual.norm(dim=1) / expected.norm(dim=1)
    assert torch.allclose(cosine, -torch.ones_like(cosine), atol=1e-6)
    for bad in (math.nan, math.inf, 1e308, -1e7, True, "1", None, torch.ones(2)):
        with pytest.raises(ValueError, match=r"delta must be a number in \[-1e6, 1e6\], got "):
            shift(image, text, bad)
    assert all(torch.allclose(z.norm(dim=1), torch.ones(200)) for z in shift(image, text, np.float32(-1e6)))
    with pytest.raises(ValueError, match="image and text must have different means"):
        shift(image, image, 0.1)


def test_conformity_is_the_mean_cosine_with_the_others():
    image, _ = cones(n=30)
    x = image.double() / image.double().norm(dim=1, keepdim=True)
    slow = [float(sum(x[i] @ x[j] for j in range(30) if j != i) / 29) for i in range(30)]
    assert conformity(image).tolist() == pytest.approx(slow, abs=1e-12)
    assert float(conformity(image).mean()) == pytest.approx(gap_report(image, image)["image_cosine"], abs=1e-12)
