# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["colab", "remove-cell"]
# On Colab: install the package. Anywhere else it is already installed.
import importlib.util
import subprocess
import sys

if importlib.util.find_spec("clipbook") is None:
    source = "git+https://github.com/contrastive-book/contrastive-book"
    command = [sys.executable, "-m", "pip", "install", "--quiet", source]
    subprocess.run(command, check=True)

# %% [markdown]
# (augmented-prompts)=
# # Augmenting prompts: CLAP
#
# To take style out of a picture we would have to repaint it. To take style out of a sentence we delete a word.
# CLAP {cite}`cai2024clap` makes use of that: it trains a small head on *sentences alone*, to say the same thing
# whatever the style words, and then puts the head on pictures it has never seen. In this chapter we build it from
# its parts, train it in seconds, and measure what it gains, where, and what it does not remove.
#
# :::{admonition} Objectives
# - edit a prompt so that its style changes and its content stays,
# - write CLAP's loss and say what each of its two terms pulls together,
# - train on text in seconds, by encoding every sentence once,
# - choose the strength of the head without a single label,
# - say what the head removes from pictures, and what a linear probe still finds.
# :::

# %% tags=["parameters"]
backbone = "glyph"  # or any open_clip "ARCH/TAG"
dataset = "glyphs"  # or "imagefolder:PATH" (PATH/domain/class/*.jpg)
seed = 0
device = None  # "cpu" or "cuda"; None takes the best there is
n_images = 2048
steps = 700  # of training a head
out_dir = ""  # a folder to record the metrics in
n_seeds = 3  # heads, each with its own noise, from seed on
n_prompts = 96  # per class, out of 480
hidden = 1024  # width of the head
temperature = 0.3  # of the first term of the loss
n_tokens = 8  # of noise in an augmented prompt, while training

# %%
from time import perf_counter

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from myst_nb import glue
from sklearn.manifold import TSNE

# %%
from clipbook import (
    backbones,
    clap,
    datasets,
    evaluate,
    features,
    heads,
    losses,
    plots,
    prompts,
    runs,
    training,
    widgets,
    world,
)
from clipbook.losses import unit

plots.use()
model = backbones.load(backbone, device)
print(runs.cost_line("content_style/03_augmenting_prompts"))

# %% tags=["remove-cell"]
# claims are made about the shipped model and its world, at the chapter's own settings
own = n_images >= 1500 and steps >= 500 and n_seeds >= 3 and n_prompts >= 64
shipped = (backbone, dataset) == ("glyph", "glyphs") and own
note = {"textcoords": "offset points", "fontsize": 9.5}  # labels in figures


def put(name, value):
    """Keep a number of this run for the prose."""
    glue(f"clap_{name}", float(value), display=False)


# %% [markdown]
# ## The idea
#
# Here are sentences about one class. In every column the object is the same, and the style differs. The first row
# names all of it; the second is the first after an edit: words deleted, order turned round.

# %% tags=["hide-input"]
classes = list(datasets.load(dataset, n=64).classes)
example = "umbrella" if "umbrella" in classes else classes[0]
strong = dict.fromkeys(("style", "type", "size", "color"), 0.8) | {"swap": 0.5}
plain, edited = prompts.views(example, 5, augmentations=strong, seed=seed)
pd.set_option("display.max_colwidth", None)
pd.DataFrame({"prompt": plain, "augmented prompt": edited})

# %% [markdown]
# A person reads the same content in both columns. The frozen text tower does not: its feature moves with every word.
# A head $f$ on top of it should not move. If it agrees on both columns, for *every* style word, it has kept what the two
# share, which is the class ({ref}`content-and-style` has the theorem behind this).
#
# Write $t$ for the features of the prompts in a batch, $\tilde t$ for those of their augmented versions and $t_c$ for
# those of the bare class names. A batch holds *one* prompt of every class. With the loss NT-Xent
# {cite}`chen2020simclr`, which we write down below, CLAP minimises
#
# $$
# \mathcal L = \text{NT-Xent}\big(f(t), f(\tilde t);\, \tau\big)
#   + \lambda\, \text{NT-Xent}\big(f(\tilde t), f(t_c);\, 1\big)
# $$ (eq-clap)
#
# and the head is a small network beside a straight path:
#
# $$
# f(z) = z + \alpha\, V\,\big(W\, \sigma(z) + b\big)
# $$ (eq-clap-head)
#
# | symbol | code | meaning |
# |---|---|---|
# | $t$ | `views.prompt` | features of prompts full of style, (classes, prompts, d) |
# | $\tilde t$ | `views.augmented` | the same prompts, edited and with noise |
# | $t_c$ | `views.content` | bare class names, (classes, d) |
# | $f$ | `head` | `heads.DisentangledNetwork`; $\sigma$ is SiLU, $V$ starts at zero |
# | $\alpha$ | `head.alpha` | strength: 1 in training, chosen afterwards |
# | $\tau$ | `temperature` | of the first term |
# | $\lambda$ | `weight` | of the second term, 1 throughout |
#
# The first term says: two wordings of a class belong together, and apart from all other classes. Deleting a word only
# shows that the word does not matter; it cannot show this of words that are never deleted. The second term closes the
# door: whatever is said, the result should be what the bare name gives.
#
# Because $V$ is zero at first, an untrained head changes nothing, and with $\alpha = 0$ a trained one neither. So
# $\alpha$ is a dial between the frozen model and the trained head, and we can turn it after training.
#
# ## Noise as a word
#
# There is a third edit, and it is no word at all. CLAP puts four random vectors among the token embeddings of the
# sentence: in front, in the middle, or at the end. *Predict: how many points of accuracy do four meaningless tokens
# cost a frozen model? And if the four vectors are exactly zero?*


