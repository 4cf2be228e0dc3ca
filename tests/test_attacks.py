"""The attacks against what is known of them: their budget, their fixed points, and a linear model's exact optimum."""

import math

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from clipbook import attacks

EPSILON = 0.03
EVERY = [attacks.fgsm, attacks.pgd, attacks.cw]


def draw(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def small():
    """A network that is far from linear, images that touch both ends of the range, and their labels."""
    torch.manual_seed(0)
    layers = torch.nn.Linear(3 * 6 * 6, 32), torch.nn.Tanh(), torch.nn.Linear(32, 5)
    network = torch.nn.Sequential(torch.nn.Flatten(), *layers).requires_grad_(False)
    network[1].weight *= 6
    images = (1.6 * draw(24, 3, 6, 6) - 0.3).clamp(0, 1)
    return network, images, network(images).argmax(1)


@pytest.mark.parametrize("attack", EVERY)
def test_the_budget_is_kept_and_an_empty_one_changes_nothing(attack, small):
    network, images, labels = small
    assert torch.equal(attack(network, images, labels, 0.0), images)
    for epsilon in (EPSILON, 0.5, 1.0):
        found = attack(network, images, labels, epsilon)
        assert not found.requires_grad
        assert found.shape == images.shape and found.dtype == images.dtype
        assert float((found - images).abs().max()) <= epsilon + 1e-6
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        assert float((found - images).abs().max()) > 0.9 * epsilon, "and it is used"


@pytest.mark.parametrize("attack", EVERY)
def test_it_is_the_published_loop_image_by_image(attack, small):
    """Twenty steps of epsilon / 10 from a point drawn on both sides, and a model that sees pixels only."""
    network, images, labels = small

    def pixels_only(x):
        assert bool(((x >= 0) & (x <= 1)).all())
        return network(x)

    def loss(logits, label):
        if attack is attacks.cw:
            return max(logits[k] for k in range(5) if k != label) - logits[label]
        return logits.logsumexp(0) - logits[label]

    one_step = attack is attacks.fgsm
    steps, size, options = (1, EPSILON, {}) if one_step else (20, EPSILON / 10, {"generator": torch.Generator()})
    found = attack(pixels_only, images, labels, EPSILON, **{k: g.manual_seed(7) for k, g in options.items()})
    start = 0 if one_step else 2 * draw(*images.shape, seed=7) - 1
    x = torch.clamp(images + EPSILON * start, 0, 1)
    for _ in range(steps):
        x = x.clone().requires_grad_()
        for image, label in zip(x, labels.tolist()):
            loss(network(image[None])[0], label).backward(inputs=[x])
        moved = x.detach() + size * x.grad.sign()
        x = torch.minimum(torch.maximum(moved, images - EPSILON), images + EPSILON).clamp(0, 1)
    assert torch.allclose(found, x, atol=1e-6)


def test_labels_come_to_the_logits():
    with FakeTensorMode(allow_non_fake_inputs=True):
        logits = torch.randn(5, 3, device="cuda")
        assert attacks.margin(logits, torch.zeros(5, dtype=torch.int64)).device.type == "cuda"


def test_fgsm_is_one_step_of_pgd(small):
    network, images, labels = small
    one = attacks.pgd(network, images, labels, EPSILON, steps=1, step_size=EPSILON, random_start=False)
    assert torch.equal(attacks.fgsm(network, images, labels, EPSILON), one)


@pytest.mark.parametrize("attack", EVERY)
def test_on_two_classes_of_a_linear_model_the_margin_is_exact(attack):
    """There the worst change is known: epsilon times the sign of the difference of the weights, cut at 0 and 1."""
    weight, images = torch.randn(2, 40, generator=torch.Generator().manual_seed(1)), draw(16, 40)
    labels = torch.arange(16) % 2
    logits = lambda x: x @ weight.T
    towards = (weight[1 - labels] - weight[labels]).sign()
    best = attacks.margin(logits((images + EPSILON * towards).clamp(0, 1)), labels)
    reached = attacks.margin(logits(attack(logits, images, labels, EPSILON)), labels)
    assert torch.allclose(reached, best, atol=1e-4)
    bound = attacks.margin(logits(images), labels) + EPSILON * (weight[1] - weight[0]).abs().sum()
    assert bool((reached <= bound + 1e-4).all())
    inside = (0.2 + 0.6 * images, labels, EPSILON)  # where nothing is cut, the dual norm is reached
    reached = attacks.margin(logits(attack(logits, *inside)), labels)
    clean = attacks.margin(logits(inside[0]), labels)
    assert torch.allclose(reached - clean, EPSILON * (weight[1] - weight[0]).abs().sum().expand(16), atol=1e-4)


def test_twenty_steps_find_no_less_than_one(small):
    network, images, labels = small
    losses = torch.nn.functional.cross_entropy
    one = losses(network(attacks.fgsm(network, images, labels, EPSILON)), labels)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        many = losses(network(attacks.pgd(network, images, labels, EPSILON, generator=generator)), labels)
        assert many > one - 1e-4
    assert one > losses(network(images), labels)
    random = (images + EPSILON * (2 * draw(*images.shape, seed=3) - 1)).clamp(0, 1)
    assert one > losses(network(random), labels), "a random change of the same size does less"


def test_cw_raises_the_margin_most(small):
    network, images, labels = small
    reached = {attack: attacks.margin(network(attack(network, images, labels, EPSILON)), labels) for attack in EVERY}
    assert reached[attacks.cw].mean() >= reached[attacks.fgsm].mean() - 1e-4
    assert reached[attacks.cw].mean() >= reached[attacks.pgd].mean() - 1e-3
    logits = torch.tensor([[3.0, 1.0, 2.0], [0.0, 4.0, 1.0]])
    assert attacks.margin(logits, torch.tensor([0, 2])).tolist() == [-1.0, 3.0]


def test_a_seed_repeats_and_images_do_not_see_each_other(small):
    network, images, labels = small
    seeded = lambda seed: attacks.pgd(
        network, images, labels, EPSILON, generator=torch.Generator().manual_seed(seed), steps=2
    )
    assert torch.equal(seeded(1), seeded(1))
    assert not torch.equal(seeded(1), seeded(2))
    alone = attacks.pgd(network, images[3:5], labels[3:5], EPSILON, random_start=False)
    assert torch.allclose(alone, attacks.pgd(network, images, labels, EPSILON, random_start=False)[3:5], atol=1e-6)


def test_gradients_are_found_where_they_are_switched_off(small):
    network, images, labels = small
    before = images.clone()
    with torch.no_grad():
        inside = attacks.fgsm(network, images, labels, EPSILON)
    assert torch.equal(inside, attacks.fgsm(network, images, labels, EPSILON))
    assert torch.equal(images, before) and not images.requires_grad


@pytest.mark.parametrize("attack", EVERY)
def test_a_bad_argument_is_named(attack, small):
    network, images, labels = small
    for epsilon in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="epsilon must be in"):
            attack(network, images, labels, epsilon)
    with pytest.raises(ValueError, match="epsilon must be a number, got '0.1'"):
        attack(network, images, labels, "0.1")
    for bad, message in (
        (2 * images, r"images must be pixels in \[0, 1\]"),
        (images - 0.5, "before normalisation"),
        (images * math.nan, "images must be pixels"),
        ((255 * images).byte(), "images must be a floating-point"),
        (images[:0], "images must be a floating-point"),
    ):
        with pytest.raises(ValueError, match=message):
            attack(network, bad, labels, EPSILON)
    for bad, message in (
        (labels[:3], r"labels must be an int64 tensor \(24,\)"),
        (labels.float(), "labels must be an int64"),
        (labels - 9, "labels must be at least 0"),
        (labels + 5, r"labels must be in 0\.\.4"),
    ):
        with pytest.raises(ValueError, match=message):
            attack(network, images, bad, EPSILON)
    with pytest.raises(ValueError, match="model_logits must return"):
        attack(lambda x: network(x)[:, 0], images, labels, EPSILON)
    elsewhere = torch.zeros(24, 5, requires_grad=True)
    for blind in (lambda x: network(x).detach(), lambda x: 2 * elsewhere):
        with pytest.raises(ValueError, match="model_logits must be differentiable"):
            attack(blind, images, labels, EPSILON)
    with pytest.raises(ValueError, match="model_logits must be finite"):
        attack(lambda x: network(x) * math.nan, images, labels, EPSILON)
    if attack is not attacks.fgsm:
        for steps in (0, 2.0, True):
            with pytest.raises(ValueError, match="steps must be a positive int"):
                attack(network, images, labels, EPSILON, steps)
        with pytest.raises(ValueError, match="step_size must be"):
            attack(network, images, labels, EPSILON, step_size=-1.0)
