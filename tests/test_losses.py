"""The losses against slow definitions, known values and gradients; bad input names the argument."""

import math

import pytest
import torch

from clipbook import losses
from clipbook.losses import alignment, clip_loss, cross_uniformity, cua_loss, cuaxu_loss, uniformity


def pair(n=7, d=5, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(2, n, d, generator=g, dtype=dtype)).unbind(0)


def cosines(x, y):
    return torch.tensor([[float(a @ b / a.norm() / b.norm()) for b in y] for a in x], dtype=torch.float64)


def test_clip_loss_is_the_mean_of_both_cross_entropies_written_out():
    image, text = pair()
    logits = 14.3 * cosines(image, text)
    rows = [math.log(sum(math.exp(v) for v in row)) - row[i] for i, row in enumerate(logits.tolist())]
    cols = [math.log(sum(math.exp(v) for v in col)) - col[i] for i, col in enumerate(logits.T.tolist())]
    assert float(clip_loss(image, text, 14.3)) == pytest.approx((sum(rows) + sum(cols)) / 14, abs=1e-12)


def test_clip_loss_identities():
    image, text = pair(n=16, d=8)
    loss = clip_loss(image, text, 20.0)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    lengths = torch.rand(16, 1, dtype=torch.float64) + 0.1
    same = [(text, image), (image[order], text[order]), (image * lengths, text * 7)]
    for a, b in same:  # symmetric, equivariant to order, blind to length
        assert torch.allclose(clip_loss(a, b, 20.0), loss, atol=1e-12)
    assert clip_loss(image, image, 20.0) < 1 < clip_loss(image, image[order], 20.0)  # pairs matter
    collapsed = clip_loss(image[:1].expand(16, -1), text[:1].expand(16, -1), 20.0)
    assert float(collapsed) == pytest.approx(math.log(16))  # which cannot tell anything: chance
    basis = torch.eye(16, dtype=torch.float64)  # orthonormal pairs: the loss is known in closed form
    assert float(clip_loss(basis, basis, 5.0)) == pytest.approx(math.log(1 + 15 * math.exp(-5)), abs=1e-12)


def test_alignment_and_uniformities_are_their_definitions():
    x, y = pair(n=9)
    ux, uy = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    assert float(alignment(x, y)) == pytest.approx(
        sum(float((a - b) @ (a - b)) for a, b in zip(ux, uy, strict=True)) / 9
    )
    assert float(alignment(x, y)) == pytest.approx(2 - 2 * float((ux * uy).sum(1).mean()))
    assert float(alignment(x, -x)) == pytest.approx(4)
    for t in (0.5, 2.0):
        kernel = lambda a, b: math.exp(-t * float((a - b).square().sum()))  # noqa: B023
        pairs = [kernel(ux[i], ux[j]) for i in range(9) for j in range(i + 1, 9)]
        assert float(uniformity(x, t)) == pytest.approx(math.log(sum(pairs) / 36), abs=1e-12)
        cross = [kernel(ux[i], uy[j]) for i in range(9) for j in range(9) if i != j]
        assert float(cross_uniformity(x, y, t)) == pytest.approx(math.log(sum(cross) / 72), abs=1e-12)
    assert float(uniformity(x[:1].expand(4, -1))) == pytest.approx(0, abs=1e-12)
    assert float(uniformity(torch.tensor([[1.0, 0.0], [-2.0, 0.0]]))) == pytest.approx(-8)  # -t * 2^2
    assert float(uniformity(x, 2000.0)) > -8000  # no underflow to -inf


@pytest.mark.parametrize("block", [9, 20, 36])  # 1, 2 and 4 rows at a time, the last block ragged
def test_uniformities_in_blocks_agree_in_value_and_gradient(monkeypatch, block):
    x, y = pair(n=9)
    whole = []
    for limit in (10**6, block):
        monkeypatch.setattr(losses, "_BLOCK", limit)
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        value = uniformity(a) + cross_uniformity(a, b)
        value.backward()
        whole.append((value.detach(), uniformity(x) + cross_uniformity(x, y), a.grad, b.grad))
    for one, other in zip(*whole, strict=True):
        assert torch.isfinite(other).all()
        assert torch.allclose(one, other, atol=1e-12)