# %%
def class_texts(s=0, draws=6):
    """The four wordings of the classes; NC (with noise) several times."""
    sets = {k: v for k, v in prompts.PROMPT_SETS.items() if k != "NC"}
    texts = {k: model.embed_texts(prompts.fill(v, classes)) for k, v in sets.items()}
    noise = torch.Generator().manual_seed(s)
    embed = lambda: model.embed_noised_texts(classes, generator=noise)
    return texts, [embed() for _ in range(draws)]


def embed(scenes):
    return model.embed_images(world.render(scenes.to(model.device)))


def fresh(s, n=n_images):
    """Unseen pictures: features, label, domain; other ones for every s."""
    if dataset != "glyphs":
        found = features.embed(model, datasets.load(dataset, n=n_images))
        return found.image, found.label, found.domain
    scenes = world.sample(n, seed=30_000 + s)
    return embed(scenes), scenes.object, scenes.medium


tests = [fresh(s) for s in range(seed, seed + n_seeds)]


# %%
def accuracy(test, text):
    """Mean over media of the top-1 accuracy, in %."""
    image, label, domain = test
    right = evaluate.predict(image, text) == label
    parts = [right[domain == d].double().mean() for d in domain.unique()]
    return 100 * float(torch.stack(parts).mean())


rows = {}
for position in clap.POSITIONS:
    for std in (0.0, 0.02):
        draw = torch.Generator().manual_seed(seed)
        text = model.embed_noised_texts(classes, 4, std, position, draw)
        label = "zero" if std == 0 else f"random, std {std}"
        rows.setdefault(f"4 tokens, {label}", {})[position] = accuracy(tests[0], text)
bare = accuracy(tests[0], model.embed_texts(classes))
print(f"no noise: {bare:.1f}%")
pd.DataFrame(rows).T.round(1)

# %% tags=["remove-cell"]
put("bare", bare)
put("zero_front", rows["4 tokens, zero"]["front"])
put("noise_front", rows["4 tokens, random, std 0.02"]["front"])

# %% [markdown]
# Four tokens in front take the accuracy from {glue:text}`clap_bare:.1f` to {glue:text}`clap_noise_front:.1f`%; four *zero*
# vectors already bring it to {glue:text}`clap_zero_front:.1f`. So most of the damage is not the noise. It is the place: the class
# name has been pushed four positions on, where the tower has rarely read it. "Noise robustness" is, to a large part,
# robustness to position. Keep this in mind for the end of the chapter.
#
# ## Encode once
#
# The released code encodes every prompt again at every training step. But the text tower is frozen, and there are only
# 480 prompts a class, each with a handful of edits. So we encode a pool once, in large batches, and draw from it. (Noise
# is drawn once for each sentence of the pool.) We take {glue:text}`clap_n_prompts:.0f` prompts a class.

# %%
started = perf_counter()
recipe = {"augmentations": strong, "n_tokens": n_tokens, "seed": seed}
views = clap.embed_views(model, classes, n_prompts, **recipe)
seconds_views = perf_counter() - started

started = perf_counter()
for _ in range(5):  # what a step of the other way costs
    texts = [prompts.views(name, 1, augmentations=strong) for name in classes]
    model.embed_texts([plain[0] for plain, _ in texts])
    model.embed_noised_texts([edited[0] for _, edited in texts], n_tokens)
    model.embed_texts(classes)
seconds_loop = (perf_counter() - started) / 5 * steps
print(f"{2 * n_prompts * len(classes)} sentences once: {seconds_views:.1f} s")
print(f"{steps} steps, encoding again: {seconds_loop:.0f} s")

# %% tags=["remove-cell"]
put("n_prompts", n_prompts)
put("seconds_views", seconds_views)
put("seconds_loop", seconds_loop)
put("speedup", seconds_loop / seconds_views)

