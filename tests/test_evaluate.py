"""The protocols against loops over samples, with ties, lengths and blocks."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from clipbook import evaluate
from clipbook.evaluate import binding, class_text, predict, retrieval, zero_shot


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cos(a, b):
    return float(a.double() @ b.double() / a.double().norm() / b.double().norm())


def test_zero_shot_is_the_share_of_nearest_angles():
    image, text = randn(60, 5) * 10, randn(4, 5, seed=1) * torch.tensor([[0.1], [1.0], [9.0], [3.0]])
    label = torch.arange(60) % 4
    nearest = [max(range(4), key=lambda c: cos(x, text[c])) for x in image]
    assert predict(image, text).tolist() == nearest
    right = [p == y for p, y in zip(nearest, label.tolist(), strict=True)]
    assert zero_shot(image, text, label) == pytest.approx(sum(right) / 60)
    longest = [max(range(4), key=lambda c: cos(x, text[c]) * float(text[c].norm())) for x in image]
    assert predict(image, text, keep_length=True).tolist() == longest != nearest
    assert zero_shot(text, text, torch.arange(4)) == 1.0
    assert zero_shot(image, text[:1], torch.zeros(60, dtype=torch.int64)) == 1.0  # one class


def test_three_averaging_conventions():
    text = randn(3, 2, 4) * torch.tensor([1.0, 5.0, 0.2])[:, None, None]
    units = text / text.norm(dim=-1, keepdim=True)
    mean = units.mean(0)
    assert torch.allclose(class_text(text, "mean"), mean, atol=1e-6)
    assert torch.allclose(class_text(text), mean / mean.norm(dim=-1, keepdim=True), atol=1e-6)
    raw = text.mean(0)
    assert torch.allclose(class_text(text, "mean-normalise"), raw / raw.norm(dim=-1, keepdim=True), atol=1e-6)
    # with "mean" kept at its length, the score is the mean of the cosines
    image = randn(50, 4, seed=2)
    scores = [[sum(cos(x, t[c]) for t in text) for c in range(2)] for x in image]
    best = [s.index(max(s)) for s in scores]
    assert predict(image, class_text(text, "mean"), keep_length=True).tolist() == best
    one = text[:1]  # one prompt: nothing to average, all conventions agree in angle
    assert all(predict(image, class_text(one, c)).equal(predict(image, one[0])) for c in evaluate.CONVENTIONS)


def test_retrieval_is_the_loop_over_queries(monkeypatch):
    image, text = randn(23, 6), randn(23, 6, seed=1)
    text[:9] += 2 * image[:9]

    def recall(queries, gallery, k):
        ranks = [sum(cos(q, g) >= cos(q, gallery[i]) - 1e-9 for g in gallery) for i, q in enumerate(queries)]
        return sum(r <= k for r in ranks) / len(ranks)

    expected = {f"i2t@{k}": recall(image, text, k) for k in (1, 3, 30)}
    expected |= {f"t2i@{k}": recall(text, image, k) for k in (1, 3, 30)}
    assert len(set(expected.values())) > 3  # the case tells directions and cut-offs apart
    for block in (evaluate._BLOCK, 1, 23 * 5):
        monkeypatch.setattr(evaluate, "_BLOCK", block)
        assert retrieval(image * 7, text, ks=(1, 3, 30)) == pytest.approx(expected)
    assert list(retrieval(image, text)) == ["i2t@1", "t2i@1", "i2t@5", "t2i@5", "i2t@10", "t2i@10"]


def test_retrieval_gives_collapsed_and_duplicate_features_no_credit():
    same = torch.ones(8, 3)
    assert retrieval(same, same, (1, 7, 8)) == {
        "i2t@1": 0, "t2i@1": 0, "i2t@7": 0, "t2i@7": 0, "i2t@8": 1, "t2i@8": 1,
    }  # fmt: skip
    basis = torch.eye(6)
    text = basis.clone()
    text[1] = text[0] * 3  # the same caption, longer: images 0 and 1 ...
    result = retrieval(basis, text, (1,))
    assert result["i2t@1"] == pytest.approx(4 / 6)  # ... cannot be told apart by their text
    noisy = same + 1e-7 * randn(8, 3)  # float32 rounding is not a preference
    assert retrieval(noisy, noisy, (1,))["i2t@1"] == 0


def test_mixed_rank_is_the_loop_over_one_index_of_both_modalities(monkeypatch):
    g = torch.Generator().manual_seed(3)
    text = torch.randn(23, 6, generator=g)
    image = text + torch.randn(23, 6, generator=g)
    x, y = (z.double() / z.double().norm(dim=1, keepdim=True) for z in (image, text))
    slow = []
    for i in range(23):
        index = torch.cat([x, y[:i], y[i + 1 :]]) @ y[i]
        slow.append(int((index >= x[i] @ y[i] - 1e-6).sum()))
    for limit in (10**6, 70):
        monkeypatch.setattr(evaluate, "_BLOCK", limit)
        assert evaluate.mixed_rank(image, text).tolist() == slow
    apart = torch.cat([torch.ones(23, 1), torch.zeros(23, 1)], 1) * 50  # each modality far out on its own side
    ranks = evaluate.mixed_rank(torch.cat([image, apart], 1), torch.cat([text, apart.flip(1)], 1))
    assert int(ranks.min()) > 22  # every text comes before any image
    same = torch.ones(5, 3)
    assert evaluate.mixed_rank(same, same).tolist() == [9] * 5  # 5 images and 4 other texts, all as near


def test_binding_counts_a_tie_as_one_half():
    image = torch.eye(4)
    true, false = torch.eye(4), torch.eye(4).roll(1, 0)
    assert binding(image, true * 9, false) == 1.0
    assert binding(image, false, true) == 0.0
    assert binding(image, true, true) == 0.5
    mixed = torch.stack([true[0], false[1], true[2] * 2, false[3]])  # tie, win, tie, win
    assert binding(image, true, mixed) == 0.75
    x, a, b = randn(50, 5), randn(50, 5, seed=1), randn(50, 5, seed=2)
    assert binding(x, a, b) == pytest.approx(sum(cos(q, t) > cos(q, f) for q, t, f in zip(x, a, b, strict=True)) / 50)
    bag = randn(50, 7, 5, seed=3)  # a bag of words adds the same numbers in another order
    assert binding(x, bag.sum(1), bag.flip(1).sum(1)) == 0.5


def test_blocks_do_not_change_predictions(monkeypatch):
    image, text = randn(37, 5), randn(4, 5, seed=1)
    whole = predict(image, text)
    monkeypatch.setattr(evaluate, "_BLOCK", 11)
    assert predict(image, text).equal(whole)


def test_bad_input_names_the_argument():
    x, y, label = randn(6, 3), randn(4, 3), torch.tensor([0, 1, 2, 3, 0, 1])
    nan = x.clone()
    nan[4, 0] = math.nan
    for call, message in [
        (lambda: zero_shot(x, y[:, :2], label), r"image and class_text .* widths, got \(6, 3\) and \(4, 2\)"),
        (lambda: zero_shot(nan, y, label), "image must be finite, got NaN or infinity in row 4"),
        (lambda: zero_shot(x, y, label[:5]), r"label must be an integer tensor \(6,\), got .*\(5,\)"),
        (lambda: zero_shot(x, y, label.float()), "label must be an integer tensor"),
        (lambda: zero_shot(x, y[:3], label), r"label must be in 0..2 \(rows of class_text\), got 0..3"),
        (lambda: zero_shot(x, y, label - 1), "label must be in 0..3"),
        (lambda: zero_shot(x, y, label > 1), "label must be an integer tensor"),
        (lambda: zero_shot(x[:0], y, label[:0]), "image must have at least 1 row"),
        (lambda: class_text(y), r"text must be a tensor \(templates, classes, d\), got \(4, 3\)"),
        (lambda: class_text(nan[None]), "text must be finite"),
        (lambda: class_text(x[None], "median"), "convention must be one of .*'median'"),
        (lambda: retrieval(x, y), "image and text"),
        (lambda: retrieval(x, x, ks=(0,)), r"ks must be positive ints, got \(0,\)"),
        (lambda: retrieval(x, x, ks=(1.5,)), "ks must be positive ints"),
        (lambda: retrieval(x, nan), "text must be finite"),
        (lambda: binding(x, x, y), "image and false_text must have matching shapes"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()


def test_probes_are_scikit_learns_logistic_regression():
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    g = torch.Generator().manual_seed(0)  # few examples for so many features of all scales: the penalty decides
    factors = {"a": torch.randint(5, (1000,), generator=g), "b": torch.randint(2, (1000,), generator=g)}
    x = torch.randn(1000, 150, generator=g)
    x[:, :5] += 1.5 * torch.nn.functional.one_hot(factors["a"], 5)
    x[:, 5] += factors["b"]
    x *= 10 ** torch.linspace(-1, 1, 150)[torch.randperm(150, generator=g)]
    found = evaluate.probes(x, factors, seed=3)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(3))
    raw = x[order].double().numpy()
    z, one = StandardScaler().fit(raw[:500]).transform(raw), 0.0021  # one of 500 answers

    def score(z, name, c):
        y = factors[name][order]
        return LogisticRegression(C=c, max_iter=5000, tol=1e-8).fit(z[:500], y[:500]).score(z[500:], y[500:])

    assert found["a"] == pytest.approx(score(z, "a", 1.0), abs=one)
    assert found["b"] == pytest.approx(score(z, "b", 2.0), abs=one), "two values have a weight vector each: C = 2"
    for other in (score(z, "a", 0.5), score(z, "a", 2.0), score(raw, "a", 1.0)):
        assert abs(found["a"] - other) > 2 * one, "which another penalty or scale would not give"
    both = evaluate.probes(1000 * x - 7, {"b": factors["b"].to(torch.uint8)}, seed=3)
    assert both["b"] == pytest.approx(found["b"], abs=one), "alone, shifted, scaled: the same"
    for bad, message in (
        ({}, "at least one factor"),
        ({"a": torch.ones(3)}, "'a'"),
        ({"b": -factors["b"]}, "'b'"),
        ({"b": factors["b"] > 0}, r"factors\['b'\] must be an integer tensor \(1000,\), got torch.bool"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.probes(x, bad)


def test_the_strength_of_few_shot_probes_is_for_each_example_of_a_class(monkeypatch):
    from sklearn.linear_model import LogisticRegression

    g, seeds = torch.Generator().manual_seed(0), (0, 5)
    label, test_label = torch.arange(240) % 6, torch.arange(600) % 6
    centre = torch.randn(6, 24, generator=g) + 2 * torch.randn(24, generator=g)
    pool, test = (centre[y] + 2.5 * torch.randn(len(y), 24, generator=g) for y in (label, test_label))
    monkeypatch.setattr(evaluate, "_BLOCK", 5000)  # answers in blocks
    found = evaluate.few_shot_probe(pool[None], label, test[None], test_label, shots=(16,), seeds=seeds)[0, :, 0]
    z, y = (x.double() / x.double().norm(dim=1, keepdim=True) for x in (pool, test))

    def score(seed, c):
        rows = evaluate.draw_shots(label, 16, [seed])[0].flatten()
        model = LogisticRegression(C=c, fit_intercept=False, max_iter=5000, tol=1e-8).fit(z[rows], label[rows])
        return model.score(y, test_label)

    for seed, own in zip(seeds, found.tolist(), strict=True):
        assert own == pytest.approx(score(seed, 100 / 16), abs=0.0021)
        assert abs(own - score(seed, 100)) > 0.02, "undivided it is another"


def test_answers_and_labels_meet_on_the_device_of_the_features():
    with FakeTensorMode(allow_non_fake_inputs=True):
        weight, x = torch.randn(2, 3, 4, 5, device="cuda"), torch.randn(2, 9, 5, device="cuda")
        found = evaluate._accuracy(weight, x, torch.zeros(9, dtype=torch.int64))
        assert found.shape == (3, 2) and found.device.type == "cuda"


def test_few_shot_probes_are_logistic_regression_on_unit_vectors():
    from sklearn.linear_model import LogisticRegression

    label, test_label = torch.arange(60) % 3, torch.arange(90) % 3
    centre = 2 * randn(3, 8, seed=5)
    kinds = torch.stack([randn(60, 8) + centre[label], randn(60, 8, seed=9)])  # one tells the classes, one does not
    test = torch.stack([randn(90, 8, seed=1) + centre[test_label], randn(90, 8, seed=8)])
    found = evaluate.few_shot_probe(kinds, label, test, test_label, shots=(2, 20), seeds=(0, 4, 7), strength=10.0)
    assert found.shape == (2, 3, 2)
    z, y = kinds[0] / kinds[0].norm(dim=1, keepdim=True), test[0] / test[0].norm(dim=1, keepdim=True)
    model = LogisticRegression(C=10.0 / 20, fit_intercept=False, max_iter=5000, tol=1e-8).fit(z, label)
    # with all 20 of each class every draw is the whole pool, for which scikit-learn gives the same
    assert found[1, :, 0].tolist() == pytest.approx([model.score(y, test_label)] * 3, abs=0.012)
    assert found[0, :, 0].mean() < found[1, 0, 0], "more shots, more accuracy"
    assert found[1, 0, 0] > 0.8 > 0.55 > found[1, 0, 1], "kinds are told apart"
    for seed, own in zip((0, 4, 7), found[0, :, 0].tolist(), strict=True):
        rows = evaluate.draw_shots(label, 20, [seed])[0, :, :2].flatten()
        few = LogisticRegression(C=10.0 / 2, fit_intercept=False, max_iter=5000, tol=1e-8).fit(z[rows], label[rows])
        assert own == pytest.approx(few.score(y, test_label), abs=0.012), "its own draw"
    alone = evaluate.few_shot_probe(kinds[:1], label, test[:1], test_label, shots=(2,), seeds=(4,), strength=10.0)
    assert float(alone) == pytest.approx(float(found[0, 1, 0]), abs=0.025), "a stack changes nothing"
    scaled = evaluate.few_shot_probe(100 * kinds, label, test / 7, test_label, shots=(2,), seeds=(0,), strength=10.0)
    assert torch.allclose(scaled[0], found[0, :1], atol=0.025)
    arguments = kinds, label, test, test_label
    for place, bad, message in (
        (0, kinds[0], "pool must be a tensor"),
        (1, label[:5], "pool_label must be"),
        (1, label.double(), "pool_label must be an integer"),
        (2, test[:1], "the same kinds"),
        (3, test_label[:5], "test_label must be"),
        (0, kinds * math.nan, "pool must be finite"),
        (1, label - 1, r"pool_label must be in 0\.\.c-1 of at least 2 classes, got -1\.\.1"),
        (1, label * 0, r"pool_label must be in 0\.\.c-1 of at least 2 classes, got 0\.\.0"),
        (1, label > 0, "pool_label must be an integer"),
        (2, test.double(), "pool and test must have matching dtypes, got torch.float32 and torch.float64"),
        (3, test_label + 1, r"test_label must be in 0\.\.2 \(classes of pool_label\), got 1\.\.3"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.few_shot_probe(*arguments[:place], bad, *arguments[place + 1 :], shots=(2,))
    for options, message in (
        ({"shots": (21,)}, "number of examples of every class, got 21, but class 0 has 20"),
        ({"shots": ()}, "shots must be positive"),
        ({"shots": (0,)}, "shots must be positive"),
        ({"shots": (2.7,)}, "shots must be positive"),
        ({"shots": (2,), "strength": 0.0}, "strength must be finite and above 0"),
        ({"shots": (2,), "strength": "1"}, "strength must be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            evaluate.few_shot_probe(*arguments, **options)
