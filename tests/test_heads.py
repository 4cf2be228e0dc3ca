"""The head, the loop that trains it, and the text that it is trained on."""

import math

import pytest
import torch

from clipbook import backbones, clap, heads, losses, prompts, training, world


def test_an_untrained_head_and_strength_zero_change_nothing():
    z = torch.randn(5, 4, 8)
    head = heads.DisentangledNetwork(8, hidden=3)
    assert torch.equal(head(z), z)
    with torch.no_grad():
        head.project.weight.normal_()
    pulled = head(z) - z
    assert pulled.abs().max() > 0
    head.alpha = 0.25
    assert torch.allclose(head(z) - z, 0.25 * pulled, atol=1e-6), "the pull is proportional to alpha"
    middle = head.linear.weight @ (z / (1 + (-z).exp()))[..., None] + head.linear.bias[:, None]
    assert torch.allclose((head(z) - z)[..., None], 0.25 * head.project.weight @ middle, atol=1e-6), "the formula"
    head.alpha = 0.0
    assert torch.equal(head(z), z)
    assert "alpha" not in head.state_dict() and head.project.bias is None


def test_the_skip_is_resampled_where_widths_differ():
    z = torch.arange(8.0)[None]
    assert heads.DisentangledNetwork(8, out=4)(z).tolist() == [[0.0, 2.0, 4.0, 6.0]]
    resized = torch.nn.functional.interpolate(z[None], 12, mode="nearest")[0]
    assert torch.equal(heads.DisentangledNetwork(8, out=12)(z), resized)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((0,), "dim must be"), ((8, 2.5), "hidden must be"), ((8, 8, 8, math.nan), "alpha must be finite")],
)
def test_a_bad_head_is_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        heads.DisentangledNetwork(*arguments)
    with pytest.raises(ValueError, match=r"z must be \(\.\.\., 8\)"):
        heads.DisentangledNetwork(8)(torch.ones(2, 7))
    head = heads.DisentangledNetwork(8, alpha=0.5)
    for alpha in (math.nan, math.inf, "1", None, torch.ones(2)):
        with pytest.raises(ValueError, match="alpha must be (finite|a number)"):
            head.alpha = alpha
    assert head.alpha == 0.5, "left as it was"


def linears(seeds):
    made = []
    for seed in seeds:
        torch.manual_seed(seed)
        made.append(torch.nn.Linear(6, 6))
    return made


def test_modules_train_side_by_side_as_if_alone():
    torch.manual_seed(1)
    x = torch.randn(3, 40, 6)
    goal = x.flip(-1)

    def loss_of(rows):
        return lambda apply, step: (apply(x[rows]) - goal[rows]).square().mean((1, 2))

    together = linears(range(3))
    history = training.fit(together, loss_of([0, 1, 2]), 60, learning_rate=0.05)
    assert history.shape == (60, 3) and (history[-1] < 0.2 * history[0]).all()
    for i, alone in enumerate(linears(range(3))):
        own = training.fit([alone], loss_of([i]), 60, learning_rate=0.05)
        assert torch.allclose(own[:, 0], history[:, i], atol=1e-5)
        assert torch.allclose(alone.weight, together[i].weight, atol=1e-5)
    plain = linears([0])[0]
    adam = torch.optim.Adam(plain.parameters(), lr=0.05)
    for _ in range(60):
        adam.zero_grad()
        (plain(x[0]) - goal[0]).square().mean().backward()
        adam.step()
    assert torch.allclose(plain.weight, together[0].weight, atol=1e-5), "it is Adam, no more"


