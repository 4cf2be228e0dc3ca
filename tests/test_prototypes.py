"""Few-shot classifiers against slow definitions, their limits, and each other."""

import math

import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from clipbook import evaluate, prototypes
from clipbook.losses import unit


def shots(k=4, c=5, d=12, seed=0, dtype=torch.float64):
    """k examples of each of c classes around c centres, then queries, one text per class."""
    g = torch.Generator().manual_seed(seed)
    centre = torch.randn(c, d, generator=g, dtype=dtype)
    labels = torch.arange(c).repeat_interleave(k)
    query_labels = torch.arange(60) % c
    noisy = lambda y: centre[y] + 0.8 * torch.randn(len(y), d, generator=g, dtype=dtype)
    text = centre + 0.9 * torch.randn(c, d, generator=g, dtype=dtype)
    return noisy(labels), labels, noisy(query_labels), query_labels, text


def test_class_means_are_means_in_any_order_and_in_stacks():
    keys, labels, *_ = shots()
    slow = torch.stack([keys[labels == k].mean(0) for k in range(5)])
    order = torch.randperm(len(keys), generator=torch.Generator().manual_seed(1))
    assert torch.allclose(prototypes.class_means(keys[order], labels[order], 5), slow)
    stack = prototypes.class_means(torch.stack([keys, keys[order]]), torch.stack([labels, labels[order]]), 5)
    assert torch.allclose(stack, slow.expand(2, -1, -1))
    # moving every example moves its mean, and one example is its own prototype
    assert torch.allclose(prototypes.class_means(keys + 3, labels, 5), slow + 3)
    assert torch.equal(prototypes.class_means(keys[:2], torch.tensor([1, 0]), 2), keys[:2].flip(0))


def test_squared_distance_is_a_gaussian_and_on_the_sphere_a_cosine():
    keys, labels, x, _, _ = shots()
    means = prototypes.class_means(keys, labels, 5)
    logits = prototypes.prototype_logits(x, means, 0.7)
    assert torch.allclose(logits, -0.7 * torch.cdist(x, means) ** 2, atol=1e-10)
    gaussian = torch.distributions.MultivariateNormal(means, torch.eye(12, dtype=x.dtype) / (2 * 0.7))
    assert torch.allclose(logits.softmax(1), gaussian.log_prob(x[:, None]).softmax(1), atol=1e-12)
    cosine = unit(x) @ unit(means).T
    on_sphere = prototypes.prototype_logits(unit(x), unit(means), 3.0)
    assert torch.allclose(on_sphere.softmax(1), (2 * 3.0 * cosine).softmax(1), atol=1e-12)
    assert torch.equal(prototypes.prototype_logits(x, means, 0.0), torch.zeros(60, 5, dtype=x.dtype))


def test_proto_clip_mixes_probabilities_and_both_ends_are_its_parts():
    keys, labels, x, _, text = shots()
    means = prototypes.class_means(keys, labels, 5)
    at = lambda alpha: prototypes.proto_clip_probabilities(x, means, text, alpha, 5.0)
    assert torch.allclose(at(0), (10 * unit(x) @ unit(text).T).softmax(1)), "alpha 0 is the text alone"
    assert torch.allclose(at(1), (10 * unit(x) @ unit(means).T).softmax(1)), "alpha 1 is the shots alone"
    assert torch.allclose(at(0.3), 0.3 * at(1) + 0.7 * at(0))
    assert torch.allclose(at(0.3).sum(1), torch.ones(60, dtype=x.dtype))
    mixed_logits = (0.3 * at(1).log() + 0.7 * at(0).log()).softmax(1)
    assert not torch.allclose(at(0.3), mixed_logits, atol=1e-3), "which mixed logits are not"


