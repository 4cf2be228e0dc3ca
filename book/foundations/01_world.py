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
# (world)=
# # A world with known causes
#
# Did the model recognise the cat, or the orange? On photographs nobody can say: the cause of a pixel is not
# on record. This chapter builds a world in which it is. We draw scenes from named causes, change one cause
# while everything else stays as it was, and turn a knob that ties an object to a colour and a medium, as
# web pages do. Every later chapter trains, probes and breaks its models here first.
#
# :::{admonition} Objectives
# - draw scenes from their causes, and name what is content, what is style and what is nuisance,
# - intervene on one cause and check, pixel by pixel, that nothing else moved,
# - say why conditioning on a cause is not the same as setting it,
# - bias the world with one knob and compute how much a model could gain by ignoring the object.
# :::

# %% tags=["parameters"]
backbone = "glyph"  # not used here; every chapter takes the same parameters
dataset = "glyphs"  # not used here
seed = 0
device = None  # "cpu" or "cuda"; None takes the best there is
n_images = 2000  # scenes per measurement
steps = 0  # nothing is trained here
out_dir = ""  # a folder to record the metrics in

# %%
import math
import time

import matplotlib.pyplot as plt
import numpy as np
import torch
from myst_nb import glue
from torchvision.utils import make_grid

from clipbook import plots, pretrain, runs, widgets, world

plots.use()
device = device or ("cuda" if torch.cuda.is_available() else "cpu")
glue("world_cost", runs.cost_line("foundations/01_world"), display=False)
trained_with = pretrain.card("glyph")["recipe"]["correlation"]
glue("world_trained_with", float(trained_with), display=False)

# %% [markdown]
# *{glue:text}`world_cost`*
#
# ## First, look
#
# Eight scenes, one in each medium. Before you read on: which words would you need to tell somebody else how
# to draw exactly these?

# %% mystnb={"image": {"alt": "Eight small pictures of icons, one in each medium, from a painting to a sculpture, the medium's name above each."}}
first = world.sample(8, seed=seed, medium=torch.arange(8))
plots.image_grid(world.render(first, 128), titles=world.MEDIA, columns=4)

# %% [markdown]
# ## The idea: a picture is a function of its causes
#
# {cite:t}`vonkugelgen2021content` split what lies behind a picture in two. **Content** $c$ is what we want to
# recognise. **Style** $s$ is everything nameable that may change while the content stays. We add **nuisance**
# $\epsilon$, which no caption mentions. A picture and a text are two views of the same causes:
#
# $$
# x = g_x(c, s, \epsilon), \qquad t = g_t(c, s, \epsilon), \qquad y = c .
# $$ (eq-world-causes)
#
# The label $y$ depends on content alone. Content may *cause* style (anchors are often grey), and that arrow
# is where the trouble of this book begins. {cite:t}`cai2024clap` draw the same graph for CLIP and cut the
# arrow through prompts.
#
# | symbol | code | meaning |
# |---|---|---|
# | $c$ | `scenes.object` (and `object2`, `relation`) | content: what is there |
# | $s$ | `scenes.color`, `size`, `medium`, `finish` | style: how it looks |
# | $\epsilon$ | `scenes.seed` | nuisance: place, angle, glyph variant, light, background, grain |
# | $g_x$, $g_t$ | `world.render`, `world.caption` | how causes become a picture and a text |
# | $\mathrm{do}(s = s')$ | `scenes.edit(color=...)` | an intervention: set one cause, keep the others |
# | $\rho$ | `correlation` | strength of the arrow from content to style |

# %% mystnb={"image": {"alt": "A causal graph: content points to style, picture, text and label; style and nuisance point to picture and text. The arrow from content to style is marked rho."}}
place = {"c": (0, 1), "s": (1.6, 1), "ε": (3.2, 1), "y": (-0.4, 0), "x": (1.1, 0), "t": (2.6, 0)}
names = {"c": "content", "s": "style", "ε": "nuisance", "y": "label", "x": "picture", "t": "text"}
figure, axis = plt.subplots(figsize=(7, 2.3))
for a, b in ("cs", "cy", "cx", "ct", "sx", "st", "εx", "εt"):
    knob = a + b == "cs"
    arrow = {"arrowstyle": "-|>", "shrinkA": 24, "shrinkB": 24, "lw": 2.5 if knob else 1.2}
    arrow["color"] = plots.PALETTE[1] if knob else plots.QUIET
    axis.annotate("", place[b], place[a], arrowprops=arrow)