# %% [markdown]
# Once takes {glue:text}`clap_seconds_views:.1f` s, every step again would take {glue:text}`clap_seconds_loop:.0f` s: a
# factor of {glue:text}`clap_speedup:.0f` on this machine, for the same objective. (`tools/benchmark_clap.py` runs both to
# the end, also on the text tower of ViT-B/16, and compares the loss curves.)
#
# ## The loss
#
# NT-Xent over $2n$ views: each is asked to find its other version among the $2n - 1$ others, the prompts of its own
# kind included. It fits in a few lines, and must agree with `losses.nt_xent`.


# %%
def nt_xent(a, b, tau):
    """Each of the 2n views looks for its partner among all others."""
    z = unit(torch.cat([a, b]))
    logits = z @ z.T / tau
    logits.fill_diagonal_(-torch.inf)  # nobody is its own partner
    n = len(a)
    partner = torch.arange(2 * n).roll(n)
    return torch.nn.functional.cross_entropy(logits, partner)


def clap_loss(t, edited, content, tau=0.5, weight=1.0):
    return nt_xent(t, edited, tau) + weight * nt_xent(edited, content, 1.0)


batch = views.prompt[:, 0], views.augmented[:, 0], views.content
assert torch.allclose(clap_loss(*batch), losses.clap_loss(*batch))
print(f"frozen model: {clap_loss(*batch, temperature):.3f} nats")

# %% [markdown]
# ## Training
#
# One step draws one prompt of every class from the pool. All seeds train side by side: their weights are stacked, and
# `apply` maps a stack of batches through a stack of heads.


# %%
def train(views, seeds, width=None, tau=0.5, steps=steps, rate=1e-3):
    """A head per seed; returns them and their losses, (steps, seeds)."""
    made, draws = [], [torch.Generator().manual_seed(s) for s in seeds]
    for s in seeds:
        torch.manual_seed(s)
        made.append(heads.DisentangledNetwork(model.dim, width))
    k, (c, n) = len(made), views.prompt.shape[:2]

    def loss(apply, step):
        pick = torch.stack([torch.randint(n, (c,), generator=g) for g in draws])
        rows = torch.arange(c), pick
        t, edited = apply(views.prompt[rows]), apply(views.augmented[rows])
        content = apply(views.content.expand(k, -1, -1))
        return losses.clap_loss(t, edited, content, tau)

    return made, training.fit(made, loss, steps, learning_rate=rate)


# %%
seeds = range(seed, seed + n_seeds)
started = perf_counter()
trained, history = train(views, seeds, hidden, temperature, rate=3e-4)
seconds_training = perf_counter() - started
print(f"{n_seeds} heads, {len(history)} steps: {seconds_training:.1f} s")