def test_tip_adapter_between_zero_shot_class_mean_and_nearest_neighbour():
    keys, labels, x, _, text = shots()
    at = lambda alpha, beta, scale=100.0: prototypes.tip_adapter_logits(x, keys, labels, text, alpha, beta, scale)
    cosine = unit(x) @ unit(keys).T
    slow = 100 * unit(x) @ unit(text).T
    for j, label in enumerate(labels.tolist()):
        slow[:, label] += 2.0 * torch.exp(-3.0 * (1 - cosine[:, j]))
    assert torch.allclose(at(2.0, 3.0), slow)
    assert torch.allclose(at(0, 3.0), 100 * unit(x) @ unit(text).T), "alpha 0 is zero-shot"
    nearest = labels[cosine.argmax(1)]
    assert torch.equal(at(1, 500, 0).argmax(1), nearest), "a sharp cache is the nearest neighbour"
    means = prototypes.class_means(unit(keys), labels, 5)
    assert torch.equal(at(1, 1e-6, 0).argmax(1), (x @ means.T).argmax(1)), "a blunt one the class mean of unit vectors"


def test_gaussian_discriminant_is_shrinkage_lda_and_at_full_shrinkage_the_class_mean():
    keys, labels, x, _, _ = shots(k=6)
    for shrinkage in (0.05, 0.5, 1.0):
        weight, bias = prototypes.gaussian_discriminant(keys, labels, 5, shrinkage)
        reference = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=[0.2] * 5)
        theirs = torch.from_numpy(reference.fit(keys.numpy(), labels).decision_function(x.numpy()))
        ours = x @ weight.T + bias
        ours, theirs = (z - z.mean(1, keepdim=True) for z in (ours, theirs))
        # theirs is in units of the features, ours of the mean variance: one number between them
        assert torch.allclose(ours / ours.norm(), theirs / theirs.norm(), atol=1e-8), shrinkage
    means = prototypes.class_means(keys, labels, 5)
    nearest = torch.cdist(x, means).argmin(1)
    assert torch.equal(ours.argmax(1), nearest)
    one = prototypes.gaussian_discriminant(keys[::6], labels[::6], 5, 0.1)  # one shot: no covariance to be had
    assert torch.equal((x @ one[0].T + one[1]).argmax(1), torch.cdist(x, keys[::6]).argmin(1))
    stack = prototypes.gaussian_discriminant(keys.expand(2, -1, -1), labels, 5, torch.tensor([0.05, 0.5]))
    assert torch.allclose(stack[0][0], prototypes.gaussian_discriminant(keys, labels, 5, 0.05)[0])


def test_linear_probe_is_scikit_learns_and_starts_where_it_is_told():
    keys, labels, x, _, text = shots(k=8)
    strengths = torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)
    found = prototypes.linear_probe(keys.expand(3, -1, -1), labels, 5, strengths)
    for weight, strength in zip(found, strengths.tolist(), strict=True):
        reference = LogisticRegression(C=strength, fit_intercept=False, max_iter=10_000, tol=1e-10)
        theirs = reference.fit(unit(keys).numpy(), labels).predict_proba(unit(x).numpy())
        assert torch.allclose((unit(x) @ weight.T).softmax(1), torch.from_numpy(theirs), atol=2e-3), strength
    start = 20 * unit(text)
    weak, strong = prototypes.linear_probe(keys.expand(2, -1, -1), labels, 5, torch.tensor([1e-6, 1.0]), start)
    assert torch.allclose(weak, start, atol=1e-4), "no fit: the start"
    residual = (unit(keys) @ strong.T).softmax(1) - torch.nn.functional.one_hot(labels, 5)
    assert torch.allclose(residual.T @ unit(keys), start - strong, atol=1e-3), "the gradient is zero at the optimum"
    twice = prototypes.linear_probe(torch.cat([keys, keys])[None], labels.repeat(2), 5, 1.0)
    heavy = prototypes.linear_probe(keys[None], labels, 5, 1.0, weights=torch.full((len(keys),), 2.0))
    assert torch.allclose(twice, heavy, atol=2e-3), "an example of weight 2 counts as two"