for symbol, xy in place.items():
    frame = {"boxstyle": "round", "fc": plots.PAPER, "ec": plots.INK}
    axis.text(*xy, f"{names[symbol]} {symbol}", ha="center", va="center", bbox=frame)
axis.text(0.8, 1.12, "ρ", color=plots.PALETTE[1], ha="center", fontsize=13)
axis.set(xlim=(-0.9, 3.9), ylim=(-0.35, 1.4))
axis.axis("off")
plt.show()

# %% [markdown]
# ## Scenes are values
#
# `world.sample` draws the causes: plain integers, one row a scene. Nothing else decides a pixel.

# %%
scenes = world.sample(n_images, seed=seed)
for name in ("object", "color", "size", "medium", "finish", "seed"):
    print(f"{name:8}", getattr(scenes, name)[:4].tolist())

# %% [markdown]
# The words behind the integers are tuples: `world.OBJECTS` holds 32 names, `world.COLORS` ten,
# `world.SIZES` three, `world.MEDIA` eight, `world.FINISHES` two. A second tuple of objects, `world.NOVEL`, is kept away from every
# model we train, so that later parts can ask what happens when something new turns up.

# %% mystnb={"image": {"alt": "A contact sheet of all 44 objects of the world, the 32 known ones and the twelve novel ones, each with its name."}}
names = world.OBJECTS + world.NOVEL
sheet = world.sample(len(names), seed=seed, object=torch.arange(len(names)), medium=3, size=0, finish=0)
plots.image_grid(world.render(sheet, 96), titles=names, columns=11)

# %% [markdown]
# Two objects stand in one of four relations. Which one is named first says nothing about where it is: the
# relation does. A benchmark that breaks this rule can be solved without reading
# ({ref}`Check <world-check>` measures ours).

# %% mystnb={"image": {"alt": "Four scenes with two objects each, one for each of the relations left of, right of, above and below, with captions."}}
pairs = world.sample(4, seed=seed + 3, objects=2, relation=torch.arange(4), finish=0, size=0)
plots.image_grid(world.render(pairs, 128), titles=world.caption(pairs), columns=4)

# %% [markdown]
# ## Three ways to put a scene into words
#
# A *full* caption names every factor, a *content* caption only the objects. Web pages do neither: they drop
# factors, change the wording, and say "photo" as readily as "photograph". The *web* captions imitate that,
# and they are what the models of this book are trained on.

# %% mystnb={"image": {"alt": "Three scenes, each with its full, content and web captions underneath."}}
captions = [world.caption(scenes[:3], template) for template in ("full", "content", "web")]
texts = [f"full: {full} | content: {content} | web: {web}" for full, content, web in zip(*captions)]
plots.image_grid(world.render(scenes[:3], 128), titles=texts, columns=3)

# %% [markdown]
# How much does a web caption leave out? A contrastive model can only learn what its captions keep apart.

# %% mystnb={"image": {"alt": "Bars: the share of web captions that name each factor. The object is always named, colour in about 70 percent, the others less often."}}
web = world.caption(scenes, "web")
vocabulary = {
    "object": world.OBJECTS,
    "color": world.COLORS,
    "medium": world.MEDIA + ("photo",),
    "size": world.SIZES,
    "finish": world.FINISHES,
}
named = {
    factor: float(np.mean([any(word in text for word in words) for text in web]))
    for factor, words in vocabulary.items()
}
figure, axis = plt.subplots(figsize=(7, 2.2))
axis.barh(list(named), [100 * value for value in named.values()], color=plots.PALETTE[0])
axis.set(xlabel=f"web captions that name the factor (% of {len(web)})", xlim=(0, 100))
axis.invert_yaxis()
plt.show()
glue("world_web_color", 100 * named["color"], display=False)
glue("world_web_finish", 100 * named["finish"], display=False)