def test_closing_losses_are_the_objective_and_its_named_terms_and_stacks_are_batches_side_by_side(monkeypatch):
    batches = [pair(seed=seed) for seed in range(3)]
    scale = torch.tensor([5.0, 20.0, 80.0], dtype=torch.float64)
    image, text = (torch.stack(z) for z in zip(*batches, strict=True))
    for (x, y), s in zip(batches, scale, strict=True):
        added = (uniformity(x) + uniformity(y)) / 2 + alignment(x, y)
        assert torch.allclose(cua_loss(x, y, s), clip_loss(x, y, s) + added, atol=1e-12)
        assert torch.allclose(cuaxu_loss(x, y, s), cua_loss(x, y, s) + cross_uniformity(x, y), atol=1e-12)
    monkeypatch.setattr(losses, "_BLOCK", 50)  # 2 rows of all three batches at a time
    for loss in (clip_loss, cua_loss, cuaxu_loss):
        alone = torch.stack([loss(x, y, s) for (x, y), s in zip(batches, scale, strict=True)])
        assert torch.allclose(loss(image, text, scale), alone, atol=1e-12)
    # equal pairs, spread evenly: the two added terms are as small as they get, and only then is the gap closed by force
    basis = torch.eye(4, dtype=torch.float64)
    assert float(cua_loss(basis, basis, 1.0) - clip_loss(basis, basis, 1.0)) == pytest.approx(-4.0)  # -t d^2 = -2 * 2