def test_two_towers_train_side_by_side_and_their_scale_is_learned():
    g = torch.Generator().manual_seed(0)
    image, text = torch.randn(64, 10, generator=g), torch.randn(64, 7, generator=g)

    def towers(seed, scale):
        torch.manual_seed(seed)
        return heads.TwoTowers(10, 7, 5, hidden=(16,), scale=scale)

    def loss(apply, step):
        x, y, scale = apply(image.expand(k, -1, -1), text.expand(k, -1, -1))
        return losses.clip_loss(x, y, scale)

    together = [towers(0, 5.0), towers(1, 20.0)]
    k = 2
    history = training.fit(together, loss, 30, learning_rate=1e-2)
    assert (history[-1] < 0.7 * history[0]).all()
    for index, (seed, scale) in enumerate(((0, 5.0), (1, 20.0))):
        alone, k = towers(seed, scale), 1
        assert alone(image, text)[2].item() == pytest.approx(scale, rel=1e-5)
        training.fit([alone], loss, 30, learning_rate=1e-2)
        for one, other in zip(alone(image, text), together[index](image, text), strict=True):
            assert torch.allclose(one, other, atol=1e-4)
        assert abs(alone(image, text)[2].item() - scale) > 1e-2
    linear = heads.TwoTowers(10, 7, 5)  # no hidden layer: a projection each
    assert torch.allclose(
        linear(2 * image, text)[0] - linear(image, text)[0], image @ linear.image[0].weight.T, atol=1e-5
    )
    for arguments, message in (
        ({"hidden": (0,)}, "hidden must be a positive int, got 0"),
        ({"scale": 0.0}, "scale must be finite and above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            heads.TwoTowers(10, 7, 5, **arguments)
    with pytest.raises(ValueError, match=r"text must be \(\.\.\., 7\), got \(64, 10\)"):
        linear(image, image)


def test_a_module_that_stops_early_keeps_its_best():
    """The loss falls for one module; for the other it is constant: the second must stop after its patience."""
    x = torch.randn(2, 10, 6)
    still = torch.tensor([1.0, 0.0])

    def loss(apply, step):
        return apply(x).square().mean((1, 2)) * still + (1 - still)

    modules = linears(range(2))
    before = [module.weight.clone() for module in modules]
    history = training.fit(modules, loss, 100, learning_rate=0.05, check_every=5, patience=2, min_delta=1e-4)
    assert history[:, 1].isfinite().sum() == 15, "one look that counts, two without gain"
    assert torch.equal(modules[1].weight, before[1])
    assert history[-1, 0] < 0.1 * history[0, 0]


def test_the_parameters_of_the_best_look_are_restored():
    """From step 10 on the loss pulls the other way and is reported higher: what was best at step 10 is kept."""
    x = torch.randn(1, 10, 6)

    def turning(apply, step):
        return apply(x).mean((1, 2)) * (1 if step < 10 else -1) + (0 if step < 10 else 100)

    (long,), (short,) = linears([0]), linears([0])
    training.fit([long], turning, 30, learning_rate=0.05, check_every=5, patience=9)
    training.fit([short], turning, 10, learning_rate=0.05)
    assert torch.equal(long.weight, short.weight)


def test_what_is_frozen_stays_and_what_is_not_stacked_is_refused():
    x = torch.randn(2, 10, 6)
    loss = lambda apply, step: apply(x).square().mean((1, 2))
    modules = linears(range(2))
    frozen = [module.weight.requires_grad_(False).clone() for module in modules]
    bias = [module.bias.detach().clone() for module in modules]
    alone = linears([1])
    alone[0].weight.requires_grad_(False)
    training.fit(modules, loss, 5)
    training.fit(alone, lambda apply, step: apply(x[1:]).square().mean((1, 2)), 5)
    for module, weight, old in zip(modules, frozen, bias):
        assert torch.equal(module.weight, weight) and not torch.equal(module.bias, old)
    assert torch.allclose(alone[0].bias, modules[1].bias, atol=1e-6), "each with its own frozen weight"
    batch_norm = [torch.nn.Sequential(torch.nn.Linear(6, 6), torch.nn.BatchNorm1d(6)).eval() for _ in range(2)]
    for bad, message in (
        ([heads.DisentangledNetwork(6, alpha=alpha) for alpha in (1.0, 0.5)], r"the same alpha .* got \[0.5, 1.0\]"),
        ([module.requires_grad_(False) for module in linears(range(2))], "parameters that require a gradient"),
        (batch_norm, "modules must not have buffers that change"),
    ):
        before = [value.clone() for module in bad for value in module.state_dict().values()]
        with pytest.raises(ValueError, match=message):
            training.fit(bad, loss, 5)
        after = [value for module in bad for value in module.state_dict().values()]
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert not batch_norm[0].training, "left as it was"


def test_a_diverging_loss_leaves_the_modules_as_they_were():
    modules = [module.eval() for module in linears(range(2))]
    before = [module.weight.clone() for module in modules]
    with pytest.raises(FloatingPointError, match="not finite at step 3"):
        training.fit(modules, lambda apply, step: apply(torch.ones(2, 1, 6)).mean((1, 2)) / (step != 3), 10)

    def no_gradient(apply, step):  # the loss is finite, its gradient is not
        z = apply(torch.ones(2, 1, 6))
        return z.mean((1, 2)) + (0 * z if step == 4 else z.detach()).abs().sqrt().mean((1, 2))

    with pytest.raises(FloatingPointError, match="a parameter was not finite after step 4"):
        training.fit(modules, no_gradient, 5)
    assert all(torch.equal(module.weight, old) for module, old in zip(modules, before))
    assert not any(module.training for module in modules)
    for bad, message in (
        ({"steps": 0}, "steps"),
        ({"steps": 5, "learning_rate": 0.0}, "learning_rate"),
        ({"steps": 5, "check_every": 0}, "check_every"),
    ):
        with pytest.raises(ValueError, match=message):
            training.fit(modules, lambda apply, step: apply(torch.ones(2, 1, 6)).mean((1, 2)), **bad)
    with pytest.raises(ValueError, match="one value per module"):
        training.fit(modules, lambda apply, step: apply(torch.ones(2, 1, 6)).mean(), 5)
    with pytest.raises(ValueError, match="at least one module"):
        training.fit([], None, 5)


def test_prompts_speak_the_worlds_language():
    """CLAP's words are those of the captions, so a styled prompt is a scene's full caption."""
    assert set(prompts.ATTRIBUTES["color"]) == set(world.COLORS)
    assert set(prompts.ATTRIBUTES["type"]) == set(world.MEDIA)
    assert prompts.ATTRIBUTES["size"] == world.SIZES and prompts.ATTRIBUTES["style"] == world.FINISHES
    scenes = world.sample(50, seed=3)
    for i, caption in enumerate(world.caption(scenes)):
        words = {
            "style": world.FINISHES[scenes.finish[i]],
            "type": world.MEDIA[scenes.medium[i]],
            "size": world.SIZES[scenes.size[i]],
            "color": world.COLORS[scenes.color[i]],
        }
        assert prompts.styled(world.OBJECTS[scenes.object[i]], **words) == caption


def test_views_are_edits_of_one_prompt():
    plain, edited = prompts.views("airplane", 480)
    assert len(set(plain)) == 480, "each of the 480 prompts once"
    assert (plain, edited) == prompts.views("airplane", 480)
    assert plain != prompts.views("airplane", 480, seed=1)[0]
    for one, other in zip(plain, edited):
        left = set(other.replace("mosaic art", "mosaic-art").split()) - {"a", "an", "of", "in", "style"}
        assert left <= set(one.replace("mosaic art", "mosaic-art").split()), "nothing is added"
        assert "airplane" in other and any(kind in other for kind in prompts.ATTRIBUTES["type"])
    turned = sum(" in " in text for text in edited) / 480
    short = sum(not any(size in text for size in prompts.ATTRIBUTES["size"]) for text in edited) / 480
    assert abs(turned - 0.5) < 0.1 and abs(short - 0.5) < 0.1
    assert prompts.views("cat", 5, augmentations={})[0] == prompts.views("cat", 5, augmentations={})[1]
    bare = prompts.views("cat", 5, augmentations=dict.fromkeys(prompts.ATTRIBUTES, 1.0))[1]
    assert set(bare) == {"a cat"}
    for bad, message in (
        ({"n": 0}, "n must be a positive int"),
        ({"n": 5, "augmentations": {"smell": 0.5}}, "smell"),
        ({"n": 5, "augmentations": {"size": 1.5}}, "chances in"),
    ):
        with pytest.raises(ValueError, match=message):
            prompts.views("cat", **bad)
    with pytest.raises(ValueError, match="words must be among"):
        prompts.styled("cat", smell="sweet")


@pytest.fixture(scope="module")
def glyph():
    return backbones.load("glyph", "cpu")


def test_views_are_the_encoders_own_features(glyph):
    names = ["cat", "crown", "key"]
    views = clap.embed_views(glyph, names, 6, n_tokens=0, seed=4)
    for i, name in enumerate(names):
        plain, edited = prompts.views(name, 6, seed=4)
        assert torch.allclose(views.prompt[i], glyph.embed_texts(plain), atol=1e-5)
        assert torch.allclose(views.augmented[i], glyph.embed_texts(edited), atol=1e-5)
    assert torch.allclose(views.content, glyph.embed_texts(names), atol=1e-5)
    noised = clap.embed_views(glyph, names, 6, seed=4)
    assert torch.equal(noised.prompt, views.prompt) and not torch.allclose(noised.augmented, views.augmented)
    long = " ".join(["very"] * 30 + ["cat"])
    for bad, message in (
        (["cat"], "at least two names"),
        ("cat", "at least two names"),
        (["cat", 3], r"classes\[1\] must be a non-empty str, got 3"),
        (["cat", " "], r"classes\[1\] must be a non-empty str, got ' '"),
        (None, "at least two names, got None"),
        (["cat", "key", "cat"], "all different, got 'cat' twice"),
        (["cat", "key", long], r"of '(very )+cat', with 4 noise tokens exceeds the context of \d+ tokens"),
    ):
        with pytest.raises(ValueError, match=message):
            clap.embed_views(glyph, bad, 6)
    with pytest.raises(ValueError, match=r"of '(very )+cat', with 0 noise tokens exceeds"):
        clap.embed_views(glyph, ["cat", "key", long], 6, n_tokens=0)
    bare = dict.fromkeys(prompts.ATTRIBUTES, 1.0)
    snug = " ".join(["very"] * 24 + ["cat"])  # the name alone fits with its noise, a prompt about it does not
    with pytest.raises(ValueError, match=r"'a \w+ .* of a \w+ .*very cat', of '(very )+cat', with 0 noise"):
        clap.embed_views(glyph, ["cat", snug], 6, augmentations=bare)
    for bad, message in (
        ({"n_tokens": "4"}, "n_tokens must be an int of at least 0, got '4'"),
        ({"n_tokens": 40}, "n_tokens must be at most 29, for a context of 32, got 40"),
        ({"std": "a"}, "std must be a number, got 'a'"),
    ):
        with pytest.raises(ValueError, match=message):
            clap.embed_views(glyph, names, 6, **bad)


def test_a_third_of_the_noise_each_is_in_front_in_the_middle_and_at_the_end(glyph):
    names, edited = ["cat", "crown"], []
    for name in names:
        edited += prompts.views(name, 5, seed=4)[1]
    draw, expected = torch.Generator().manual_seed(4), torch.empty(10, glyph.dim)
    for first, position in enumerate(("front", "middle", "end")):
        expected[first::3] = glyph.embed_noised_texts(edited[first::3], 3, 0.3, position, draw)
    found = clap.embed_views(glyph, names, 5, n_tokens=3, std=0.3, seed=4)
    assert torch.allclose(found.augmented, expected.view(2, 5, -1), atol=1e-5)


def test_training_is_the_loop_written_out():
    """Every argument at a value that is not its default: one prompt of every class at random, its own edit, Adam."""
    g = torch.Generator().manual_seed(0)
    views = clap.Views(
        torch.randn(4, 9, 6, generator=g), torch.randn(4, 9, 6, generator=g), torch.randn(4, 6, generator=g)
    )
    recipe = {"hidden": 5, "temperature": 0.3, "content_temperature": 0.7, "weight": 2.0, "learning_rate": 0.02}
    before = torch.get_rng_state()
    heads_found, history = clap.train(views, (3, 8), steps=6, **recipe)
    assert torch.equal(torch.get_rng_state(), before)
    for index, seed in enumerate((3, 8)):
        torch.manual_seed(seed)
        head, draw = heads.DisentangledNetwork(6, 5), torch.Generator().manual_seed(seed)
        adam = torch.optim.Adam(head.parameters(), lr=0.02)
        for step in range(6):
            pick = torch.randint(9, (4,), generator=draw).tolist()
            prompt, edited = (
                torch.stack([x[i, j] for i, j in enumerate(pick)]) for x in (views.prompt, views.augmented)
            )
            t, e, c = head(prompt), head(edited), head(views.content)
            loss = losses.nt_xent(t, e, 0.3) + 2.0 * losses.nt_xent(e, c, 0.7)
            assert float(loss.detach()) == pytest.approx(float(history[step, index]), abs=1e-5)
            adam.zero_grad()
            loss.backward()
            adam.step()
        assert torch.allclose(head.project.weight, heads_found[index].project.weight, atol=1e-5)
    torch.set_rng_state(before)
    short = clap.Views(views.prompt, views.augmented[:, :3], views.content)
    other = clap.Views(views.prompt, views.augmented, views.content[:3])
    for bad, seeds, message in (
        (views, (), "seeds must hold at least one seed, got none"),
        (short, (0,), r"views must be .* got \(4, 9, 6\), \(4, 3, 6\) and \(4, 6\)"),
        (other, (0,), r"views must be .* and \(3, 6\)"),
    ):
        with pytest.raises(ValueError, match=message):
            clap.train(bad, seeds, steps=2)
    with pytest.raises(ValueError, match="content_temperature must be finite and above 0"):
        clap.train(views, steps=2, content_temperature=0.0)


def test_a_gpus_random_numbers_are_left_alone(monkeypatch):
    def refuse(seed):
        raise AssertionError("a GPU's generators were seeded")

    monkeypatch.setattr(torch.cuda, "manual_seed_all", refuse)
    backbones.load("glyph", "cpu")
    clap.train(clap.Views(torch.randn(2, 3, 4), torch.randn(2, 3, 4), torch.randn(2, 4)), steps=1)


def test_the_chosen_alpha_is_the_middle_of_those_within_one_standard_error(monkeypatch):
    """Agreement by hand on 100 images; from the best down: nothing, one image lost (one standard error), four lost."""
    lost = {0.2: 1, 0.3: 0, 0.5: 1, 0.6: 1, 0.4: 1, 0.05: 4, 0.1: 4, 0.15: 4}

    def agreement(head, image, texts):
        answers = torch.ones(100, dtype=torch.float64)
        answers[: lost[head.alpha]] = 0
        return answers

    monkeypatch.setattr(clap, "agreement", agreement)
    head, image = heads.DisentangledNetwork(4), torch.zeros(100, 4)
    assert clap.choose_alpha(head, image, None, list(lost)) == 0.4, "of 0.2 to 0.6"
    for n in range(2, 100):  # whatever the rounding of n
        monkeypatch.setattr(clap, "agreement", lambda head, image, texts: agreement(head, image, texts)[: len(image)])
        assert clap.choose_alpha(head, image[:n], None, [0.3, 0.5, 0.6]) == 0.5, n


def test_training_on_text_draws_the_wordings_of_a_class_together(glyph):
    names = list(world.OBJECTS[:8])
    views = clap.embed_views(glyph, names, 24)
    (head, twin), history = clap.train(views, (0, 1), steps=150)
    assert history.shape == (150, 2) and (history[-20:].mean(0) < history[:5].mean(0) - 0.3).all()
    (alone,), _ = clap.train(views, (1,), steps=150)
    assert torch.allclose(alone.project.weight, twin.project.weight, atol=1e-4)
    fresh = clap.embed_views(glyph, names, 24, seed=9)

    def spread(x):
        """Of unit prompts around their class, as a share of what lies between classes."""
        x = losses.unit(x)
        return float((x - x.mean(1, keepdim=True)).square().sum() / (x - x.mean((0, 1))).square().sum())

    with torch.no_grad():
        assert spread(head(fresh.prompt)) < 0.5 * spread(fresh.prompt)


def test_agreement_needs_no_labels_and_alpha_is_the_best_of_the_candidates(glyph):
    image = glyph.embed_images(world.render(world.sample(200, seed=5)))
    texts = [glyph.embed_texts(prompts.fill(t, world.OBJECTS)) for t in ("{}", "a photo of a {}")]
    noise = glyph.embed_noised_texts(list(world.OBJECTS), generator=torch.Generator().manual_seed(0))
    views = clap.embed_views(glyph, world.OBJECTS, 16)
    (head,), _ = clap.train(views, steps=60)
    assert bool((clap.agreement(head, image, [texts[0], texts[0]]) == 1).all())
    alphas, scores = [3.0, 0.0, 0.3], {}
    for alpha in alphas:
        head.alpha = alpha
        scores[alpha] = clap.agreement(head, image, [*texts, noise])
        pairs = [clap.agreement(head, image, [a, b]) for a, b in zip([*texts, noise], [texts[1], noise, texts[0]])]
        assert torch.allclose(scores[alpha], torch.stack(pairs).mean(0)), "the mean over pairs"
    head.alpha = 0.3
    found = clap.choose_alpha(head, image, [*texts, noise], alphas)
    best = max(scores, key=lambda alpha: scores[alpha].mean())
    short = scores[best] - scores[found]
    assert short.mean() <= short.std() / len(image) ** 0.5, "as good as the best"
    assert clap.choose_alpha(head, image, [texts[0], texts[0]], [0.5, 0.1, 0.2]) == 0.2, "all equal: the middle"
    assert head.alpha == 0.3, "left as it was"
    with pytest.raises(ValueError, match="two wordings"):
        clap.agreement(head, image, texts[:1])
    one = [text[:1] for text in texts]
    for bad, message in (
        ((image, texts, []), "alphas must hold at least one candidate"),
        ((image, texts, [0.1, math.nan]), r"alphas must be finite, got \[0.1, nan\]"),
        ((image[:1], texts, [0.1]), "image must hold at least two images"),
        ((image, one, [0.1]), r"same two or more classes each, got \[1, 1\]"),
        ((image, [texts[0], one[0]], [0.1]), r"same two or more classes each, got \[32, 1\]"),
    ):
        with pytest.raises(ValueError, match=message):
            clap.choose_alpha(head, *bad)
    assert head.alpha == 0.3, "left as it was"


def test_published_figures_are_means_over_domains():
    table = clap.published()
    assert table.shape == (12, 12) and not table.isna().any(axis=None)
    assert round(table.loc[("VLCS", "CLAP"), "C"], 3) == 82.645, "the mean of the four domains in the released file"
    assert (table.loc[:, "FGSM"] < table.loc[:, "C"]).all() and (table.loc[:, "32"] > table.loc[:, "1"]).all()