# %% [markdown]
# Colour survives in {glue:text}`world_web_color:.0f`% of the web captions, the finish in only
# {glue:text}`world_web_finish:.0f`%. We will meet these numbers again: what captions drop, image features
# need not keep.
#
# ## Interventions
#
# Now the tool that no photograph album offers. `edit` sets one cause and leaves every other, nuisance
# included. *Predict first*: if we set the colour, will the background change? If we set the size, will the
# object move? Then try each slider (drag it, or focus it and use the arrow keys).

# %%
shown = world.sample(6, seed=seed + 1, finish=0)


def strip(edited):
    return make_grid(world.render(edited, 112), nrow=6, padding=4, pad_value=0.98)


def slider(factor, words):
    pictures = [strip(shown.edit(**{factor: value})) for value in range(len(words))]
    alt = f"The same six scenes with their {factor} set to one value; place, angle and background stay."
    return widgets.frames(pictures, words, name=factor, alt=alt)


slider("color", world.COLORS)

# %% [markdown]
# Colour moves nothing. The medium redraws everything, yet the object keeps its place, its angle and its
# glyph variant:

# %%
slider("medium", world.MEDIA)

# %% [markdown]
# Size, finish, and the object itself. (An object has up to three glyph variants; which one is drawn is
# nuisance, so it too is kept where it can be.)

# %%
slider("size", world.SIZES)

# %%
slider("finish", world.FINISHES)

# %%
slider("object", world.OBJECTS)

# %% [markdown]
# ### What does each cause govern?
#
# We intervene on one cause in many scenes and count, for every pixel, how often it changed at all. White
# means never.

# %% mystnb={"image": {"alt": "Five maps of the image, one per factor: colour, size and object change only the middle of the picture, medium and finish change all of it."}}
sample = scenes[:400]
before = world.render(sample)
sizes = {"object": 32, "color": 10, "size": 3, "medium": 8, "finish": 2}
governed = {}
for factor, count in sizes.items():
    after = world.render(sample.edit(**{factor: (getattr(sample, factor) + 1) % count}))
    governed[factor] = (after != before).any(1).float().mean(0)
figure, axes = plt.subplots(1, 5, figsize=(7, 1.9))
for axis, (factor, share) in zip(axes, governed.items()):
    picture = axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.set_title(factor)
    axis.axis("off")
figure.colorbar(picture, ax=axes, label="share of scenes", shrink=0.8)
plt.show()

# %% [markdown]
# Colour, size and object govern the pixels under and around the object. Medium and finish govern all of them,
# because they say *how* to paint. This is the list of what a perfect content feature would have to ignore.
#
# ## Content causes style: the correlation knob
#
# So far the causes were independent. On the web they are not: pictures of anchors and pictures of crowns
# differ in more than the object. Give every object a favourite colour and a favourite medium. With chance
# $\rho$ it takes the favourite, otherwise it draws uniformly:
#
# $$
# P(s = k \mid c) = \rho \, [k = k^*(c)] + \frac{1 - \rho}{K}.
# $$ (eq-world-correlation)
#
# Move the knob and watch colours gather on their objects.


# %%
def colour_table(rho):
    drawn = world.sample(20 * n_images, seed=seed, correlation=rho)
    index = drawn.object * len(world.COLORS) + drawn.color
    counts = torch.bincount(index, minlength=320).view(32, 10).float()
    return counts / counts.sum(1, keepdim=True)


# %%
rhos = [0.0, 0.25, 0.5, 0.75, 1.0]
words = {"label": "P(colour | object)", "ylabel": "colour", "xlabel": "object"}
figures = [
    plots.similarity_matrix(colour_table(rho).T, world.COLORS, world.OBJECTS, vmin=0, vmax=1, **words)
    for rho in rhos
]
alt = "Heat map of the chance of each colour given each object, from even to one colour per object."
widgets.frames(figures, [f"{rho:.2f}" for rho in rhos], name="correlation ρ", alt=alt)