# %% tags=["hide-input"] mystnb={"image": {"alt": "The loss of the heads against training steps, a band over seeds: it falls steeply in the first hundred steps and then levels off."}}
window = max(1, steps // 35)
whole = history[: len(history) // window * window].reshape(-1, window, n_seeds)
smooth = whole.mean(1).T.numpy()
x = window * (np.arange(smooth.shape[1]) + 0.5)
plots.curves(x, {"CLAP": smooth}, xlabel="training step", ylabel="loss (nats)")

# %% tags=["remove-cell"]
put("seconds_training", seconds_training)
put("n_seeds", n_seeds)

# %% [markdown]
# {glue:text}`clap_n_seeds:.0f` heads took {glue:text}`clap_seconds_training:.0f` s. Not one picture was involved.
#
# ## On pictures
#
# Now the head goes on pictures *and* on the class texts, with the same $\alpha$, and the nearest text wins as before.
# *Predict: the head has never seen a picture. As $\alpha$ grows from 0, does accuracy rise, fall, or both?*

# %%
alphas = [0, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6]
alphas += [0.8, 1.0, 1.5, 3.0]
wordings = [class_texts(s) for s in seeds]


@torch.no_grad()
def measure(head, test, wording):
    """Accuracy by prompt set, and the range and spread over prompt sets."""
    (image, *truth), (plain, noised) = test, wording
    moved = head(image), *truth
    found = {name: accuracy(moved, head(text)) for name, text in plain.items()}
    nc = [accuracy(moved, head(text)) for text in noised]
    sets = np.array([[*found.values(), value] for value in nc])
    spread = {"range": np.ptp(sets, 1).mean(), "std": sets.std(1).mean()}
    return found | {"NC": np.mean(nc)} | spread


# %%
def sweep(trained):
    """`measure` for every alpha and seed: {name: (seeds, alphas)}."""
    table = []
    for head, test, wording in zip(trained, tests, wordings):
        rows = []
        for head.alpha in alphas:
            rows.append(measure(head, test, wording))
        table.append(rows)
    return {k: np.array([[row[k] for row in r] for r in table]) for k in rows[0]}


curve = sweep(trained)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Accuracy over strength alpha for the four prompt sets: all rise to a maximum between 0.1 and 0.4 and then fall; the lowest curve, with noise tokens, rises most and comes close to the others."}}
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.8))
place = np.sqrt(alphas)  # spreads the small values
for i, name in enumerate(("C", "CP", "PC", "NC")):
    mean, spread = curve[name].mean(0), curve[name].std(0)
    color = plots.PALETTE[i]
    axis.plot(place, mean, color=color)
    axis.fill_between(place, mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
    best = int(mean.argmax())
    where = (0, 7) if name != "NC" else (0, -14)
    if name in ("C", "NC"):
        axis.annotate(name, (place[best], mean[best]), where, color=color, **note)
ticks = [0, 0.05, 0.1, 0.2, 0.3, 0.5, 1, 1.5, 3]
axis.set_xticks(np.sqrt(ticks), ticks)
axis.set(xlabel="strength alpha (square-root scale)", ylabel="accuracy (%), mean of media")
axis.set_title(f"CP and PC lie on C; {n_seeds} seeds", fontsize=9, color=plots.QUIET)
plt.show()

# %% [markdown]
# Both. A little of the head helps every prompt set; much of it hurts. The head was fitted where sentences are, and
# pictures lie elsewhere on the sphere: that is the *modality gap* of {ref}`contrastive-pretraining`. The further a
# picture is moved, the more the head extrapolates.
#
# ## How much? A rule without labels
#
# The released code takes the $\alpha$ with the best accuracy *on the test set*. Nobody who needs zero-shot
# classification can do that: there are no labels. But there is something to see without them. A feature of content does
# not care how the class is worded. So take unlabelled pictures, let every wording of the classes answer, and count how
# often two wordings give the same answer. Too small an $\alpha$ leaves the wordings apart. Too large a one distorts the
# pictures until they lie between classes, where small differences decide.


# %%
@torch.no_grad()
def agreement(head, image, texts):
    """(n,): how often two wordings give a picture the same answer."""
    moved = head(image)
    answers = [evaluate.predict(moved, head(text)) for text in texts]
    pairs = [(a == b).double() for a in answers for b in answers if a is not b]
    return torch.stack(pairs).mean(0)


unlabelled = fresh(1000 + seed)[0]
told = class_texts(5000 + seed)  # other noise than in the test
told = [*told[0].values(), *told[1]]

# %% [markdown]
# Around its maximum the agreement is flat, and where exactly it is largest is a matter of chance. So we take the middle
# of the plateau: of all strengths that fall short of the best by no more than one standard error, the median. (The
# difference is taken picture by picture, which makes its error small.)


# %%
def middle_of_plateau(agreed):
    """Index of the strength to take; agreed: (alphas, n)."""
    short = agreed[agreed.mean(1).argmax()] - agreed
    good = short.mean(1) <= short.std(1) / short.shape[1] ** 0.5
    good = good.nonzero()[:, 0]
    return int(good[len(good) // 2])


curves_agreed = []
for head in trained:
    agreed = []
    for head.alpha in alphas:
        agreed.append(agreement(head, unlabelled, told))
    agreed = torch.stack(agreed)
    head.alpha = alphas[middle_of_plateau(agreed)]
    curves_agreed.append(agreed.mean(1).numpy())
chosen = [head.alpha for head in trained]
assert chosen[0] == clap.choose_alpha(trained[0], unlabelled, told, alphas)
print("chosen without labels:", chosen)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Agreement between wordings on unlabelled pictures over alpha, with a maximum near 0.4, above the accuracy for C, which has its maximum at a somewhat smaller alpha."}}
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.4))
shown = {
    "agreement of wordings (no labels)": 100 * np.array(curves_agreed),
    "accuracy, C (with labels)": curve["C"],
}
for i, (name, values) in enumerate(shown.items()):
    mean, spread = values.mean(0), values.std(0)
    color = plots.PALETTE[i]
    axis.plot(place, mean, color=color)
    axis.fill_between(place, mean - spread, mean + spread, color=color, alpha=0.15, lw=0)
    spot = place[-3], mean[-3]
    axis.annotate(name, spot, (8, 8), color=color, **note)
middle = np.sqrt(np.mean(chosen))
axis.axvline(middle, color=plots.QUIET, linestyle=":")
axis.annotate("chosen", (middle, values.min()), (4, 0), color=plots.QUIET, **note)
axis.set_xticks(np.sqrt(ticks), ticks)
axis.set(xlabel="strength alpha (square-root scale)", ylabel="%")
plt.show()

# %% [markdown]
# Now the result. We are after differences of a point between prompt sets, and chance alone moves an accuracy on two
# thousand pictures by one. So all heads are tested on one larger set of new pictures.

# %%
large = fresh(500 + seed, 6 * n_images)
before = [measure(lambda z: z, large, w) for w in wordings]
after = [measure(h, large, w) for h, w in zip(trained, wordings)]
before, after = pd.DataFrame(before), pd.DataFrame(after)
table = pd.DataFrame({"frozen": before.mean(), "CLAP": after.mean()})
table["change"] = table["CLAP"] - table["frozen"]
table["smallest"] = (after - before).min()
table["largest"] = (after - before).max()
table.round(1)

# %% tags=["remove-cell"]
gain = after - before
ratio = after["range"] / before["range"]
for name in ("C", "CP", "PC", "NC"):
    put(f"before_{name}", before[name].mean())
    put(f"gain_{name}", gain[name].mean())
put("range_before", before["range"].mean())
put("range_after", after["range"].mean())
put("alpha", np.mean(chosen))
put("best_C", (curve["C"].max(1) - curve["C"][:, 0]).mean())

# %% [markdown]
# At the strength chosen without labels (on average {glue:text}`clap_alpha:.2f`), C rises by
# {glue:text}`clap_gain_C:.1f` points and NC, the set with noise, by {glue:text}`clap_gain_NC:.1f`. The range between the
# best and the worst prompt set shrinks from {glue:text}`clap_range_before:.1f` to {glue:text}`clap_range_after:.1f`
# points. With labels, the best $\alpha$ for C alone would have gained {glue:text}`clap_best_C:.1f`: the rule pays a little
# accuracy on C for steadiness across wordings. {ref}`strength-and-robustness` weighs such rules against each other.
#
# ## Which media gain?


# %% mystnb={"image": {"alt": "Accuracy by medium for the frozen model and with CLAP, mean over seeds with error bars: CLAP is higher in every medium or nearly so."}}
@torch.no_grad()
def by_domain(test, text, head):
    image, label, domain = test
    right = evaluate.predict(head(image), head(text)) == label
    parts = {n: right[domain == d] for d, n in enumerate(media)}
    return {n: part.double().mean().item() for n, part in parts.items()}


media = datasets.load(dataset, n=64).domains


kept = {"frozen": [lambda z: z] * n_seeds, "CLAP": trained}
bars = {}
for name, used in kept.items():
    found = [by_domain(t, w[0]["C"], h) for h, t, w in zip(used, tests, wordings)]
    bars[name] = {domain: [row[domain] for row in found] for domain in found[0]}
plots.bars_by_domain(bars, chance=1 / len(classes))

# %% tags=["remove-cell"]
change = pd.DataFrame(bars["CLAP"]).mean() - pd.DataFrame(bars["frozen"]).mean()
put("least_medium", 100 * change.min())
put("most_medium", 100 * change.max())

# %% [markdown]
# Between {glue:text}`clap_least_medium:.1f` and {glue:text}`clap_most_medium:.1f` points, depending on the medium. The
# head has never seen a medium; it has only read their names.
#
# ## What is gone, and what is not
#
# Do the features still know the style? We ask linear probes ({ref}`content-and-style`) for every factor, on the frozen
# features, on what the head gives at the chosen strength, and on the head's own output at the strength of its training,
# $\alpha = 1$. *Predict: is colour gone?*

# %%
factors = ("object", "color", "size", "medium", "finish")


@torch.no_grad()
def probed(s, head):
    """Probe accuracies in %: frozen, at the chosen alpha, at alpha 1."""
    scenes = world.sample(min(n_images, 2048), seed=30_000 + s)
    image = tests[s - seed][0] if dataset == "glyphs" else embed(scenes)
    known, chosen, rows = {f: getattr(scenes, f) for f in factors}, head.alpha, {}
    for name, strength in (("frozen", 0.0), ("chosen", chosen), ("alpha 1", 1.0)):
        head.alpha = strength
        found = evaluate.probes(head(image[: len(scenes)]), known, seed=s)
        rows[name] = {f: 100 * value for f, value in found.items()}
    head.alpha = chosen
    return pd.DataFrame(rows).T


probes = [probed(s, head) for s, head in zip(seeds, trained)]
probe_mean = sum(probes) / n_seeds
probe_mean.round(1)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Probe accuracy for each factor at three strengths: the object's stays the same, those of colour, size, medium and finish fall at alpha 1 but stay far above chance."}}
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.2))
sizes = (len(world.OBJECTS), len(world.COLORS), len(world.SIZES), len(world.MEDIA), 2)
for y, (factor, k) in enumerate(zip(factors, sizes)):
    for i, name in enumerate(probe_mean.index):
        value = probe_mean.loc[name, factor]
        axis.plot(value, y, "os^"[i], color=plots.PALETTE[i], markersize=7)
        if y == 0:
            axis.annotate(
                name, (value, y), (0, (10, -18, 22)[i]), ha="center", color=plots.PALETTE[i], **note
            )
    axis.plot([100 / k] * 2, [y - 0.25, y + 0.25], color=plots.QUIET, linestyle=":")