def test_linear_probe_of_many_problems_in_float32_is_still_scikit_learns(monkeypatch):
    """With a common mean, as real features have, and many classes: where float32 stopped after one tiny step."""
    g, c, k, p = torch.Generator().manual_seed(0), 100, 3, 10
    labels = torch.arange(c).repeat_interleave(k)
    centre = torch.randn(c, 64, generator=g) + 3 * torch.randn(64, generator=g)
    keys = centre[labels] + 1.5 * torch.randn(p, c * k, 64, generator=g)
    found = prototypes.linear_probe(keys, labels, c, 30.0)
    assert found.dtype == torch.float32
    for i in (0, p - 1):
        reference = LogisticRegression(C=30.0, fit_intercept=False, max_iter=1000, tol=1e-7)
        theirs = torch.from_numpy(reference.fit(unit(keys[i]).double().numpy(), labels).coef_)
        ours = found[i].double() - found[i].double().mean(0)  # they differ by what all classes share: nothing here
        assert float((ours - theirs).norm() / theirs.norm()) < 5e-4
    assert prototypes.linear_probe(keys[:2].half(), labels, c).dtype == torch.float32
    x, strong = unit(keys[:2].double()), prototypes.linear_probe(keys[:2].double(), labels, c, 1e4)
    residual = (x @ strong.mT).softmax(-1) - torch.nn.functional.one_hot(labels, c)
    gradient = 1e4 * residual.mT @ x + strong  # no shorter than the way to the optimum, whatever the strength
    assert bool((gradient.flatten(1).norm(dim=1) <= 1.01e-4 * strong.flatten(1).norm(dim=1)).all())
    monkeypatch.setattr(prototypes, "_ROUNDS", 1)
    with pytest.raises(RuntimeError, match="linear_probe has not converged in 10 steps"):
        prototypes.linear_probe(keys, labels, c, 30.0)


def test_with_two_classes_the_probe_is_scikit_learns_at_twice_the_strength():
    keys, labels, *_ = shots(k=8, c=2)
    weight = prototypes.linear_probe(keys[None], labels, 2, 3.0)[0]
    reference = LogisticRegression(C=6.0, fit_intercept=False, max_iter=1000, tol=1e-9).fit(unit(keys).numpy(), labels)
    assert torch.allclose((weight[1] - weight[0])[None], torch.from_numpy(reference.coef_), atol=1e-3)


def test_sinkhorn_balances_prototypes_and_never_overflows():
    scores = torch.randn(64, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    slow = (scores / 0.5).exp()
    for _ in range(3):
        slow = slow / slow.sum(0)
        slow = slow / slow.sum(1, keepdim=True)
    assert torch.allclose(prototypes.sinkhorn(scores, 0.5, 3), slow)
    off = [float((prototypes.sinkhorn(scores, 0.5, n).sum(0) - 8).abs().max()) for n in (1, 3, 10, 100)]
    assert off == sorted(off, reverse=True) and off[-1] < 1e-6
    shifted = scores + torch.randn(64, 1, dtype=torch.float64) + torch.randn(8, dtype=torch.float64)
    both = [prototypes.sinkhorn(z, 0.5, 200) for z in (scores, shifted)]
    assert torch.allclose(*both, atol=1e-6), "what a sample or a prototype adds to all its scores does not matter"
    half = (60_000 * torch.rand(64, 8)).half()
    for epsilon in (1e-8, 0.05, 1e8):
        q = prototypes.sinkhorn(half, epsilon, 3)
        assert q.dtype == torch.float16 and torch.isfinite(q).all()
        assert torch.allclose(q.double().sum(1), torch.ones(64, dtype=torch.float64), atol=2e-3)


@pytest.mark.parametrize("c", [2, 5])
def test_mixing_accuracy_is_the_loop_over_alphas(c):
    g = torch.Generator().manual_seed(c)
    base, added = torch.randn(40, c, generator=g), torch.randn(3, 40, c, generator=g)
    label = torch.randint(c, (40,), generator=g)
    alphas = torch.linspace(-2, 6, 201)
    found = evaluate.mixing_accuracy(base, added, label, alphas)
    slow = [[((base + a * z).argmax(1) == label).double().mean() for a in alphas] for z in added]
    assert torch.equal(found, torch.tensor(slow, dtype=torch.float64))
    # alpha 0 is the base alone; without a slope every alpha is; a tie is no answer
    assert (
        evaluate.mixing_accuracy(base, 0 * base, label, [0.0, 9.0]).tolist()
        == [evaluate.mixing_accuracy(base, added[0], label, [0.0]).item()] * 2
    )
    assert evaluate.mixing_accuracy(0 * base, 0 * base, label, [1.0]).item() == 0


def test_shots_are_drawn_by_class_and_more_keep_the_fewer():
    label = torch.randint(4, (100,), generator=torch.Generator().manual_seed(0))
    eight = evaluate.draw_shots(label, 8, range(3))
    assert torch.equal(label[eight], torch.arange(4)[None, :, None].expand(3, 4, 8))
    assert all(len(set(rows.flatten().tolist())) == 32 for rows in eight)
    assert torch.equal(evaluate.draw_shots(label, 2, [1])[0], eight[1, :, :2])
    assert not torch.equal(eight[0], eight[1])


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1.0), (torch.float32, 3e38), (torch.float64, 1e307)])
@pytest.mark.parametrize("epsilon", [5e-324, 1e-310, 1e-308, 1e-300, 0.05, 1e300])
def test_sinkhorn_is_finite_for_any_score_and_epsilon(dtype, size, epsilon):
    random = torch.randn(64, 8, generator=torch.Generator().manual_seed(0), dtype=dtype)
    for scores in (random.clamp(-1, 1) * size, random.sign() * size):  # the second is full of ties
        for n_iterations in (1, 3, 30):
            q = prototypes.sinkhorn(scores, epsilon, n_iterations)
            assert torch.isfinite(q).all() and (q >= 0).all()
            assert torch.allclose(q.sum(1), torch.ones(64, dtype=dtype), atol=1e-6)