def test_gradients_are_right_and_reach_a_learned_scale():
    image, text = (z.requires_grad_() for z in pair(n=4, d=3))
    scale = torch.tensor(3.0, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(clip_loss, (image, text, scale))
    assert torch.autograd.gradcheck(alignment, (image, text))
    assert torch.autograd.gradcheck(uniformity, (image,))
    assert torch.autograd.gradcheck(cross_uniformity, (image, text))
    same = torch.ones(3, 2, dtype=torch.float64, requires_grad=True)  # coincident rows: still finite
    uniformity(same).backward()
    assert torch.isfinite(same.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_features_lose_only_their_own_rounding(dtype):
    image, text = (z.to(dtype) for z in pair(n=64, d=256))
    assert clip_loss(image, text, 100.0).dtype == torch.float32
    assert float(clip_loss(image, text, 100.0)) == pytest.approx(
        float(clip_loss(image.double(), text.double(), 100.0)), abs=1e-4
    )


def test_bad_input_names_the_argument():
    x, y = pair()
    nan = y.clone()
    nan[3, 2] = math.nan
    cases = [
        (lambda: clip_loss(x, y[:5], 1.0), r"image and text .*matching shapes.*\(7, 5\).*\(5, 5\)"),
        (lambda: clip_loss(x, y[:, :4], 1.0), "image and text"),
        (lambda: clip_loss(x[0], y[0], 1.0), r"image must be a tensor \(\.\.\., n, d\), got \(5,\)"),
        (lambda: clip_loss(x.long(), y, 1.0), "image must be a floating"),
        (lambda: clip_loss(x.numpy(), y, 1.0), "image must be .* got ndarray"),
        (lambda: clip_loss(x, y, torch.tensor([2.0, math.inf])), "scale must be finite"),
        (lambda: clip_loss(x, nan, 1.0), "text must be finite, got NaN or infinity in row 3"),
        (lambda: clip_loss(x, y / 0, 1.0), "text must be finite"),
        (lambda: clip_loss(x[:1], y[:1], 1.0), "image must have at least 2 rows, got 1"),
        (lambda: clip_loss(x, y, 0.0), "scale must be finite and above 0, got 0"),
        (lambda: clip_loss(x, y, torch.tensor(-1.0)), "scale"),
        (lambda: clip_loss(x, y, math.inf), "scale"),
        (lambda: alignment(x, y[:5]), "x and y"),
        (lambda: alignment(x[:0], y[:0]), "x must have at least 1 row, got 0"),
        (lambda: uniformity(x[:1]), "x must have at least 2 rows"),
        (lambda: uniformity(nan), "x must be finite"),
        (lambda: uniformity(x, 0.0), "t must be finite and above 0"),
        (lambda: cross_uniformity(x, y, math.nan), "t must be"),
        (lambda: cross_uniformity(x[:1], y[:1]), "x must have at least 2"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()


def views(n=9, d=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(3))


def test_nt_xent_is_the_published_sum_over_2n_anchors():
    a, b, _ = views()
    z, total = losses.unit(torch.cat([a, b])), 0.0
    for i in range(18):
        others = [torch.exp(z[i] @ z[j] / 0.3) for j in range(18) if j != i]
        total -= torch.log(torch.exp(z[i] @ z[(i + 9) % 18] / 0.3) / sum(others))
    assert torch.allclose(losses.nt_xent(a, b, 0.3), total / 18)
    assert torch.allclose(losses.nt_xent(b, 7 * a, 0.3), total / 18), "the views and their lengths do not matter"
    same = torch.ones(4, 3)
    assert float(losses.nt_xent(same, same, 0.5)) == pytest.approx(math.log(2 * 4 - 1)), "collapsed: chance"


def test_clap_loss_is_its_two_parts_and_stacks_are_batches_side_by_side():
    a, b, c = views()
    whole = losses.clap_loss(a, b, c, 0.4, 0.9, 2.0)
    assert torch.allclose(whole, losses.nt_xent(a, b, 0.4) + 2.0 * losses.nt_xent(b, c, 0.9))
    assert torch.allclose(losses.clap_loss(a, b, c, 0.4, weight=0.0), losses.nt_xent(a, b, 0.4))
    assert torch.allclose(losses.clap_loss(a, b, c), losses.nt_xent(a, b, 0.5) + losses.nt_xent(b, c, 1.0))
    stack = [torch.stack([x, x.flip(1) ** 3]) for x in (a, b, c)]
    tau = torch.tensor([0.4, 0.7])
    one_by_one = [losses.clap_loss(*(x[i] for x in stack), tau[i]) for i in range(2)]
    assert torch.allclose(losses.clap_loss(*stack, tau), torch.stack(one_by_one))
    for bad, message in (
        ({"content_temperature": 0.0}, "content_temperature must be finite and above 0, got 0"),
        ({"temperature": 0.0}, "^temperature must be finite and above 0, got 0"),
        ({"weight": torch.tensor([1.0, math.inf])}, "weight must be finite and at least 0, got inf"),
        ({"weight": -1.0}, "weight must be finite and at least 0, got -1"),
        ({"weight": torch.ones(3)}, r"weight must be one number, or one for each batch, \(2,\), got \(3,\)"),
    ):
        with pytest.raises(ValueError, match=message):
            losses.clap_loss(*stack, **bad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(1, 3), torch.ones(1, 3), 0.5), "a must have at least 2 rows"),
        ((torch.ones(4, 3), torch.ones(5, 3), 0.5), "a and b must have matching shapes"),
        ((torch.ones(4, 3), torch.full((4, 3), math.nan), 0.5), "b must be finite"),
        ((torch.ones(4, 3), torch.ones(4, 3), 0.0), "temperature must be finite and above 0"),
        ((torch.ones(4), torch.ones(4), 0.5), "a must be a tensor"),
        ((torch.ones(4, 3), torch.ones(4, 3), "1"), "temperature must be a number, got '1'"),
        ((torch.ones(4, 3), torch.ones(4, 3), None), "temperature must be a number, got None"),
        ((torch.ones(4, 3), torch.ones(4, 3), torch.ones(2)), r"temperature must be one number, .* \(\), got \(2,\)"),
        ((torch.ones(2, 4, 3), torch.ones(2, 4, 3), torch.ones(3)), r"each batch, \(2,\), got \(3,\)"),
    ],
)
def test_nt_xent_names_what_is_wrong(arguments, message):
    with pytest.raises(ValueError, match=message):
        losses.nt_xent(*arguments)


def test_negclip_loss_has_more_texts_in_one_direction_only():
    image, text, negatives = views()
    logits = 20 * losses.unit(image) @ losses.unit(torch.cat([text, negatives[:4]])).T
    label = torch.arange(9)
    by_image = torch.nn.functional.cross_entropy(logits, label)
    by_text = torch.nn.functional.cross_entropy(logits[:, :9].T, label)
    assert torch.allclose(losses.negclip_loss(image, text, negatives[:4], 20.0), (by_image + by_text) / 2)
    assert torch.allclose(losses.negclip_loss(image, text, None, 20.0), clip_loss(image, text, 20.0))
    opposite = -losses.unit(image).mean(0, keepdim=True)  # a negative far from every image costs little
    near, far = (losses.negclip_loss(image, text, z, 20.0) for z in (text[:1] + 1e-3, opposite))
    assert clip_loss(image, text, 20.0) < far < near
    stack = losses.negclip_loss(
        torch.stack([image, text]), torch.stack([text, image]), negatives.expand(2, -1, -1), 20.0
    )
    assert torch.allclose(stack[0], losses.negclip_loss(image, text, negatives, 20.0))
    for bad, message in (
        (negatives[:, :3], r"negatives must be a tensor \(\.\.\., m, 16\)"),
        (negatives / 0, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            losses.negclip_loss(image, text, bad, 20.0)


def test_hcl_loss_is_the_published_formula_and_without_weights_nt_xent():
    a, b, _ = views()
    for t in (0.5, 0.1):
        assert torch.allclose(losses.hcl_loss(a, b, t, 0.0, 0.0), losses.nt_xent(a, b, t), atol=1e-12)
    z = losses.unit(torch.cat([a, b]))
    for t, beta, tau in ((0.5, 1.0, 0.1), (0.5, 0.0, 0.1), (0.3, 2.0, 0.0), (0.5, 6.0, 0.4)):
        total = 0.0
        for i in range(18):
            s = z @ z[i] / t
            others = [j for j in range(18) if j not in (i, (i + 9) % 18)]
            positive = math.exp(s[(i + 9) % 18])
            top, bottom = (sum(math.exp((k + beta) * s[j]) for j in others) for k in (1, 0))
            ng = max((16 * top / bottom - tau * 16 * positive) / (1 - tau), 16 * math.exp(-1 / t))
            total -= math.log(positive / (positive + ng)) / 18
        assert float(losses.hcl_loss(a, b, t, beta, tau)) == pytest.approx(total, abs=1e-12), (t, beta, tau)
    # identical views at a low temperature: everything is taken out, the floor holds, and the gradient is finite
    x = a.float().clone().requires_grad_()
    loss = losses.hcl_loss(x, x.detach(), 0.01, 2.0, 0.5)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(x.grad).all()
    double = [z.requires_grad_() for z in (a.clone(), b.clone())]
    assert torch.autograd.gradcheck(lambda a, b: losses.hcl_loss(a, b, 0.5, 1.0, 0.1), double)
    for arguments, message in (
        ({"beta": -1.0}, "beta must be finite"),
        ({"tau_plus": 1.0}, r"tau_plus must be finite and in \[0, 1\)"),
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": torch.ones(2)}, r"temperature must be a number, got a tensor \(2,\)"),
        ({"beta": "a"}, "beta must be a number, got 'a'"),
        ({"beta": torch.ones(2)}, r"beta must be a number, got a tensor \(2,\)"),
        ({"tau_plus": None}, "tau_plus must be a number, got None"),
    ):
        with pytest.raises(ValueError, match=message):
            losses.hcl_loss(a, b, **arguments)