axis.annotate("chance", (100 / sizes[0], 0), (4, 8), color=plots.QUIET, **note)
axis.set_yticks(range(len(factors)), factors)
axis.set(xlabel="accuracy of a linear probe (%)", xlim=(0, 102), ylim=(4.6, -0.9))
plt.show()

# %% tags=["remove-cell"]
for factor in factors:
    put(f"probe_{factor}", probe_mean.loc["frozen", factor])
    put(f"probe_{factor}_1", probe_mean.loc["alpha 1", factor])

# %% [markdown]
# The object is read as well as before ({glue:text}`clap_probe_object:.1f` and {glue:text}`clap_probe_object_1:.1f`%).
# Colour falls from {glue:text}`clap_probe_color:.1f` to {glue:text}`clap_probe_color_1:.1f`%, size from
# {glue:text}`clap_probe_size:.1f` to {glue:text}`clap_probe_size_1:.1f`%. Reduced, not removed. "Isolating content" is the
# aim of the theory, which assumes that every style factor is varied and the loss is minimised on the data in question.
# Here it is minimised on sentences, and applied to pictures. What changes is how *loud* style is: its share of the
# variance that a cosine sees. A probe reads whispers as well.


# %%
def loudness(image, values):
    """Share of the variance of unit features that lies between the values."""
    z = unit(image)
    z = z - z.mean(0)
    groups = torch.stack([z[values == v].mean(0) for v in values.unique()])
    counts = torch.stack([(values == v).sum() for v in values.unique()])
    between = (groups.square().sum(1) * counts).sum()
    return 100 * float(between / z.square().sum())