def bad_input():
    keys, labels, x, query_labels, text = shots()
    p, e = prototypes, evaluate
    tip = lambda **bad: p.tip_adapter_logits(x, keys, labels, text, **{"alpha": 1.0, "beta": 2.0} | bad)
    mix = p.proto_clip_probabilities
    probe = lambda **bad: p.linear_probe(keys[None], labels, 5, **bad)
    some = torch.cat([labels[:16], labels[:4]])  # no shot of class 4
    return [
        (lambda: p.class_means(keys, labels, 6), "no example of class 5"),
        (lambda: p.class_means(keys, labels, 4), r"labels must be in 0\.\.3, got 0\.\.4"),
        (lambda: p.class_means(keys, labels[:3], 5), r"labels must be int64 \(\.\.\., 20\)"),
        (lambda: p.class_means(keys, labels * 0, 1), "n_classes must be an int of at least 2, got 1"),
        (lambda: p.class_means(keys / 0, labels, 5), "features must be finite"),
        (lambda: p.prototype_logits(x, text, -1.0), "beta must be finite and at least 0, got -1"),
        (lambda: p.prototype_logits(x, text[:, :3]), "x and prototypes must have matching widths, got 12 and 3"),
        (lambda: mix(x, text, text, 1.1, 1.0), r"alpha must be in \[0, 1\], got 1.1"),
        (lambda: mix(x, text, text, -0.1, 1.0), "alpha must be in"),
        (lambda: mix(x, text, text, 0.5, -1.0), "beta must be"),
        (lambda: mix(x, text[:4], text, 0.5, 1.0), "as many classes, got 4 and 5"),
        (lambda: p.tip_adapter_logits(x, keys, labels, text, 1.0, -2.0), "beta must be finite and at least 0"),
        (lambda: p.tip_adapter_logits(x, keys, labels, text, math.nan, 2.0), "alpha must be finite"),
        (lambda: p.tip_adapter_logits(x, keys, labels, text[:4], 1.0, 2.0), r"labels must be in 0\.\.3"),
        (lambda: p.prototype_logits(x.half(), text.float()), "x and prototypes must have matching dtypes, got"),
        (lambda: p.prototype_logits(x, text, "1"), "beta must be a number, got '1'"),
        (lambda: mix(x, text[:1], text[:1], 0.5, 1.0), "image_prototypes must have a row for each"),
        (lambda: mix(x, text, text[:1], 0.5, 1.0), "text_prototypes must have a row for each"),
        (lambda: mix(x, text, text.float(), 0.5, 1.0), "x and text_prototypes must have matching"),
        (lambda: mix(x, text, text, "a", 1.0), "alpha must be a number, got 'a'"),
        (lambda: mix(x, text, text, True, 1.0), "alpha must be a number, got True"),
        (lambda: tip(alpha=None), "alpha must be a number, got None"),
        (lambda: tip(alpha=torch.tensor(True)), r"alpha must be a number, got a tensor \(\) of torch.bool"),
        (lambda: tip(scale=[1.0]), r"scale must be a number, got \[1.0\]"),
        (lambda: p.tip_adapter_logits(x, keys[:4], labels[:4], text[:1], 1.0, 2.0), "text must have a row"),
        (lambda: p.tip_adapter_logits(x, keys, some, text, 1.0, 2.0), "labels must hold every class, got no"),
        (lambda: p.gaussian_discriminant(keys, labels, 5, 0.0), r"shrinkage must be in \[1e-06, 1\], got 0"),
        (lambda: p.linear_probe(keys, labels, 5), r"features must be a tensor \(problems, n, d\)"),
        (lambda: probe(strength=0.0), "strength must be"),
        (lambda: probe(start=text[:4]), r"start must be \(5, 12\) or \(1, 5, 12\), got \(4, 12\)"),
        (lambda: probe(start=text.expand(2, -1, -1)), "start must be"),
        (lambda: probe(start=text / 0), "start must be finite"),
        (lambda: probe(strength=torch.ones(2)), r"strength must be \(\) or \(1,\), got \(2,\)"),
        (lambda: probe(strength="1"), "strength must be a number"),
        (lambda: probe(weights=torch.ones(3)), r"weights must be \(20,\) or \(1, 20\), got \(3,\)"),
        (lambda: probe(weights=-torch.ones(20)), "weights must be finite and at least 0, got -1"),
        (lambda: p.linear_probe(keys[None], some, 5), "labels must hold every class, got no example of class 4"),
        (lambda: p.linear_probe(keys[None], labels.expand(2, -1), 5), r"labels must be \(20,\) or \(1, 20\)"),
        (lambda: p.sinkhorn(text, epsilon=0.0), "epsilon must be finite and above 0"),
        (lambda: p.sinkhorn(text, epsilon=-1.0), "epsilon must be finite and above 0"),
        (lambda: p.sinkhorn(text, epsilon="a"), "epsilon must be a number, got 'a'"),
        (lambda: p.sinkhorn(text, epsilon=True), "epsilon must be a number, got True"),
        (lambda: p.sinkhorn(text / 0), "scores must be finite"),
        (lambda: p.sinkhorn(text, n_iterations=0), "n_iterations must be a positive int"),
        (lambda: e.draw_shots(labels, 5, [0]), "got 5, but class 0 has 4"),
        (lambda: e.draw_shots(labels, 0, [0]), "shots must be a positive int"),
        (lambda: e.draw_shots(labels[:0], 1, [0]), "label must be int64 .* of at least 2 classes"),
        (lambda: e.draw_shots(labels - 1, 1, [0]), "label must be int64 .* of at least 2 classes"),
        (lambda: e.draw_shots(labels * 0, 1, [0]), "label must be int64 .* of at least 2 classes"),
        (lambda: e.draw_shots(labels.float(), 1, [0]), "label must be int64 .* of at least 2 classes"),
        (lambda: e.draw_shots([0, 1], 1, [0]), r"label must be int64 .* got \[0, 1\]"),
        (lambda: e.mixing_accuracy(x, x, query_labels + 8, [0.0]), r"label must be in 0\.\.11, got 8\.\.12"),
        (lambda: e.mixing_accuracy(x, x, query_labels.float(), [0.0]), "label must be int64"),
        (lambda: e.mixing_accuracy(x, x, [0, 1], [0.0]), "base, added and label must be .* and list"),
        (lambda: e.mixing_accuracy(x, x[:, :7], query_labels, [0.0]), "base, added and label must be"),
        (lambda: e.mixing_accuracy(x, x, query_labels.expand(3, -1), [0.0]), "base, added and label must be"),
        (lambda: e.mixing_accuracy(x.tolist(), x, query_labels, [0.0]), "base must be a tensor"),
        (lambda: e.mixing_accuracy(x, x, labels, [0.0]), r"base, added and label must be"),
        (lambda: e.mixing_accuracy(x, x, torch.zeros(60).long(), [1.0, 0.0]), "ascending order"),
    ]


@pytest.mark.parametrize(("call", "message"), bad_input())
def test_bad_input_names_the_argument(call, message):
    with pytest.raises(ValueError, match=message):
        call()