# %% [markdown]
# ### How far does a shortcut get?
#
# Suppose a model looks at colour and medium and *never at the shape*. Bayes' rule gives its best guess,
# $\hat c = \arg\max_c P(\text{colour} \mid c) P(\text{medium} \mid c)$, and {eq}`eq-world-correlation` its
# accuracy without any training. Two curves: scenes drawn with the same correlation, and scenes drawn without.
# *Predict*: at $\rho$ = {glue:text}`world_trained_with:.2f`, the value that the shipped model is trained with, how
# often is the shortcut right about one of 32 objects?


# %%
def style_given_object(rho):
    objects = torch.arange(len(world.OBJECTS))
    favourites = world.favourite(objects)
    counts = (len(world.COLORS), len(world.MEDIA))
    return [rho * torch.eye(k)[fav] + (1 - rho) / k for fav, k in zip(favourites, counts)]


def shortcut_accuracy(rho, test):
    color, medium = style_given_object(rho)
    guess = (color[:, test.color] * medium[:, test.medium]).argmax(0)
    return float((guess == test.object).float().mean())


grid = np.linspace(0, 1, 11)
seeds = range(seed, seed + 5)
tests = {rho: [world.sample(n_images, seed=1000 + s, correlation=rho) for s in seeds] for rho in grid}
same = np.array(
    [[shortcut_accuracy(rho, test) for rho, test in zip(grid, row)] for row in zip(*tests.values())]
)
fair = np.array([[shortcut_accuracy(rho, test) for rho in grid] for test in tests[0.0]])

# %% mystnb={"image": {"alt": "Accuracy of the shortcut against correlation: on correlated scenes it climbs from chance to nearly 100 percent, on decorrelated scenes it stays at chance."}}
figure = plots.curves(
    grid,
    {"correlated scenes": 100 * same, "decorrelated scenes": 100 * fair},
    chance=100 / 32,
    xlabel="correlation ρ in training and in the correlated scenes",
    ylabel="shortcut accuracy (%)",
)
glue("world_shortcut", float(100 * same[:, 7:9].mean()), display=False)
glue("world_shortcut_fair", float(100 * fair[:, 7:9].mean()), display=False)
figure

# %% [markdown]
# Between $\rho = 0.7$ and $0.8$ the shortcut names the right one of 32 objects in
# {glue:text}`world_shortcut:.0f`% of the correlated scenes, without looking at the object. On decorrelated scenes it
# is worth {glue:text}`world_shortcut_fair:.1f`%: nothing. A contrastive model is free to learn this
# shortcut, and {ref}`contrastive-pretraining` shows that it does, long before it learns shapes. The chapters on
# content and style take it out again.
#
# ## Pitfall: conditioning is not intervening
#
# Does the medium make objects more colourful? In a data set we can only *select* sketches and photographs and
# compare them. In our world we can also *draw the same scenes* as sketches and as photographs. With correlated
# causes the two answers differ, because selecting a medium also selects the objects that favour it, and with
# them their colours. Broken and fixed, side by side:


# %%
def red_share(chosen):
    return float((chosen.color == world.COLORS.index("red")).float().mean())


biased = world.sample(20 * n_images, seed=seed, correlation=0.75)
selected = {m: red_share(biased[biased.medium == i]) for i, m in enumerate(world.MEDIA)}
intervened = {m: red_share(biased.edit(medium=i)) for i, m in enumerate(world.MEDIA)}

# %% mystnb={"image": {"alt": "Bars per medium: the share of red objects among scenes selected by medium varies widely, after an intervention it is the same for every medium."}}
figure = plots.bars_by_domain(
    {"selected, P(red | medium)": selected, "intervened, P(red | do(medium))": intervened},
    xlabel="red objects (%)",
)
figure.axes[0].set_xlim(0, 30)
figure

# %%
spread = {"selected": np.ptp(list(selected.values())), "intervened": np.ptp(list(intervened.values()))}
glue("world_confounded", float(100 * spread["selected"]), display=False)
print({name: f"{100 * value:.1f} points between media" for name, value in spread.items()})

# %% [markdown]
# Selecting by medium moves the share of red by up to {glue:text}`world_confounded:.0f` points; intervening moves
# it by none. A paper that compares "sketches" with "photos" from the web compares what people sketch with
# what people photograph. `edit` is immune, by construction.
#
# ## Pitfall: a counterfactual with fresh nuisance
#
# It is tempting to make the counterfactual of a scene by drawing *another* scene with one factor set. The factor
# is right; everything else is new. Below, the colour is changed to red in both ways.