scenes = world.sample(min(n_images, 1024), seed=60_000 + seed)
image = embed(scenes)
loud, strength = {}, trained[0].alpha
for alpha in (0.0, strength, 1.0):
    trained[0].alpha = alpha
    with torch.no_grad():
        moved = trained[0](image)
    loud[f"alpha {alpha}"] = {f: loudness(moved, getattr(scenes, f)) for f in factors}
trained[0].alpha = strength
loud = pd.DataFrame(loud)
loud.round(1)

# %% tags=["remove-cell"]
for factor in ("object", "color", "medium"):
    put(f"loud_{factor}", loud.loc[factor].iloc[0])
    put(f"loud_{factor}_after", loud.loc[factor].iloc[1])

# %% [markdown]
# Of the variance of the frozen picture features, {glue:text}`clap_loud_object:.0f`% lies between objects,
# {glue:text}`clap_loud_color:.0f`% between colours and {glue:text}`clap_loud_medium:.0f`% between media. At the chosen
# strength it is {glue:text}`clap_loud_object_after:.0f`, {glue:text}`clap_loud_color_after:.0f` and
# {glue:text}`clap_loud_medium_after:.0f`%.
#
# ## Before and after, seen
#
# t-SNE lays out pictures so that neighbours in feature space are neighbours on paper. Move the slider from the frozen
# model to the head. Colours of the dots are six objects; the shape of each cloud is all that counts, not distances
# between clouds.


# %% tags=["hide-input"]
def map_of(layout, objects):
    """A dot a picture, a colour and a shape an object."""
    figure, axis = plt.subplots(figsize=(5.6, 4.4))
    for k, color in enumerate((*plots.PALETTE, "#8a8a8a")):
        xy = layout[(objects == k).numpy()]
        axis.scatter(*xy.T, s=14, color=color, marker="osD^vP"[k])
        name = {"ha": "center", "weight": "bold"} | note
        axis.annotate(world.OBJECTS[k], np.median(xy, 0), (0, 0), **name)
    axis.set(xticks=[], yticks=[])
    plt.close(figure)
    return figure


per = max(6, min(60, n_images // 30))  # pictures of an object
few = world.sample(6 * per, seed=seed + 7, object=torch.arange(6).repeat(per))

# %% tags=["hide-input"]
image, pictures, layout = embed(few), [], "pca"
shown = (0.0, 0.2, strength, 1.0)
for trained[0].alpha in shown:
    with torch.no_grad():
        z = unit(trained[0](image)).numpy()
    settings = {"perplexity": min(25, per), "max_iter": 300, "random_state": 0}
    layout = TSNE(init=layout, **settings).fit_transform(z)
    pictures.append(map_of(layout, few.object))
    layout = 1e-4 * layout / layout.std()  # where the next one starts
trained[0].alpha = strength
labels = ["0 (frozen)", *(f"{alpha:g}" for alpha in shown[1:])]
alt = "t-SNE of pictures of six objects: several islands each for the frozen model, fewer and tighter with the head"
widgets.frames(pictures, labels, name="alpha", alt=alt)

# %% [markdown]
# ## What the released recipe leaves
#
# Our recipe is not the released one. CLAP as released deletes only size and colour, puts in four noise tokens, uses
# $\tau = 0.5$ and a head as wide as the features. We train that too, on the same classes, and choose $\alpha$ in the
# same way.

# %%
released_views = clap.embed_views(model, classes, n_prompts, seed=seed)
released, _ = train(released_views, seeds, steps=800 * steps // 700)
for head in released:
    head.alpha = clap.choose_alpha(head, unlabelled, told, alphas)
theirs = [measure(h, large, w) for h, w in zip(released, wordings)]
theirs = pd.DataFrame(theirs)
comparison = {"frozen": before, "released recipe": theirs, "this chapter": after}
comparison = pd.DataFrame({name: rows.mean() for name, rows in comparison.items()})
comparison.T.round(1)

# %% tags=["remove-cell"]
put("released_C", (theirs["C"] - before["C"]).mean())
put("released_NC", (theirs["NC"] - before["NC"]).mean())
put("released_ratio", (theirs["range"] / before["range"]).mean())
put("ratio", ratio.mean())

# %% [markdown]
# The released recipe gains {glue:text}`clap_released_C:.1f` points on C and {glue:text}`clap_released_NC:.1f` on NC; its
# range is {glue:text}`clap_released_ratio:.2f` of the frozen model's, ours {glue:text}`clap_ratio:.2f`. Now the zero tokens
# from above explain themselves. In the released augmentations, noise always comes with a long sentence; the test puts it
# before a *bare name*, at positions that training never covers. Deleting style words more often makes short sentences,
# and more noise tokens push them further. A wider head moves pictures more gently for the same effect on text.
#
# How does this compare with the published numbers? There, ViT-B/16 on photographs, drawings and paintings:
#
# | data set (classes) | | C | CP | PC | NC | range |
# |---|---|---|---|---|---|---|
# | PACS (7) | CLIP | 95.7 | 95.2 | 96.1 | 90.8 | 5.3 |
# | | CLAP | 97.2 | 97.3 | 97.2 | 97.2 | 0.1 |
# | VLCS (5) | CLIP | 76.4 | 82.0 | 82.4 | 68.3 | 14.1 |
# | | CLAP | 82.7 | 83.4 | 83.4 | 81.0 | 2.4 |
# | OfficeHome (65) | CLIP | 79.8 | 79.5 | 82.6 | 71.5 | 11.0 |
# | | CLAP | 81.0 | 80.5 | 83.0 | 73.5 | 9.5 |
# | DomainNet (345) | CLIP | 57.8 | 57.0 | 57.7 | 51.0 | 6.8 |
# | | CLAP | 58.7 | 58.0 | 59.0 | 52.6 | 6.4 |
#
# Means over domains of the authors' released result files, in %; the range is that of the four means. The protocol
# differs: real CLIP, real pictures, $\alpha$ chosen on the test domains, one run, and no noise in training where classes
# are many. The pattern is the one we see: where noise is trained, the range closes; where it is not, it stays.
#
# ## Check
#
# Each seed has its own head and its own noise; all are tested on the same new pictures. The worst seed must hold. (The
# range is a difference of two accuracies: a few hundredths of its ratio are chance.)

# %% tags=["check"]
checks = pd.DataFrame(
    {"C": gain["C"], "NC": gain["NC"], "worst set": gain[["C", "CP", "PC", "NC"]].min(axis=1)}
)
checks["range ratio"] = ratio
print(checks.round(2))
if shipped:
    assert (checks["C"] >= 2.5).all() and checks["C"].mean() >= 3
    assert (checks["NC"] >= 4).all()
    assert (checks["worst set"] >= -1).all(), "no prompt set loses more than a point"
    assert checks["range ratio"].mean() <= 0.6 and checks["range ratio"].max() <= 0.65

# %% tags=["check"]
c_curve = curve["C"].mean(0)
print(f"C at alpha 0, its best, 3: {c_curve[0]:.1f}, {c_curve.max():.1f}, {c_curve[-1]:.1f}")
if shipped:
    best = alphas[int(c_curve.argmax())]
    assert 0.1 <= best <= 0.4 and c_curve[-1] < c_curve[0] + 1, "rises, then falls"
    lost = pd.DataFrame([p.loc["frozen"] - p.loc["alpha 1"] for p in probes])
    print(lost.round(1).to_string())
    assert abs(lost["object"].mean()) < 1.5, "content is kept"
    assert (lost[["color", "size"]] > 1).all().all(), "style is reduced"

# %% [markdown]
# The released recipe is held to the same demands, and fails one of them: its range.

# %% tags=["check"]
if shipped:
    theirs_ratio = (theirs["range"] / before["range"]).mean()
    print(f"range ratio: released {theirs_ratio:.2f}, this chapter {ratio.mean():.2f}")
    assert (theirs["C"] - before["C"] >= 3).all()
    assert theirs_ratio > ratio.mean()

# %% [markdown]
# ## Pitfalls
#
# - **Choosing $\alpha$ on the test set.** The released search does. It is worth little here
#   ({ref}`strength-and-robustness` measures it), and everything in a comparison with methods that do not.
# - **Two prompts of one class in a batch.** NT-Xent would push them apart. One prompt a class is not a detail.
# - **The end token.** A text tower reads its feature off at the end token. Who puts noise tokens into the embeddings must
#   move the end position with them, and stay within the context; `embed_noised_texts` does both, and says so when a text
#   does not fit.
# - **Normalising first.** The head's features enter un-normalised. On unit vectors the same weights are a different head.
# - **One draw of noise.** NC is a random number. A range over prompt sets that holds one draw of it is too; we average over
#   three.
#
# ## Exercises
#
# ### Exercise 1: without the second term
# Train with $\lambda = 0$, so that nothing ties the sentences to the bare name: once with the edits of this chapter, once
# with the released ones, which never delete the medium or the finish. Predict which prompt set suffers.

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
setting = {"hidden": hidden, "temperature": temperature, "learning_rate": 3e-4}
rows = {}
for name, pool in (("our edits", views), ("released edits", released_views)):
    for weight in (1.0, 0.0):
        (head,), _ = clap.train(pool, [seed], weight=weight, steps=steps // 4, **setting)
        head.alpha = 0.3
        label = f"{name}, weight {weight:.0f}"
        rows[label] = measure(head, tests[0], wordings[0])
pd.DataFrame(rows).T.round(1)

# %% [markdown]
# :::{dropdown} Why
# Hardly anything happens with our edits. They delete so many words that the bare name is among the augmented prompts
# anyway, and the first term ties it to all the others. Where the medium is never deleted, the second term is the only
# one that speaks of it.
# :::
#
# ### Exercise 2: one side only
# Put the head on the class texts only, and leave pictures as they are; then the other way round. Which of the two
# carries the gain?

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
rows = []
for head, (image, label, _), (plain, _) in zip(trained, tests, wordings):
    with torch.no_grad():
        x, t = head(image), head(plain["C"])
    sides = {"neither": (image, plain["C"]), "text only": (image, t)}
    sides |= {"pictures only": (x, plain["C"]), "both": (x, t)}
    shown = {k: 100 * evaluate.zero_shot(*v, label) for k, v in sides.items()}
    rows.append(shown)
pd.DataFrame(rows).round(1)

# %% [markdown]
# :::{dropdown} Why
# The texts alone bring a part, the pictures alone little, both together more than the sum. A cosine is a sum over
# directions, and the head turns some of them down. If only one side does so, the two no longer speak the same language,
# and that costs much of what it brings.
# :::
#
# ### Exercise 3: objects that the head has not read about
# Train on the first half of the classes, test on pictures of the second half, among the names of the second half. Does
# the head know what style is, or only what these classes are?

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
half = len(classes) // 2
part = clap.Views(views.prompt[:half], views.augmented[:half], views.content[:half])
(head,), _ = clap.train(part, [seed], steps=steps // 4, **setting)
image, label, _ = tests[0]
rest, text = label >= half, wordings[0][0]["C"][half:]
for head.alpha in (0.0, 0.1, 0.2, 0.4, 1.0):
    with torch.no_grad():
        found = evaluate.zero_shot(head(image[rest]), head(text), label[rest] - half)
    print(f"alpha {head.alpha:.1f}: {100 * found:.1f}% on classes the head never read")

# %% [markdown]
# :::{dropdown} Why
# What helps at small strength is what the head learned of style, which all classes share. What it learned about its own
# classes does not carry over, and at full strength it is in the way.
# :::
#
# ## Summary
#
# - Style can be edited out of sentences exactly, at the price of a string operation.
# - CLAP trains a residual head to ignore such edits, on text alone; encoding once makes that a matter of seconds.
# - On pictures a little of it helps, for every wording and in nearly every medium; a lot of it hurts, because pictures lie elsewhere.
# - The strength can be chosen without labels, by asking wordings to agree.
# - Style is turned down, not removed: cosines see less of it, linear probes still find it.
#
# ## Further reading
#
# {cite:t}`cai2024clap` for the method and its ablations; {cite:t}`vonkugelgen2021content` for the theory;
# {cite:t}`chen2020simclr` for NT-Xent; {cite:t}`zhou2022coop` for learning the prompt instead of a head.

# %% tags=["remove-cell"]
fraction = lambda frame, name: float(frame[name].mean()) / 100
metrics = {"alpha": float(np.mean(chosen))}
for name in ("C", "CP", "PC", "NC", "range"):
    key = f"{name}_" if name != "range" else "range_"
    clip_key, clap_key = (f"{name}_{m}" if name == "range" else f"{m}_{name}" for m in ("clip", "clap"))
    metrics |= {clip_key: fraction(before, name), clap_key: fraction(after, name)}
metrics |= {"released_C": fraction(theirs, "C"), "released_NC": fraction(theirs, "NC")}
metrics |= {f"probe_{f}": float(probe_mean.loc["frozen", f]) / 100 for f in factors}
metrics |= {f"probe_{f}_clap": float(probe_mean.loc["alpha 1", f]) / 100 for f in factors}
metrics |= {"seconds_views": seconds_views, "seconds_training": seconds_training}
runs.record(metrics, out_dir)