# %% mystnb={"image": {"alt": "Three versions of four scenes: the original, the counterfactual by edit, which differs in colour alone, and one drawn afresh, in which place, angle and background differ as well."}}
original = world.sample(4, seed=seed + 5, color=1, finish=0)
edited = original.edit(color=0)
afresh = world.sample(
    4, seed=seed + 6, color=0, object=original.object, medium=original.medium, size=original.size
)
rows = torch.cat([world.render(scene, 112) for scene in (original, edited, afresh)])
titles = ["original"] * 4 + ["edit(color=red)"] * 4 + ["drawn afresh in red"] * 4
plots.image_grid(rows, titles=titles, columns=4)


# %%
def distance(a, b):
    return float((world.render(a) - world.render(b)).abs().mean())


many = world.sample(500, seed=seed + 7, color=1)
factors = {name: getattr(many, name) for name in ("object", "medium", "size", "finish")}
apart = {
    "edit": distance(many, many.edit(color=0)),
    "drawn afresh": distance(many, world.sample(500, seed=seed + 8, color=0, **factors)),
}
glue("world_afresh_ratio", apart["drawn afresh"] / apart["edit"], display=False)
print({name: f"{value:.4f} mean absolute pixel difference" for name, value in apart.items()})

# %% [markdown]
# The careless counterfactual differs {glue:text}`world_afresh_ratio:.1f` times as much as the exact one, and almost
# all of the difference has nothing to do with colour. Any "effect of colour" measured with it would be mostly
# the effect of nuisance.
#
# (world-check)=
# ## Check
#
# Four claims of this chapter, on five seeds each. Exactness is checked with equality, no tolerance.

# %% tags=["check"]
for s in seeds:
    a = world.sample(200, seed=s, objects=2)
    picture = world.render(a)
    # 1. a scene does not depend on its batch   2. an edit undone is the same picture
    assert torch.equal(world.render(a[50:60]), picture[50:60])
    assert torch.equal(world.render(a.edit(color=3, medium=1).edit(color=a.color, medium=a.medium)), picture)
    # 3. nuisance and the other causes survive an edit
    b = a.edit(size=2)
    assert all(
        torch.equal(getattr(a, f), getattr(b, f)) for f in ("object", "color", "medium", "finish", "seed")
    )
print("batch, undo and nuisance: equal to the last bit on", len(seeds), "seeds")

# %% [markdown]
# The shortcut's accuracy has a closed form: sum, over colours and media, the largest joint probability.
# Measured and computed must agree within three standard errors of the count, and on decorrelated scenes the
# shortcut must be at chance.

# %% tags=["check"]
for k, rho in enumerate(grid):
    color, medium = style_given_object(rho)
    joint = color[:, :, None] * medium[:, None, :] / len(world.OBJECTS)
    exact = float(joint.amax(0).sum())
    error = math.sqrt(max(exact * (1 - exact), 1e-4) / (n_images * len(seeds)))
    assert abs(same[:, k].mean() - exact) < 3 * error + 1e-6, (rho, same[:, k].mean(), exact)
    assert abs(fair[:, k].mean() - 1 / 32) < 3 * math.sqrt(1 / 32 / (n_images * len(seeds))), (
        rho,
        fair[:, k],
    )
print(f"measured = computed at {len(grid)} strengths; at rho = 1 the shortcut is right in {exact:.1%}")

# %% [markdown]
# And the position of the first-named object gives nothing away: without its relation, its left-right and
# up-down place average to the centre within 0.8 of 64 pixels.

# %% tags=["check"]
for s in list(seeds)[:3]:
    two = world.sample(1200, seed=s, objects=2)
    mark = (world.render(two) - world.render(two.edit(color=(two.color + 1) % 10))).abs().amax(1)
    weight, axis64 = mark.sum((1, 2)), torch.arange(64) - 31.5
    x, y = (mark.sum(1) @ axis64) / weight, (mark.sum(2) @ axis64) / weight
    assert abs(float(x.mean())) < 0.8 and abs(float(y.mean())) < 0.8, (float(x.mean()), float(y.mean()))
    assert bool((x[two.relation == 0] < 0).all() and (y[two.relation == 2] < 0).all())
print("first-named object: centred on average, and always where its relation says")

# %% [markdown]
# ## How fast is it?
#
# Fast enough to train on fresh scenes at every step, so nothing in this book is ever trained on the same
# picture twice.

# %%
start = time.perf_counter()
world.render(scenes.to(device)).sum().item()
speed = n_images / (time.perf_counter() - start)
print(f"{speed:,.0f} scenes of 64 x 64 per second on {device}, {torch.get_num_threads()} threads")

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: colour alone
# How accurate is the shortcut that sees colour only, at $\rho = 0.75$? Compute it, then measure it. Why can it never
# exceed 10/32, whatever $\rho$?

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
color, _ = style_given_object(0.75)
computed = float(color.amax(0).sum() / len(world.OBJECTS))
test = world.sample(20_000, seed=5, correlation=0.75)
measured = float((color[:, test.color].argmax(0) == test.object).float().mean())
print(f"computed {computed:.3f}, measured {measured:.3f}")
# Ten colours can name at most ten different objects: 10/32 = 0.31 even when rho = 1.
assert abs(computed - measured) < 0.01 and computed < 10 / 32

# %% [markdown]
# ### Exercise 2: the mutual information of content and style
# $I(\text{object}; \text{colour})$ in nats, as a function of $\rho$: write it with {eq}`eq-world-correlation` and check
# both ends.


# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
def information(rho):
    given = style_given_object(rho)[0].double().clamp(min=1e-12)
    marginal = given.mean(0)
    return float((given * (given / marginal).log()).sum(1).mean())


print({rho: round(information(rho), 3) for rho in (0.0, 0.5, 0.75, 1.0)})
# Independent at 0; at 1 the colour is a function of the object, so I = H(colour).
marginal = style_given_object(1.0)[0].mean(0)
assert abs(information(0.0)) < 1e-6
assert abs(information(1.0) + float((marginal * marginal.log()).sum())) < 1e-4

# %% [markdown]
# ### Exercise 3: a mirror world
# "A left of B" and "B right of A" describe the same arrangement. Are the two scenes also the same *picture*?
# Find out, and say which cause makes the difference.

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
a = world.sample(200, seed=1, objects=2, relation=0)
b = a.edit(object=a.object2, object2=a.object, color=a.color2, color2=a.color, relation=1)
print(world.caption(a[0]), "|", world.caption(b[0]))
same_picture = (world.render(a) == world.render(b)).flatten(1).all(1).float().mean()
print(f"identical pictures: {float(same_picture):.0%}")
# Nuisance belongs to the place in the caption: the first object's angle, variant and offset come from the seed's
# first numbers. The arrangement is the same, the nuisance is swapped.
assert float(same_picture) < 0.05

# %% [markdown]
# ## Summary
# - A scene is a row of integers and a seed; the picture and the captions are functions of it.
# - Content is what the label depends on; style is nameable and may change; nuisance is never named.
# - `edit` is an exact intervention: equal to the last bit wherever the cause does not govern.
# - With correlation, a shortcut through style reaches high accuracy without seeing the object, and is
#   worthless as soon as the correlation goes.
# - Selecting is not intervening: comparisons between selected groups inherit every confounder.
#
# ## Further reading
# - {cite:t}`vonkugelgen2021content`: when contrastive learning isolates content, with the same graph.
# - {cite:t}`cai2024clap`: the graph for CLIP, and a method that cuts it; our part on content and style.
# - Next: {ref}`contrastive-pretraining`, where a small CLIP learns this world.

# %% tags=["remove-cell"]
metrics = {
    "shortcut_accuracy": float(same[:, 7:9].mean()),
    "shortcut_accuracy_decorrelated": float(fair[:, 7:9].mean()),
    "selected_spread": float(spread["selected"]),
    "intervened_spread": float(spread["intervened"]),
    "afresh_ratio": apart["drawn afresh"] / apart["edit"],
    "web_names_color": named["color"],
    "scenes_per_second": speed,
}
runs.record(metrics, out_dir)
