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
# (strength-and-robustness)=
# # How strong, how robust?
#
# In {ref}`augmented-prompts` a small head, trained on words alone, made the features of *pictures* say less
# about style. One number was left open: how hard the head may pull. In this chapter we choose it in three
# ways, and ask of each what it costs. Then we put the head through the tests that its paper reports: a few
# labelled pictures, an attacker who may change every pixel a little, other settings. Some of the gains
# stand, some do not, and some of the published numbers measure something else than their name says.
#
# :::{admonition} Objectives
# - read a curve of accuracy over strength, and choose a point on it without labels,
# - say what a search on the test set pretends, with numbers,
# - compare linear probes on a few labelled pictures, in the medium that they saw and in others,
# - write an attack in pixel space, and tell an honest budget from a dishonest one,
# - say which settings of a method matter, and that its gain is there only where content and style are
#   correlated.
# :::

# %% tags=["parameters"]
backbone = "glyph"  # or any open_clip "ARCH/TAG"
dataset = "glyphs"  # or "imagefolder:PATH" (PATH/domain/class/*.jpg)
seed = 0
device = None  # "cpu" or "cuda"; None takes the best there is
n_images = 4096
steps = 300  # of training a head
out_dir = ""  # a folder to record the metrics in
n_prompts = 96  # per class, to train a head on
n_attacked = 128  # images under attack, the same for all attacks

# %%
import copy
import functools
import random

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from myst_nb import glue
from scipy import stats

# %%
from clipbook import (
    attacks,
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
from clipbook.pretrain import RECIPES

# %%
plots.use()
model = backbones.load(backbone, device)
print(runs.cost_line("content_style/04_strength_and_robustness"))

# %% tags=["remove-cell"]
# claims are made about the shipped model and its world, on enough pictures
shipped = (backbone, dataset) == ("glyph", "glyphs")
shipped &= n_images >= 4096 and n_prompts >= 96 and n_attacked >= 128 and 200 <= steps <= 400
note = {"textcoords": "offset points", "fontsize": 9.5}  # labels in figures


def put(name, value):
    """Keep a number or a word of this run for the prose."""
    value = value if isinstance(value, str) else float(value)
    glue(f"robust_{name}", value, display=False)


# %% [markdown]
# ## The head, once more
#
# A frozen model gives a feature $z$ for a picture or a sentence. The head adds a correction $r(z)$, and the
# *strength* $\alpha$ says how much of it {cite:p}`cai2024clap`:
#
# $$
# f_\alpha(z) = z + \alpha\, r(z), \qquad r(z) = V\,(W\,\mathrm{silu}(z) + b)
# $$ (eq-strength)
#
# | symbol | code | meaning |
# |---|---|---|
# | $z$ | `found.image`, `words["C"]` | frozen feature of a picture, of a sentence |
# | $f_\alpha$ | `head`, with `head.alpha` | the head at a strength |
# | $\alpha$ | `alpha`, `alphas` | 0 is the frozen model, 1 is the head as it was trained |
# | $\epsilon$ | `epsilon` | the attacker's budget: largest change of a pixel value in [0, 1] |
# | $\delta$ | `attacked - pixels` | the attacker's change |
#
# Three heads, which differ in their random seed, are trained as in the last chapter: two views of a prompt
# agree, and the second agrees with the bare class name. To fit many experiments into one chapter they have a quarter of
# the width, and one pool of prompts for all.

# %%
style = {"style": 0.8, "type": 0.8, "size": 0.8, "color": 0.8, "swap": 0.5}
recipe = {"hidden": 512, "temperature": 0.3, "steps": steps, "learning_rate": 5e-4}
seeds = [seed, seed + 1, seed + 2]

data = datasets.load(dataset, n=n_images)
found = features.embed(model, data)
n, classes = len(found), found.classes


def text_views(backbone):
    options = {"augmentations": style, "n_tokens": 8, "seed": seed}
    return clap.embed_views(backbone, classes, n_prompts, **options)


views = text_views(model)
trained, history = clap.train(views, seeds, **recipe)

# %% [markdown]
# We score with the four prompt sets of {ref}`zero-shot`: C is the bare class name, CP "a [class] in a photo", PC
# "a photo of a [class]", and NC is C behind four random token embeddings. NC is a draw, so we take many: twelve to
# choose with, eight others to score with.


# %%
told = 12  # draws of NC to choose with
scored = slice(3 + told, None)  # rows of an answer: C, CP, PC, then the draws


def wordings(backbone, draws=told + 8):
    """Text features: one (c, d) for C, CP, PC, and (draws, c, d) for NC."""
    sets = {name: prompts.PROMPT_SETS[name] for name in ("C", "CP", "PC")}
    texts = {name: backbone.embed_texts(prompts.fill(template, classes)) for name, template in sets.items()}
    draw = torch.Generator().manual_seed(1000 + seed)
    many = [backbone.embed_noised_texts(list(classes), 4, generator=draw) for _ in range(draws)]
    return texts | {"NC": torch.stack(many)}


@torch.no_grad()
def answers(head, alpha, image, words):
    """What each wording answers at a strength: (wordings, n)."""
    head.alpha = alpha
    moved = head(image)
    texts = [words[name] for name in ("C", "CP", "PC")] + list(words["NC"])
    return torch.stack([evaluate.predict(moved, head(text)) for text in texts])


# %% [markdown]
# ## The curve over strength
#
# While it trains, the head pulls with $\alpha = 1$. *Predict: how does the accuracy on pictures move from
# $\alpha = 0$ to 3? Where is it best?*

# %%
words = wordings(model)
alphas = [k / 20 for k in range(15)] + [0.8, 1.0, 1.5, 3.0]  # as in the last chapter
given = torch.stack(
    [torch.stack([answers(head, alpha, found.image, words) for alpha in alphas]) for head in trained]
)  # (heads, alphas, wordings, images)
right = given == found.label
score = 100 * right.double().mean(-1)
curves = {name: score[:, :, k] for k, name in enumerate(("C", "CP", "PC"))}
curves["NC"] = score[:, :, scored].mean(-1)

# %% mystnb={"image": {"alt": "Accuracy of four prompt sets over strength on a logarithmic axis: all rise to a maximum near a quarter; C, CP and PC fall below their start before three, NC comes back to it."}}
lines = {name: values[:, 1:] for name, values in curves.items()}
axis_names = {"xlabel": "strength α", "ylabel": "top-1 accuracy (%)"}
figure = plots.curves(alphas[1:], lines, **axis_names)
axis = figure.axes[0]
axis.set_xscale("log")
ticks = [0.05, 0.1, 0.2, 0.5, 1, 3]
axis.set_xticks(ticks, ticks)
axis.minorticks_off()
for name, color in (("C", plots.PALETTE[0]), ("NC", plots.PALETTE[3])):
    start = curves[name][:, 0].mean()
    axis.axhline(start, color=color, linewidth=1, linestyle=":")
    where = (3, start)
    axis.annotate(f"{name}, frozen", where, (0, 3), ha="right", color=color, **note)
axis.margins(y=0.08)
figure

# %% tags=["remove-cell"]
mean_c = curves["C"].mean(0)
best = int(mean_c.argmax())
spread = torch.stack([*curves.values()], -1)
spread = spread.max(-1).values - spread.min(-1).values  # (heads, alphas)
put("frozen_c", mean_c[0])
put("best_c", mean_c[best])
put("best_alpha", alphas[best])
one_gain = mean_c[alphas.index(1.0)] - mean_c[0]
put("one_gain", one_gain)
put("end_c", mean_c[-1])
put("chance", 100 / len(classes))

# %% [markdown]
# From {glue:text}`robust_frozen_c:.1f`% the curve of C rises to {glue:text}`robust_best_c:.1f`% at
# $\alpha$ = {glue:text}`robust_best_alpha:.2f`. At the strength of training, $\alpha = 1$, it is
# {glue:text}`robust_one_gain:+.1f` points from the frozen model, and at the end it is down to
# {glue:text}`robust_end_c:.1f`%. So $\alpha$ is no detail: with the strength of training next to nothing would have been
# reported. The reason is where it was trained. The head has seen sentences only. A small step
# along its correction takes style out of pictures too; a large one moves them to a place where no picture has
# ever been, and nothing in the loss looks at that.
#
# ### Try it: four wordings, one picture
# *Predict which of the four bars moves most.* Then move the slider from the frozen model to a strong head.

# %%
shown = [0, 1, 2, 4, 6, 10, 14, 16, 18]
names = {0.0: "0 (frozen)"}
pictures = []
for k in shown:
    bars = {
        "frozen": {name: values[:, 0] / 100 for name, values in curves.items()},
        "with the head": {name: values[:, k] / 100 for name, values in curves.items()},
    }
    pictures.append(plots.bars_by_domain(bars, chance=1 / len(classes)))
labels = [names.get(alphas[k], f"{alphas[k]:g}") for k in shown]
alt = "Bars of zero-shot accuracy for the prompt sets C, CP, PC and NC, frozen and with the head"
widgets.frames(pictures, labels, name="strength", alt=alt)

# %% [markdown]
# ## Who chooses the strength?
#
# Three kinds of rule, in the order of what they need.
#
# - **No labels.** A content feature should not care how the class is worded. Look for the strength at which
#   the wordings give the *same answer* most often, right or wrong, on pictures without labels
#   (`clap.choose_alpha`, as in the last chapter).
# - **Labels of a validation set.** Other pictures than those that are reported.
# - **Labels of the test set.** The released code tries seven powers of ten and keeps the best accuracy of PC *on
#   the test domains*; a function that halves the interval around it stands beside.
#
# Half of our pictures are for choosing, the other half for reporting. First the agreement itself. *Predict:
# is it highest where accuracy is?*

# %%
order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
choose, report = order[: n // 2], order[n // 2 :]
unlabelled = [words["C"], words["CP"], words["PC"], *words["NC"][:told]]


def agreement_at(head, image, texts, candidates):
    """How often wordings agree at each strength, (candidates, pictures)."""
    rows_ = []
    for alpha in candidates:
        head.alpha = alpha
        rows_.append(clap.agreement(head, image, texts))
    return torch.stack(rows_)


agreeing = [agreement_at(h, found.image[choose], unlabelled, alphas) for h in trained]
agreeing = torch.stack(agreeing)  # (heads, alphas, pictures)
mean_agreement = 100 * agreeing.mean(-1)

# %% mystnb={"image": {"alt": "Agreement of wordings and accuracy over strength: both rise at first; accuracy peaks near a quarter and falls, agreement reaches a flat top and stays near it."}}
accuracy = torch.stack([*curves.values()]).mean(0)
lines = {"wordings agree": mean_agreement[:, 1:], "accuracy, mean": accuracy[:, 1:]}
figure = plots.curves(alphas[1:], lines, xlabel="strength α", ylabel="share of pictures (%)")
axis = figure.axes[0]
axis.set_xscale("log")
axis.set_xticks(ticks, ticks)
axis.minorticks_off()
figure

# %% [markdown]
# Agreement rises with accuracy, and then, where accuracy turns, hardly falls: its top is flat, and where on the flat the
# maximum lies is up to chance. `clap.choose_alpha` takes the *middle* of all strengths that fall short of the maximum by
# no more than one standard error: the rule of the last chapter, and ours. A related remedy, from choosing the size of a
# decision tree, is the *one-standard-error rule* {cite:p}`breiman1984cart`: the *smallest* of them. We report all three.


# %%
def on_the_flat(shares, candidates):
    """The maximum, the middle and the smallest of the strengths that agree about as well."""
    top = int(shares.mean(1).argmax())
    short = shares[top] - shares
    good = (short.mean(1) <= short.std(1) / shares.shape[1] ** 0.5 + 1e-9).nonzero()[:, 0]
    return [candidates[int(k)] for k in (top, good[len(good) // 2], good[0])]


# %%
def released_search(accuracy, rounds=6):
    """Grid, then bisection, on the accuracy of PC as a function of alpha."""
    grid = [10.0**p for p in (-1.5, -1, -0.5, 0, 1, 1.5, 2)]
    tried = {alpha: accuracy(alpha) for alpha in grid}
    k = grid.index(max(grid, key=tried.get))
    left, right = grid[max(k - 1, 0)], grid[min(k + 1, len(grid) - 1)]
    for _ in range(rounds):
        for alpha in (left, right):
            tried[alpha] = tried[alpha] if alpha in tried else accuracy(alpha)
        middle = (left + right) / 2
        left, right = (middle, right) if tried[left] < tried[right] else (left, middle)
    return max(tried, key=tried.get), len(tried)


def pc_accuracy(head, rows):
    pc = {"C": words["PC"], "CP": words["PC"], "PC": words["PC"], "NC": []}
    at = lambda alpha: answers(head, alpha, found.image[rows], pc)[2]
    return lambda alpha: (at(alpha) == found.label[rows]).double().mean().item()


# %%
names = ("frozen", "maximum", "middle", "smallest", "validation", "test")
rules = {name: [] for name in names}
for head, shares in zip(trained, agreeing):
    rules["frozen"].append(0.0)
    for name, alpha in zip(("maximum", "middle", "smallest"), on_the_flat(shares, alphas)):
        rules[name].append(alpha)
    rules["validation"].append(released_search(pc_accuracy(head, choose))[0])
    alpha, evaluations = released_search(pc_accuracy(head, report))
    rules["test"].append(alpha)
same_rule = clap.choose_alpha(trained[0], found.image[choose], unlabelled, alphas)
assert same_rule == rules["middle"][0]

# %%
rows, by_rule = {}, {}
for rule, chosen in rules.items():
    at = []
    for head, alpha in zip(trained, chosen):
        hits = answers(head, alpha, found.image[report], words) == found.label[report]
        hits = 100 * hits.double().mean(1)
        at.append([*hits[:3], hits[scored].mean()])
    at = torch.tensor(at)
    by_rule[rule] = at
    rows[rule] = {"labels seen": {"validation": len(choose), "test": len(report)}.get(rule, 0)}
    rows[rule]["α"] = " ".join(f"{alpha:.2f}" for alpha in chosen)
    rows[rule] |= dict(zip(("C", "CP", "PC", "NC"), at.mean(0).tolist()))
    rows[rule]["range"] = (at.max(1).values - at.min(1).values).mean().item()
pd.DataFrame(rows).T.infer_objects().round(1)

# %% tags=["remove-cell"]
alpha_free = rules["middle"]
for head, alpha in zip(trained, alpha_free):
    head.alpha = alpha
gain, gain_smallest = (by_rule[rule] - by_rule["frozen"] for rule in ("middle", "smallest"))
ranges = {rule: at.max(1).values - at.min(1).values for rule, at in by_rule.items()}
rows_ratio = (ranges["middle"] / ranges["frozen"]).mean()
for k, name in enumerate(("c", "cp", "pc", "nc")):
    put(f"gain_{name}", gain[:, k].mean())
put("gain_c_smallest", gain_smallest[:, 0].mean())
put("evaluations", evaluations)
put("range_frozen", rows["frozen"]["range"])
put("range_free", rows["middle"]["range"])
for rule in ("maximum", "middle", "smallest", "test"):
    put(f"alpha_{rule}", np.mean(rules[rule]))
    put(f"{rule}_cost", (by_rule["test"] - by_rule[rule])[:, 2].mean())

# %% [markdown]
# Accuracies in percent on the reported half, means over three heads; "range" is the best prompt set minus the worst.
# Without one label, at the middle of the flat, C gains {glue:text}`robust_gain_c:.1f` points and NC
# {glue:text}`robust_gain_nc:.1f`, and the range falls from {glue:text}`robust_range_frozen:.1f` to
# {glue:text}`robust_range_free:.1f`. How much C gains hangs on where on the flat the middle falls, and that is not the same
# for every head and sample (column α): the weak side of the rule.
#
# The three label-free choices are, on average, {glue:text}`robust_alpha_maximum:.2f` (maximum),
# {glue:text}`robust_alpha_middle:.2f` (middle) and {glue:text}`robust_alpha_smallest:.2f` (smallest); the search on the test
# set takes {glue:text}`robust_alpha_test:.2f`. Measured in PC they cost {glue:text}`robust_maximum_cost:.1f`,
# {glue:text}`robust_middle_cost:.1f` and {glue:text}`robust_smallest_cost:.1f` points against that search, which looked at
# every test label {glue:text}`robust_evaluations:.0f` times. Agreement prefers a stronger head than accuracy does, and
# pays for a narrower range with accuracy.
#
# From here on "the head" is the head at the middle of the flat, the label-free strength of the last chapter. The
# smallest looks better in this table: {glue:text}`robust_gain_c_smallest:.1f` points in C. But this we have seen on test
# labels, and a rule that is changed for that reason is a search on the test set too. Both rules go on to the control
# model at the end, which had no part in the choice.
#
# ### What the search on the test set pretends
#
# The number that such a search reports is the best of many on the same pictures. We search on some pictures, and
# look at the gain over the frozen model there, and then on all others: 300 random splits. *Predict: with
# how many test pictures does the difference disappear?*

# %%
pc = right[:, :, 2].double()  # (heads, alphas, images)
sizes = [size for size in (16, 32, 64, 128, 256, 512, 1024) if size <= n // 2]
reported, honest = torch.zeros(300, len(sizes)), torch.zeros(300, len(sizes))
draw = torch.Generator().manual_seed(seed)
for split in range(300):
    hits, rows_ = pc[split % len(pc)], torch.randperm(n, generator=draw)
    for k, size in enumerate(sizes):
        on_chosen, others = hits[:, rows_[:size]].mean(1), hits[:, rows_[size:]].mean(1)
        pick = on_chosen.argmax()
        reported[split, k] = 100 * (on_chosen[pick] - on_chosen[0])
        honest[split, k] = 100 * (others[pick] - others[0])
pretence = (reported - honest).mean(0)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Gain over the frozen model against the number of pictures searched on: the reported gain starts high and falls, the gain on other pictures starts low and rises; they meet at about a thousand pictures. A dotted line shows the label-free rule."}}
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.2))
blue, orange, green, *_ = plots.PALETTE
for name, values, color, at, up in (
    ("reported: on the pictures searched", reported, blue, 0, (8, 4)),
    ("on other pictures", honest, orange, len(sizes) // 2, (-24, 12)),
):
    values = values.mean(0)
    axis.semilogx(sizes, values, "o-", color=color)
    axis.annotate(name, (sizes[at], values[at]), up, color=color, **note)
free_gain = gain[:, 2].mean().item()
axis.axhline(free_gain, color=green, linestyle=":")
label, end = "no labels at all", (sizes[-1], free_gain)
axis.annotate(label, end, (0, -13), ha="right", color=green, **note)
axis.margins(y=0.15)
axis.set_xlabel("pictures used to choose the strength")
axis.set_ylabel("gain of PC (points)")
axis.set_xticks(sizes, sizes)
axis.minorticks_off()
plt.show()

# %% tags=["remove-cell"]
put("pretence_small", pretence[0])
put("pretence_large", pretence[-1])
put("size_small", sizes[0])
put("size_large", sizes[-1])

# %% [markdown]
# Searched on {glue:text}`robust_size_small:.0f` pictures, the reported gain is
# {glue:text}`robust_pretence_small:.1f` points too high; on {glue:text}`robust_size_large:.0f`, it is
# {glue:text}`robust_pretence_large:.2f`. One number chosen on thousands of test pictures is a small sin in
# accuracy. It is still the wrong experiment: it answers "how good could it be for somebody who has the
# answers", and whoever has labels could train on them. That is the next section. The dotted line is the price of having
# none: the label-free rule gains less than a strength chosen with many labels.
#
# ## A few labelled pictures
#
# A *linear probe* is a linear classifier, trained on features: here on 1 to 32 labelled pictures of each
# object ("shots"), features at length 1. The paper trains one in each domain and scores it there. We do the
# same for photographs, and also score it on the seven other media, which the probe has never seen. (Of a folder of
# pictures every domain has its turn: half of its pictures to learn from, the other half to test.) *Predict:
# where does the head help more, with one shot or with 32? In the same medium, or in others?*

# %%
ladder = (1, 4, 8, 16, 32)
if data.scenes is not None:  # the world draws new photographs to learn from
    most = max(k for k in ladder if k == 1 or 64 * k <= n_images)
    medium = world.MEDIA.index("photograph")
    objects = torch.arange(len(world.OBJECTS)).repeat_interleave(3 * most // 2)
    scenes = world.sample(len(objects), seed=5000 + seed, object=objects, medium=medium)
    pool = model.embed_images(world.render(scenes.to(model.device)))
    trials = [(pool, objects, found.domain == medium, found.domain != medium)]
else:  # a folder, each domain in turn: half of every class to learn from, half to test
    cell = found.domain * len(classes) + found.label
    seen = torch.zeros(n, dtype=torch.bool)
    for k in cell.unique():
        seen[order[cell[order] == k][::2]] = True
    trials = []
    for own in (found.domain == d for d in found.domain.unique()):
        learn = own & seen
        trials.append((found.image[learn], found.label[learn], own & ~seen, ~own))

# %%
rarest = [int(y.bincount(minlength=len(classes)).min()) for _, y, *_ in trials]
trials = [trial for trial, k in zip(trials, rarest) if k > 0 and trial[2].any()]
shots = [k for k in ladder if k <= min([k for k in rarest if k > 0], default=0)]
probing = bool(trials)  # no domain holds two pictures of every class: nothing to do


@torch.no_grad()
def kinds(image):
    """The frozen features, and those of each head."""
    return torch.stack([image] + [head(image) for head in trained])


probe, options = {}, {"shots": shots, "seeds": range(seed, seed + 5)}
for where, k in (("same medium", 0), ("other media", 1)):
    each = []
    for image, y, *tested in trials:
        if (row := tested[k]).any():
            test = kinds(found.image[row]), found.label[row]
            each.append(evaluate.few_shot_probe(kinds(image), y, *test, **options))
    if each:
        probe[where] = 100 * torch.stack(each).mean(0)

# %% [markdown]
# All draws and heads of one number of shots are one stacked problem (`evaluate.few_shot_probe`). The gain is taken draw
# by draw, with the same examples for the frozen feature and for the head. (Draws of many shots share pictures, so
# their intervals are somewhat too narrow.)

# %%
table, extra = {}, {}
if probing:
    for where, accuracy in probe.items():  # (shots, draws, kinds)
        extra[where] = accuracy[:, :, 1:].mean(2) - accuracy[:, :, 0]
        table[where, "frozen"] = accuracy[:, :, 0].mean(1)
        table[where, "head"] = accuracy[:, :, 1:].mean((1, 2))
        error = extra[where].std(1) / extra[where].shape[1] ** 0.5
        table[where, "gain"] = extra[where].mean(1)
        table[where, "± (95%)"] = error * stats.t.ppf(0.975, extra[where].shape[1] - 1)
    table = pd.DataFrame(table, index=pd.Index(shots, name="shots"))
else:
    table = pd.DataFrame()
    print("Probes need a domain with two pictures of every class: skipped.")
table.round(1)

# %% [markdown]
# The published gains, over real CLIP, stand beside ours below (ViT-B/16, mean over the domains of each
# benchmark). Theirs is another protocol in three ways: real pictures and other classes; a classifier
# trained with Adam, stopped by its training loss; and one more, which matters. In the released code the shots are
# copied from the folder that is then scored as a whole, so the pictures that the probe was trained on
# count as test pictures, more of them with more shots. Our test pictures are others.

# %% tags=["hide-input"]
# the result files that the authors released: %, means over the domains of a benchmark
published = clap.published()
benchmarks = list(published.index.get_level_values(0).unique())
clip_rows = published.xs("CLIP", level=1).loc[benchmarks]
clap_rows = published.xs("CLAP", level=1).loc[benchmarks]

# %% tags=["hide-input"] mystnb={"image": {"alt": "Gain of a linear probe with the head over one without, against the number of shots: largest with one shot, small with 32, for our world in the same medium and in others and for four published benchmarks."}}
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.8))
ticks = [1, 4, 8, 16, 32]
axis.axhline(0, color=plots.QUIET, linewidth=1)
ends = []
for name in benchmarks:
    values = (clap_rows - clip_rows).loc[name, [str(k) for k in ticks]]
    axis.plot(ticks, values, "-", color=plots.QUIET, linewidth=1.2)
    down = -9 if name == "DomainNet" else -2
    axis.annotate(name, (1, values.iloc[0]), (-6, down), ha="right", color=plots.QUIET, **note)
if probing:
    for (name, values), color, up in zip(extra.items(), plots.PALETTE, (14, 3)):
        error = values.std(1, correction=1)
        axis.errorbar(shots, values.mean(1), error, color=color, marker="o", capsize=3)
        at = (shots[-1:] + shots[1:2])[-1], values.mean(1)[:2][-1]
        axis.annotate(f"ours, {name}", at, (14, up), color=color, **note)
axis.set_xscale("log")
axis.set(xlim=(0.55, 36), xlabel="labelled pictures per class", ylabel="gain (points)")
axis.set_xticks(ticks, ticks)
axis.minorticks_off()
plt.show()

# %% tags=["remove-cell"]
for where, key in (("same medium", "same"), ("other media", "other")):
    for k, few in ((0, "1"), (-1, "n")):
        word = f"{extra[where][k].mean():.1f}" if where in probe else "(not measured)"
        put(f"shot_{few}_{key}", word)
put("shots_most", shots[-1] if shots else 0)

# %% [markdown]
# With one shot the head is worth {glue:text}`robust_shot_1_same` points in the same medium and
# {glue:text}`robust_shot_1_other` in others; with {glue:text}`robust_shots_most:.0f` it is
# {glue:text}`robust_shot_n_same` and {glue:text}`robust_shot_n_other`. One example cannot say which of its
# properties is the one that counts: its colour, its size, its shape. A feature with less style in it leaves fewer to
# choose from. Many examples say it themselves. In other media the gain is of about the same size.
#
# ## An attacker
#
# Style is what nature changes. An attacker changes whatever does most harm. He may move every pixel
# value by at most $\epsilon$, sees the whole model, head included ("white box"), and looks for
#
# $$
# \max_{\lVert\delta\rVert_\infty \le \epsilon} \; L\big(x + \delta,\, y\big),
# \qquad 0 \le x + \delta \le 1 .
# $$ (eq-attack)
#
# - **FGSM** {cite:p}`goodfellow2015explaining`: one step, $\delta = \epsilon\,\mathrm{sign}\,\nabla_x L$, with
#   $L$ the cross-entropy.
# - **PGD-20** {cite:p}`madry2018towards`: from a random point in the budget, 20 steps of $\epsilon / 10$, each
#   brought back into it.
# - **CW-20** {cite:p}`carlini2017towards`: the same steps, with $L$ the best wrong logit minus the right one.
#
# What is attacked is a function from pixels to logits. We write it so that everything in it has a gradient: the
# normalisation, the tower, the head.

# %%
*to_pixels, normalise = model.preprocess.transforms
towards = torch.randperm(n, generator=torch.Generator().manual_seed(100 + seed))
picked = towards[: min(n_attacked, n)]


def as_pixels(index):
    image = data.image(int(index))
    for step in to_pixels:
        image = step(image)
    return image


pixels = torch.stack([as_pixels(i) for i in picked]).clamp(0, 1)
label = found.label[picked]
tower = model.model
dtype = next(tower.visual.parameters()).dtype


# %%
def classifier(group, scale=model.scale):
    """Pixels -> logits of the class names; the heads of the group take turns."""
    with torch.no_grad():
        texts = [unit(head(words["C"])) for head in group]

    def logits(x, row=None):
        row = torch.arange(len(x)) if row is None else row  # which pictures
        x = normalise(x).to(model.device, dtype)
        x = x.contiguous(memory_format=torch.channels_last)  # only for speed
        z = tower.encode_image(x).float().cpu()
        each = [scale * unit(head(z)) @ text.T for head, text in zip(group, texts)]
        return torch.stack(each)[row % len(group), torch.arange(len(x))]

    return logits


def survives(logits, x):
    """Which images are still classified as what they are."""
    with torch.no_grad():
        return logits(x).argmax(1) == label[: len(x)]


groups = {"frozen": [torch.nn.Identity()], "head": trained}
models = {name: classifier(group) for name, group in groups.items()}

# %% [markdown]
# An attack is made against one head. We have three, and many steps would be needed to attack each picture three times. So
# the heads take turns: the first picture meets the first head, the second the second, and so on. The interval over
# pictures then holds the differences between heads too.
#
# The budget that is usual for photographs is 8/255. *Predict: at which budget is half of the accuracy gone? Does the
# head, which takes style out, also help here?*
#
# The gradient of FGSM is taken at the clean picture, so its direction is the same for all budgets: we compute it
# once. A picture survives if its answer is right before and after.

# %%
budgets = [0, 0.25, 0.5, 1, 2, 8]  # in units of 1/255
left = {}  # (budgets, images)
for name, logits in models.items():
    direction = (attacks.fgsm(logits, pixels, label, 1.0) - pixels).sign()
    steps_ = [(pixels + b / 255 * direction).clamp(0, 1) for b in budgets]
    left[name] = torch.stack([survives(logits, x) for x in steps_])
    left[name] = left[name] & left[name][0]  # right before and after
some = slice(max(3, len(pixels) // 4))
again = attacks.fgsm(models["head"], pixels[some], label[some], 0.5 / 255)
again = survives(models["head"], again)
again &= left["head"][0][some]
assert (again == left["head"][2][some]).double().mean() > 0.95  # the same attack


def interval(values):
    """Mean and half of its 95% interval, in percent or points."""
    values = 100 * values.double()
    return values.mean().item(), 1.96 * values.std().item() / len(values) ** 0.5


# %% tags=["hide-input"] mystnb={"image": {"alt": "Two lines of accuracy under FGSM over the budget, frozen and with the head, both falling steeply, with bands that overlap throughout; bands show the 95 percent interval over images."}}
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.2))
place = range(len(budgets))
for (name, hits), color, up in zip(left.items(), plots.PALETTE, (-22, 18)):
    mean, wide = np.array([interval(row) for row in hits]).T
    axis.plot(place, mean, "o-", color=color)
    axis.fill_between(place, mean - wide, mean + wide, color=color, alpha=0.15, linewidth=0)
    axis.annotate(name, (0, mean[0]), (4, up), color=color, **note)
axis.axhline(100 / len(classes), color=plots.QUIET, linestyle=":")
axis.annotate("chance", (0, 100 / len(classes)), (0, 3), color=plots.QUIET, **note)
axis.set_xticks(place, budgets)
axis.set(xlabel="budget ε (1/255)", ylabel="accuracy under FGSM (%)", ylim=(0, 100))
axis.set_title(f"{len(pixels)} pictures, 95% interval", fontsize=9, fontweight="normal")
plt.show()

# %% [markdown]
# Stronger attacks need a small budget to leave anything to compare. Both get half of 1/255, on the same pictures, and the
# difference is taken picture by picture. "Beyond clean" is the difference under attack minus the one on clean pictures,
# also picture by picture: above 0 it would be robustness that the head adds.

# %%
half = 0.5 / 255
under = {"none": {}, "FGSM": {}, "PGD-20": {}, "CW-20": {}}
crafted = {}
for name, logits in models.items():
    under["none"][name], under["FGSM"][name] = left[name][0], left[name][2]
    for attack, method in (("PGD-20", attacks.pgd), ("CW-20", attacks.cw)):
        draw = torch.Generator().manual_seed(seed)
        x, row = pixels.clone(), left[name][0].nonzero()[:, 0]  # the wrong ones are lost
        on = functools.partial(logits, row=row)
        if len(row):
            x[row] = method(on, pixels[row], label[row], half, generator=draw)
        crafted[attack, name] = x
        under[attack][name] = survives(logits, x) & left[name][0]

# %%
change_of = lambda hits: hits["head"].double() - hits["frozen"].double()
rows, on_clean = {}, change_of(under["none"])
for attack, hits in under.items():
    rows[attack] = {f"{name} (%)": interval(h)[0] for name, h in hits.items()}
    rows[attack]["difference"], rows[attack]["± (95%)"] = interval(change_of(hits))
    rows[attack]["beyond clean"], rows[attack]["±"] = interval(change_of(hits) - on_clean)
under_attack = pd.DataFrame(rows).T
print(f"{len(pixels)} pictures, {len(trained)} heads in turn, budget 0.5/255")
under_attack.round(1)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three pictures in three versions: as they are, the attack's change made visible as coloured grain, and the attacked picture, which looks the same as the first."}}
fooled = left["frozen"][0] & ~under["PGD-20"]["frozen"]
few = fooled.nonzero()[:3, 0] if fooled.any() else torch.arange(len(fooled))[:3]
x = crafted["PGD-20", "frozen"][few]
change = (x - pixels[few]) / (2 * half) + 0.5
called = [classes[k] for k in models["frozen"](x).argmax(1)]
true = [classes[k] for k in label[few]]
titles = [*true, *["the change, × 255"] * len(few), *[f"now {k}" for k in called]]
plots.image_grid(torch.cat([pixels[few], change.clamp(0, 1), x]), titles, columns=len(few))

# %% tags=["remove-cell"]
fgsm = {name: 100 * hits.double().mean(1) for name, hits in left.items()}
paired = left["head"].double() - left["frozen"].double()
put("pictures", len(pixels))
for k, key in ((0, "clean"), (2, "half"), (3, "one"), (5, "eight")):
    put(f"fgsm_{key}_frozen", fgsm["frozen"][k])
    put(f"fgsm_{key}_gain", interval(paired[k])[0])
    put(f"fgsm_{key}_half", interval(paired[k])[1])
for attack, key in (("PGD-20", "pgd"), ("CW-20", "cw")):
    put(f"{key}_gain", rows[attack]["difference"])
    put(f"{key}_half", rows[attack]["± (95%)"])

# %% [markdown]
# The change cannot be seen. FGSM takes the frozen model from {glue:text}`robust_fgsm_clean_frozen:.0f`% to
# {glue:text}`robust_fgsm_half_frozen:.0f`% with half of 1/255, and to
# {glue:text}`robust_fgsm_eight_frozen:.0f`% with 8/255. The difference that the head makes is, in points, with 95%
# intervals over {glue:text}`robust_pictures:.0f` pictures, the same in every row:
#
# | attack | budget | head minus frozen |
# |---|---|---|
# | none | 0 | {glue:text}`robust_fgsm_clean_gain:.1f` ± {glue:text}`robust_fgsm_clean_half:.1f` |
# | FGSM | 0.5/255 | {glue:text}`robust_fgsm_half_gain:.1f` ± {glue:text}`robust_fgsm_half_half:.1f` |
# | FGSM | 1/255 | {glue:text}`robust_fgsm_one_gain:.1f` ± {glue:text}`robust_fgsm_one_half:.1f` |
# | FGSM | 8/255 | {glue:text}`robust_fgsm_eight_gain:.1f` ± {glue:text}`robust_fgsm_eight_half:.1f` |
# | PGD-20 | 0.5/255 | {glue:text}`robust_pgd_gain:.1f` ± {glue:text}`robust_pgd_half:.1f` |
# | CW-20 | 0.5/255 | {glue:text}`robust_cw_gain:.1f` ± {glue:text}`robust_cw_half:.1f` |
#
# No attack leaves the head a larger lead than it has on clean pictures (within the intervals), and with 8/255 both
# models are at the floor. The intervals are wide: a lead of a few points could hide in them, on clean pictures as under
# attack. A defence that deserves the name would not. The tower in front of the head, through which every gradient passes, is
# as steep as before.
#
# ### What the released attack measures instead
#
# The released code attacks too, with $\epsilon = 0.031$, about 8/255, and reports that most of the accuracy
# survives FGSM. Four things differ.
#
# 1. It adds $\epsilon$ to pictures that are *already normalised*, $v = (x - m) / s$ with the mean $m$ and
#    standard deviation $s$ of the training pictures, and clamps the result to $0 \le v \le 1$. In pixels the
#    budget shrinks to $\epsilon s$, and the clamp cuts every pixel to $[m, m + s]$: all that is darker than
#    the average becomes the average.
# 2. Its loss takes bare cosines as logits, without the learned scale. Cosines differ by tenths, so the softmax is nearly
#    flat, and the gradient pushes away from the right class towards all others at once.
# 3. CP, PC and NC are scored on pictures that were attacked through C.
# 4. At $\epsilon = 0$ it is not the clean picture that would be scored.
#
# *Predict how much of the damage is the attack's, and how much the clamp's.*


# %%
part = slice(max(4, 2 * len(pixels) // 3))  # of the pictures


def released_fgsm(name, epsilon, m, s):
    """One step in normalised values, clamped to [0, 1]; returns pixels."""
    m, s = (torch.tensor(z)[:, None, None] for z in (m, s))
    bare = classifier(groups[name], scale=1.0)  # cosines as logits
    v = ((pixels[part] - m) / s).requires_grad_()
    loss = torch.nn.functional.cross_entropy(bare(v * s + m), label[part], reduction="sum")
    (gradient,) = torch.autograd.grad(loss, v)
    v = (v.detach() + epsilon * gradient.sign()).clamp(0, 1)
    return v * s + m


from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

own_numbers = tuple(normalise.mean), tuple(normalise.std)
clip_numbers = OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

# %%
rows, cut = {"clean": {k: interval(left[k][0][part])[0] for k in models}}, {}
for whose, numbers in (("this model's m, s", own_numbers), ("CLIP's m, s", clip_numbers)):
    for what, epsilon in (("clamped only", 0.0), ("clamped, ε = 0.031", 0.031)):
        hits = {}
        for name, logits in models.items():
            cut[whose, what] = released_fgsm(name, epsilon, *numbers)
            hits[name] = interval(survives(logits, cut[whose, what]))[0]
        rows[f"{what}; {whose}"] = hits
bare = {}
for name, group in groups.items():
    x = attacks.fgsm(classifier(group, scale=1.0), pixels[part], label[part], 1 / 255)
    bare[name] = interval(survives(models[name], x))[0]
rows["in pixels, ε = 1/255, bare cosines"] = bare
rows["in pixels, ε = 1/255, scaled"] = {k: interval(left[k][3][part])[0] for k in models}
released = pd.DataFrame(rows).T
print(f"accuracy (%) on {len(pixels[part])} of the pictures")
released.round(1)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three pictures as they are, then clamped with this model's mean and standard deviation, then with CLIP's: the clamped ones are pale grey, with the dark parts gone."}}
blocks = [pixels[:3]] + [cut[whose, "clamped only"][:3] for whose in ("this model's m, s", "CLIP's m, s")]
titles = ["as it is"] * 3 + ["clamped, this model's m, s"] * 3 + ["clamped, CLIP's m, s"] * 3
plots.image_grid(torch.cat(blocks), titles, columns=3)

# %% tags=["remove-cell"]
for whose, key in (("this model's m, s", "own"), ("CLIP's m, s", "clip")):
    put(f"clamp_{key}", released.loc[f"clamped only; {whose}", "frozen"])
    put(f"clamp_{key}_attack", released.loc[f"clamped, ε = 0.031; {whose}", "frozen"])
put("bare", bare["frozen"])
put("scaled", released.iloc[-1]["frozen"])
put("clip_budget", 0.031 * np.mean(clip_numbers[1]) * 255)

# %% [markdown]
# With this model's own normalisation the clamp alone leaves {glue:text}`robust_clamp_own:.1f`%, near chance, before any attack. With the
# numbers of CLIP, whose range is wider, it leaves {glue:text}`robust_clamp_clip:.1f`%, and the attack that
# follows, a budget of {glue:text}`robust_clip_budget:.1f`/255 in pixels, brings it to
# {glue:text}`robust_clamp_clip_attack:.1f`%. Bare cosines make a weaker attack: {glue:text}`robust_bare:.1f`% survive
# where the scaled loss leaves {glue:text}`robust_scaled:.1f`%. What such a column measures is how a model
# takes pale pictures with a little noise. That is a kind of robustness, to a loss of contrast, but not to an attacker,
# and it cannot be set beside numbers at 8/255 from elsewhere.
#
# ## What matters, and what does not
#
# Which parts of the recipe earn their place? We change one at a time: the temperature of the first loss term, the
# width of the head, what the augmentation may edit, the second loss term, the number of noise tokens, the number of
# prompts per class. One of the edits knows nothing of style: it leaves out any word of a prompt, and lets two change places,
# as one augments sentences in general. All heads but those of another width train side by side in one stack, three seeds
# each; they are smaller than above (width 64, a quarter of the prompts, and fewer steps), so compare them with their own
# baseline. *Predict which of the six matters least.*

# %%
n_few = max(6, n_prompts // 12 * 3)  # a third of them for each place of the noise


def shaken(name, draw):
    """Any words of a prompt left out, the class's own too; two change places."""
    changed = []
    for text in prompts.views(name, n_prompts, seed=seed)[0][:n_few]:
        kept = [word for word in text.split() if draw.random() > 0.3] or [name]
        i, j = draw.randrange(len(kept)), draw.randrange(len(kept))
        kept[i], kept[j] = kept[j], kept[i]
        changed.append(" ".join(kept))
    return changed


# %%
turn = torch.cat([torch.arange(k, n_few, 3) for k in range(3)])
plain = views.prompt[:, turn]


def reworded(augmentations, n_tokens):
    """The same prompts, edited in another way; a third of the noise in each place."""
    options = {"augmentations": augmentations, "seed": seed}
    if augmentations == "any word":
        shaker = random.Random(seed)
        texts = [shaken(name, shaker) for name in classes]
    else:
        edited = [prompts.views(name, n_prompts, **options)[1] for name in classes]
        texts = [rows_[:n_few] for rows_ in edited]
    draw, parts = torch.Generator().manual_seed(seed), []
    for k, place in enumerate(clap.POSITIONS):
        flat = [text for row in texts for text in row[k::3]]
        noised = model.embed_noised_texts(flat, n_tokens, 0.02, place, draw)
        parts.append(noised.view(len(classes), -1, model.dim))
    return clap.Views(plain, torch.cat(parts, 1), views.content)


base = reworded(style, 8)
first = lambda k: clap.Views(base.prompt[:, :k], base.augmented[:, :k], base.content)

# %%
size_color = {"size": 0.8, "color": 0.8}
medium_style = {"type": 0.8, "style": 0.8}
same = clap.Views(plain, plain, base.content)  # both views the same prompt
settings = {"baseline": (base, 0.3, 1.0)}  # views, temperature, weight
settings |= {f"temperature {t}": (base, t, 1.0) for t in (0.1, 0.5, 0.7, 0.9)}
edits = {
    "edits: none, 8 tokens": {},
    "edits: word order": {"swap": 0.5},
    "edits: medium, finish": medium_style,
    "edits: size, colour": size_color,
    "edits: any word, any order": "any word",
}
settings |= {name: (reworded(edit, 8), 0.3, 1.0) for name, edit in edits.items()}
settings |= {f"noise: {k} tokens": (reworded(style, k), 0.3, 1.0) for k in (0, 4)}
settings |= {f"prompts: {k}": (first(k), 0.3, 1.0) for k in (2, 6, 12)}
settings |= {
    "edits: none, no noise": (same, 0.3, 1.0),
    "second term: none": (base, 0.3, 0.0),
    "second term: none; no edits": (same, 0.3, 0.0),
}


# %%
def fresh_head(hidden, s):
    torch.manual_seed(s)
    return heads.DisentangledNetwork(model.dim, hidden)


def train_many(settings, hidden=64, steps=120):
    """Heads for all settings and seeds, side by side."""
    jobs = [(*setting, s) for setting in settings for s in seeds]
    networks = [fresh_head(hidden, s) for *_, s in jobs]
    draws = [torch.Generator().manual_seed(s) for *_, s in jobs]
    temperature, weight = torch.tensor([job[1:3] for job in jobs]).T
    content, row = torch.stack([v.content for v, *_ in jobs]), torch.arange(len(classes))

    def loss(apply, step):
        pairs = []
        for (v, *_), g in zip(jobs, draws):
            pick = torch.randint(v.prompt.shape[1], (len(row),), generator=g)
            pairs.append((v.prompt[row, pick], v.augmented[row, pick]))
        one, two = (torch.stack(side) for side in zip(*pairs))
        parts = apply(one), apply(two), apply(content)
        return losses.clap_loss(*parts, temperature, weight=weight)

    training.fit(networks, loss, steps, learning_rate=2e-3)
    return [networks[k : k + len(seeds)] for k in range(0, len(networks), len(seeds))]


# %%
quick = max(1, min(120, steps))
ablated = dict(zip(settings, train_many(settings.values(), steps=quick)))
for width in (16, 256, 512):
    (ablated[f"width {width}"],) = train_many([settings["baseline"]], width, quick)

# %% [markdown]
# Each head gets its own strength, without labels. As a control on that rule we also look at the best strength in
# hindsight: where the two are far apart, it is the rule that fails, not the head.

# %%
fast = choose[:512], report[:1024]
candidates = [0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.9, 1.3]
two_draws = words | {"NC": words["NC"][-2:]}


def gains(head):
    """Points over frozen, C and NC: label-free strength, then best in hindsight."""
    image, truth = found.image[fast[1]], found.label[fast[1]]
    curve = {}
    for alpha in (0.0, *candidates):
        hits = 100 * (answers(head, alpha, image, two_draws) == truth).double().mean(1)
        curve[alpha] = torch.stack([hits[0], hits[3:].mean()])
    shares = agreement_at(head, found.image[fast[0]], unlabelled[:7], candidates)
    free = on_the_flat(shares, candidates)[1]
    best = max(candidates, key=lambda alpha: curve[alpha][0])
    return torch.cat([curve[free] - curve[0.0], curve[best] - curve[0.0]])


ablation = {name: torch.stack([gains(h) for h in group]) for name, group in ablated.items()}

# %% tags=["hide-input"] mystnb={"image": {"alt": "Dots for each setting: gain of C and of NC in points at the strength chosen without labels, filled, and at the best strength, open. In hindsight nearly all settings gain several points in C; the two with next to no gain leave out any word, or have neither edits nor a second term."}}
kinds_of = ["baseline", "temperature", "width", "edits", "second term", "noise", "prompts"]
listed = [k for g in kinds_of for k in ablation if k.startswith(g)]
figure, axis = plt.subplots(figsize=(plots.WIDTH, 6.2))
for y, name in enumerate(listed):
    mean, sd = ablation[name].mean(0), ablation[name].std(0)
    for k, color in ((0, blue), (1, orange)):
        axis.errorbar(mean[k], y, xerr=sd[k], fmt="o", color=color, capsize=2)
        axis.plot(mean[k + 2], y, "o", mfc="none", color=color, markersize=9)
axis.axvline(0, color=plots.QUIET, linewidth=1)
for k, name, color in ((0, "C", blue), (1, "NC", orange)):
    at = (ablation["baseline"].mean(0)[k], 0)
    axis.annotate(name, at, (0, 9), ha="center", color=color, **note)
axis.set_yticks(range(len(listed)), listed)
axis.set_ylim(len(listed) - 0.5, -1.2)
axis.set_xlabel("gain over the frozen model (points)")
about = "filled: strength chosen without labels, ± sd of 3 heads; open: best for C in hindsight"
axis.set_title(about, fontsize=9, fontweight="normal")
plt.show()

# %% tags=["remove-cell"]
hindsight = {name: values[:, 2].mean().item() for name, values in ablation.items()}
noisy_gain = {name: values[:, 3].mean().item() for name, values in ablation.items()}


def among(start):
    values = [v for name, v in hindsight.items() if name.startswith((start, "baseline"))]
    return max(values) - min(values)


# %% tags=["remove-cell"]
noiseless, blind = "edits: none, no noise", "edits: any word, any order"
neither = "second term: none; no edits"
put("base_c", hindsight["baseline"])
put("base_nc", noisy_gain["baseline"])
for start in ("temperature", "width", "prompts", "edits"):
    put(f"span_{start}", among(start))
put("none_c", hindsight[noiseless])
put("none_nc", noisy_gain[noiseless])
put("no_noise_c", hindsight["noise: 0 tokens"])
put("no_noise_nc", noisy_gain["noise: 0 tokens"])
put("no_second_c", hindsight["second term: none"])
put("neither_c", hindsight[neither])
put("blind_c", hindsight[blind])
put("two_prompts_c", hindsight["prompts: 2"])

# %% tags=["remove-cell"]
rule_cost = {name: (v[:, 2] - v[:, 0]).mean().item() for name, v in ablation.items()}
put("rule_cost", np.mean([*rule_cost.values()]))
put("rule_worst", max(rule_cost.values()))
put("rule_worst_name", max(rule_cost, key=rule_cost.get))

# %% [markdown]
# First in hindsight, at the best strength. The baseline gains {glue:text}`robust_base_c:.1f` points in C and
# {glue:text}`robust_base_nc:.1f` in NC. All five temperatures lie within {glue:text}`robust_span_temperature:.1f` points of
# C, the widths within {glue:text}`robust_span_width:.1f`, the numbers of prompts within
# {glue:text}`robust_span_prompts:.1f` (with two per class C gains {glue:text}`robust_two_prompts_c:.1f`). The edits span
# {glue:text}`robust_span_edits:.1f`. With three heads for each setting, a difference of a point is within chance.
#
# **Noise** is a small part of what makes NC better. Heads that never saw a noise token gain
# {glue:text}`robust_no_noise_nc:.1f` points in NC, most of the baseline's {glue:text}`robust_base_nc:.1f`, and
# {glue:text}`robust_no_noise_c:.1f` in C.
#
# **Edits** hold a surprise. With *none*, and no noise, when both views are the same prompt full of style, C still gains
# {glue:text}`robust_none_c:.1f` points and NC {glue:text}`robust_none_nc:.1f`. Is it then the second term of the loss,
# which pulls each styled prompt to the bare class name? Without that term, edits and noise alone gain
# {glue:text}`robust_no_second_c:.1f` in C. Without both it is {glue:text}`robust_neither_c:.1f`. So either of the two
# is enough to take style out, and together they bring about what one of them brings. But an edit has to know what style
# is: with any word left out, the class's own among them, C gains {glue:text}`robust_blind_c:.1f`.
#
# By the label-free rule (filled) the settings differ less clearly, and gain less: it costs
# {glue:text}`robust_rule_cost:.1f` points of C on average over the settings, and up to {glue:text}`robust_rule_worst:.1f`
# ("{glue:text}`robust_rule_worst_name`"). The flat of the agreement reaches on where accuracy has turned, so its middle
# lies too far out.
#
# ### What the training loss cannot see
#
# The released loop stops when its loss stops falling. We let our three heads go on training, and look at the loss
# and at pictures, with $\alpha = 1$ as in training and at the label-free strength of each head. *Predict: will a lower loss
# mean a higher accuracy?*

# %%
further, looks = [copy.deepcopy(head) for head in trained], []
for head in further:
    head.alpha = 1.0
draws = [torch.Generator().manual_seed(s + 100) for s in seeds]
row = torch.arange(len(classes))
stack = lambda x: x.expand(len(further), *x.shape)
strengths = torch.ones(len(further)), torch.tensor(alpha_free)


def look(apply):
    """Accuracy on pictures, C, (strengths, heads): never used for training."""
    image, text = stack(found.image[choose]), stack(words["C"])
    pull, push = apply(image) - image, apply(text) - text
    at = [(image + a * pull, text + a * push) for a in (s[:, None, None] for s in strengths)]
    return [[evaluate.zero_shot(x, t, found.label[choose]) for x, t in zip(*pair)] for pair in at]


# %%
def loss(apply, step):
    if step % 50 == 0:
        with torch.no_grad():
            looks.append(look(apply))
    pick = torch.stack([torch.randint(n_prompts, row.shape, generator=g) for g in draws])
    batch = apply(views.prompt[row, pick]), apply(views.augmented[row, pick])
    return losses.clap_loss(*batch, apply(stack(views.content)), 0.3)


longer = {"learning_rate": recipe["learning_rate"]}
going_on = training.fit(further, loss, max(101, 2 * steps + 1), **longer)
looks = 100 * np.array(looks)  # (looks, strengths, heads)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Left: the training loss falls steadily. Right: over the same steps the accuracy on pictures falls as well, at strength one and at the label-free strength, which stays higher."}}
figure, axes = plt.subplots(1, 2, figsize=(plots.WIDTH, 2.9))
at = steps + 50 * np.arange(len(looks))
blocks = going_on[: len(going_on) // 50 * 50].unflatten(0, (-1, 50)).mean(1).numpy()
shown_lines = [(axes[0], steps + 25 + 50 * np.arange(len(blocks)), blocks, blue, "")]
shown_lines += [(axes[1], at, looks[:, 0], orange, "α = 1"), (axes[1], at, looks[:, 1], green, "label-free α")]
for axis, x, values, color, name in shown_lines:
    axis.plot(x, values, color=color, linewidth=0.9, linestyle="-", alpha=0.6)
    axis.plot(x, values.mean(1), color=color, linestyle="-", linewidth=2.5)
    axis.annotate(name, (x[-1], values.mean(1)[-1]), (0, 14), ha="right", color=color, **note)
    axis.set_xlabel("training steps")
axes[1].axhline(curves["C"][:, 0].mean(), color=plots.QUIET, linestyle=":")
axes[1].annotate("frozen", (steps, curves["C"][:, 0].mean()), (0, 3), color=plots.QUIET, **note)
axes[0].set_title("training loss (nats)", fontsize=10)
axes[1].set_title("accuracy on pictures, C (%)", fontsize=10)
plt.show()

# %% tags=["remove-cell"]
loss_change = float((blocks[-1] - blocks[0]).mean())
look_change, look_free_change = (looks[-1] - looks[0]).mean(1)
put("loss_change", loss_change)
put("look_change", look_change)
put("look_free_change", look_free_change)

# %% [markdown]
# Three times as many steps change the loss by {glue:text}`robust_loss_change:.2f` nats, and the accuracy on pictures by
# {glue:text}`robust_look_change:.1f` points at $\alpha = 1$ and by {glue:text}`robust_look_free_change:.1f` at the label-free
# strength. Loss and early stopping know sentences only, and to them more training is better training. We chose our number
# of steps on other pictures, with labels: the method has no rule of its own for it.
#
# ## No correlation, no gain
#
# If the head takes out style that had become entangled with content, it should have nothing to do in a model that was
# trained without that correlation. We have one: `glyph-fair` saw the same world with correlation 0. *Predict its gain
# in C, and in NC.*

# %%
control = backbones.load("glyph-fair", device)
pairs = {name: (m, RECIPES[name].correlation) for name, m in (("glyph", model), ("glyph-fair", control))}
fair_set = data if data.scenes is not None else datasets.load("glyphs", n=n_images)
live = {}  # rule: {model: (heads, C and NC)}
for rule, values in (("middle", gain), ("smallest", gain_smallest)):
    live[rule] = {"glyph": values[:, [0, 3]]} if backbone == "glyph" else {}
if fair_set.classes == classes:
    fair = features.embed(control, datasets.load("glyphs", n=max(8, n_images // 2)))
    fair_heads, _ = clap.train(text_views(control), seeds, **recipe)
    fair_words, moved = wordings(control), []
    asked = [*(fair_words[k] for k in ("C", "CP", "PC")), *fair_words["NC"][:told]]
    for head in fair_heads:
        a, b = fair.image[::2], fair.image[1::2]  # to choose, to report
        tried = (0.0, *on_the_flat(agreement_at(head, a, asked, alphas), alphas)[1:])
        hits = [answers(head, alpha, b, fair_words) == fair.label[1::2] for alpha in tried]
        hits = torch.stack([100 * h.double().mean(1) for h in hits])
        hits = torch.stack([hits[:, 0], hits[:, scored].mean(1)], 1)
        moved.append(hits[1:] - hits[:1])
    for rule, values in zip(live, torch.stack(moved, 1)):
        live[rule]["glyph-fair"] = values

# %%
rows = {(m, r): v.mean(0).tolist() for r, by in live.items() for m, v in by.items()}
both_rules = pd.DataFrame(rows, index=["C", "NC"]).T.sort_index()
both_rules.index.names = ["model", "strength on the flat"]
both_rules.round(1)

# %% [markdown]
# Other strengths of correlation need other pretraining. Their results are recorded runs of {ref}`augmented-prompts`; a
# point here is a run with three of that chapter's heads, which are wider and have a pool of prompts each, on other and more
# pictures; so open and filled points differ. A recorded run is as old as its date, and that chapter may have changed since.

# %%
recorded, sets = [], ["C", "CP", "PC", "NC"]
keys = {f"{m}_{k}" for m in ("clip", "clap") for k in sets} | {"range_clip", "range_clap"}
for entry in runs.results("content_style/03_augmenting_prompts"):
    name = str(entry["parameters"].get("backbone", "")).rsplit("/", 1)[-1]
    m = entry["metrics"]
    if name in RECIPES and keys <= set(m):
        point = {"correlation": RECIPES[name].correlation, "date": entry["date"][:10]}
        point |= {"frozen C": 100 * m["clip_C"], "frozen range": 100 * m["range_clip"]}
        point |= {k: 100 * (m[f"clap_{k}"] - m[f"clip_{k}"]) for k in sets}
        recorded.append(point | {"range": 100 * (m["range_clap"] - m["range_clip"])})
strengths = {p["correlation"] for p in recorded}
strengths |= {RECIPES[k].correlation for k in live["middle"]}
if len(strengths) < 4:
    found_at = ", ".join(map(str, sorted(strengths)))
    print(f"Results for correlation {found_at}; `make sweep` completes the others.")
on_record = pd.DataFrame()
if recorded:
    on_record = pd.DataFrame(recorded).drop(columns="date").groupby("correlation").mean()
on_record.round(1)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Gain of C and NC against the correlation in pretraining: near zero or below for C at 0 and 0.5, several points at 0.75, most at 0.9; NC gains at every correlation on record. Filled dots from this run, open circles from recorded runs."}}
figure, axis = plt.subplots(figsize=(plots.WIDTH, 3.3))
for k, (name, color) in enumerate((("C", blue), ("NC", orange))):
    for model_name, values in live["middle"].items():
        x = RECIPES[model_name].correlation + (0.006 if k else -0.006)
        mean, sd = values[:, k].mean(), values[:, k].std()
        axis.errorbar(x, mean, yerr=sd, fmt="o", color=color, capsize=3)
        where = (8, -3) if k else (8, -14)
        axis.annotate(f"{name} {mean:+.1f}", (x, mean), where, color=color, **note)
    x = [p["correlation"] for p in recorded]
    axis.plot(x, [p[name] for p in recorded], "o", mfc="none", color=color, markersize=8)
axis.axhline(0, color=plots.QUIET, linewidth=1)
axis.set(xlim=(-0.06, 1), xlabel="correlation of content and style in pretraining", ylabel="gain (points)")
axis.margins(y=0.12)
dates = " and ".join(sorted({p["date"] for p in recorded}))
about = f"filled: this run, ± sd of 3 heads; open: recorded runs of {dates}"
axis.set_title(about, fontsize=9, fontweight="normal")
plt.show()

# %% tags=["remove-cell"]
for rule, by in live.items():
    for key in ("glyph", "glyph-fair"):
        for k, name in enumerate(("c", "nc")):
            word = f"{by[key][:, k].mean():.1f}" if key in by else "(not measured)"
            put(f"{key.replace('-', '_')}_{rule}_{name}", word)
for at in (0.5, 0.75, 0.9):
    for column in (*sets, "range", "frozen C", "frozen range"):
        known = at in on_record.index
        word = f"{on_record.loc[at, column]:+.1f}" if known else "(not on record)"
        word = word.lstrip("+") if column.startswith("frozen") else word
        put(f"recorded_{int(100 * at)}_{column.replace(' ', '_')}", word)

# %% [markdown]
# Without correlation C changes by {glue:text}`robust_glyph_fair_middle_c` points, with a correlation of 0.75 by
# {glue:text}`robust_glyph_middle_c` (in the recorded runs {glue:text}`robust_recorded_75_C`). At
# 0.5, where a model of our length of training still learned the objects for themselves, the head costs something: C, CP
# and PC change by {glue:text}`robust_recorded_50_C`, {glue:text}`robust_recorded_50_CP` and
# {glue:text}`robust_recorded_50_PC`. Only NC gains, {glue:text}`robust_recorded_50_NC`. At 0.9 C gains
# {glue:text}`robust_recorded_90_C`, from {glue:text}`robust_recorded_90_frozen_C`%. But there the range of prompt sets does
# not shrink; it changes by {glue:text}`robust_recorded_90_range`. The frozen model was about as bad in every wording, with a
# range of {glue:text}`robust_recorded_90_frozen_range` points, so there was little to close. That is
# the control that a claim of "isolating content" needs, and no benchmark of
# photographs can give it.
#
# NC of the control changes by {glue:text}`robust_glyph_fair_middle_nc`: a text tower is upset by noise tokens whatever it
# was trained on. That our heads were trained with noise cannot be the whole reason: on `glyph` heads without it gained most
# of what the others did.
#
# And the fairer test of the two rules: on the control the smallest strength changes C by
# {glue:text}`robust_glyph_fair_smallest_c` and NC by {glue:text}`robust_glyph_fair_smallest_nc`. From the middle that is too
# little a distance to decide between them, on three heads. A model that had no part in the choice does not speak for
# the smallest, so we stay with the middle.
#
# ## Beside the published numbers
#
# The zero-shot results of the paper, and ours. Theirs are real CLIP (ViT-B/16) and real pictures, 5 to 345 classes, the mean
# over the domains of each benchmark, $\alpha$ searched on test domains. "Im.Aug" is the same head trained on augmented *pictures*
# ({ref}`augmenting-images`). Ours are 32 drawn objects in eight media, three heads, $\alpha$ without labels, and half of the
# pictures held out. Compare signs and sizes of the differences, not levels.

# %%
beside = published[sets].copy()
ours_name = f"{backbone}, ours"
for method, rule in (("CLIP", "frozen"), ("CLAP", "middle")):
    beside.loc[(ours_name, method), sets] = by_rule[rule].mean(0).numpy()
beside["range"] = np.ptp(beside[sets], axis=1)
beside.round(1)

# %% [markdown]
# CLAP gains in C on all four benchmarks. Im.Aug gains on PACS and VLCS, and loses on OfficeHome and DomainNet. Why, these
# tables cannot tell: the benchmarks differ in their media, in the number of classes and in what is left to gain.
# {ref}`augmenting-images` takes some of that apart, with heads on augmented pictures of our world.
#
# And the attack columns, C only, as the authors measured them: on clamped, normalised pictures.

# %%
attacked_columns = ["C", "FGSM", "PGD-20", "CW-20"]
attack_table = published[attacked_columns].copy()
ours = {"CLIP": under_attack["frozen (%)"], "CLAP": under_attack["head (%)"]}
for method, column in ours.items():
    attack_table.loc[(ours_name, method), attacked_columns] = column.to_numpy()
attack_table.round(1)

# %% tags=["remove-cell"]
levels = [interval(h)[1] for hits in under.values() for h in hits.values()]
put("attack_level", max(levels))
put("attack_pair", under_attack["± (95%)"].max())
put("attack_pictures", len(pixels))

# %% [markdown]
# Our rows are in pixel space at half of 1/255, on {glue:text}`robust_attack_pictures:.0f` pictures, with three heads that
# take turns. So their column C is not that of the table above, which has every head on half of all pictures: the error of
# a level (95%) is up to ± {glue:text}`robust_attack_level:.0f` points here, that of a difference up to
# ± {glue:text}`robust_attack_pair:.0f`. In the published rows, too, the head's advantage under FGSM is about as large as its
# advantage on clean pictures, and under PGD-20 and CW-20 the methods are within a few points of each other, far below
# clean.
#
# ## Pitfalls
#
# - **Strength chosen on the test set**: measured above. Small for one number on many pictures; it adds up with every other
#   choice that is made the same way.
# - **Attack on normalised pixels**: the budget is another one, and the clamp destroys the picture before the attack
#   begins. Test an attack at $\epsilon = 0$: it must return the picture. `attacks` refuses pictures outside [0, 1].
# - **Bare cosines as logits**: a flat softmax hides the nearest wrong class from the attacker. A weak attack looks
#   like a robust model.
# - **Early stopping on the loss**: it is blind to pictures.
# - **One draw of the noise**: NC is a random variable (exercise 2).
# - **Shots that are also test pictures**: keep them apart.
#
# ## Check
#
# What this chapter claims, with the least and the most that a claim allows. "Lowest" is over the three heads, or over the draws
# of the shots.

# %%
added = [interval(paired[k] - paired[0]) for k in range(1, len(budgets))]
beyond = max(mean - wide for mean, wide in added)  # above 0: more than chance
hard = under_attack.loc[["PGD-20", "CW-20"]]
claims = {  # measured, at least, at most
    "best strength for C, mean": (alphas[best], 0.1, 0.4),
    "C at α = 1, share of the best gain": (one_gain / (mean_c[best] - mean_c[0]), -2, 0.4),
    "C, label-free strength: gain, lowest": (gain[:, 0].min(), 0.5, 15),
    "the same, mean": (gain[:, 0].mean(), 1.5, 15),
    "NC: gain, lowest": (gain[:, 3].min(), 4, 20),
    "range of prompt sets, after / before": (rows_ratio, 0, 0.7),
    "C at the largest strength, minus frozen": ((curves["C"][:, -1] - curves["C"][:, 0]).max(), -40, 0),
    "pretence of the smallest search": (pretence[0], 1, 30),
    "pretence of the largest": (pretence[-1], -0.5, 1.0),
    "FGSM: most that the head gains over its clean gain": (beyond, -60, 0),
    "middle of the flat minus best strength for C": (np.mean(alpha_free) - alphas[best], 0, 3),
    "largest honest search minus label-free, PC": (honest[:, -1].mean() - free_gain, 0, 10),
    "PGD, CW: the same": ((hard["beyond clean"] - hard["±"]).max(), -60, 0),
    "FGSM at 8/255: head minus frozen": (100 * paired[5].mean(), -6, 6),
    "FGSM at 8/255: accuracy of the head": (fgsm["head"][5], 0, 15),
}

# %%
one = noiseless, "second term: none"
others = [among(start) for start in ("temperature", "width", "prompts")]
claims |= {
    "bare cosines minus scaled, survivors": (bare["frozen"] - released.iloc[-1]["frozen"], 2, 60),
    "lost by the clamp alone": (released.iloc[0]["frozen"] - released.iloc[1]["frozen"], 30, 100),
    "ablation: span of temperatures": (among("temperature"), 0, 2.5),
    "ablation: C with two prompts per class": (hindsight["prompts: 2"], 1, 15),
    "ablation: C without edits": (hindsight[noiseless], 1.5, 15),
    "ablation: C without second term": (hindsight["second term: none"], 1.5, 15),
    "ablation: C without both": (hindsight[neither], -2, 2),
    "both minus the better of one": (hindsight["baseline"] - max(hindsight[k] for k in one), -2, 2),
    "ablation: C, any word left out": (hindsight[blind], -3, 2),
    "ablation: span of widths": (among("width"), 0, 4),
    "span of edits, minus the largest other": (among("edits") - max(others), 0.5, 10),
    "no noise: share of the baseline's gain, NC": (noisy_gain["noise: 0 tokens"] / noisy_gain["baseline"], 0.6, 1.6),
    "no noise minus baseline, C": (hindsight["noise: 0 tokens"] - hindsight["baseline"], -1, 4),
}

# %%
if set(probe) == {"same medium", "other media"} and len(shots) > 1:
    same = extra["same medium"]
    claims["probe, 1 shot: gain, lowest draw"] = (same[0].min(), 4, 40)
    apart = (same[0] - extra["other media"][0]).mean()
    claims["probe, 1 shot: same minus other media"] = (apart, -8, 8)
    claims["probe, 1 shot minus most shots"] = ((same[0] - same[-1]).mean(), 4, 40)
    claims["probe, most shots: gain, other media"] = (extra["other media"][-1].mean(), 0, 10)

# %%
for rule, by in live.items():
    if "glyph-fair" in by:
        fair_gain = by["glyph-fair"][:, 0].mean()
        claims[f"control, {rule}: gain of C, mean"] = (fair_gain, -2.5, 1)
        if "glyph" in by:
            more = by["glyph"][:, 0].mean() - fair_gain
            least = {"smallest": 2, "middle": 0.5}[rule]
            claims[f"glyph minus control, {rule}: gain of C"] = (more, least, 15)
if "glyph-fair" in live["middle"]:
    less = (live["smallest"]["glyph-fair"] - live["middle"]["glyph-fair"]).mean(0)
    claims["control: smallest minus middle, C"] = (less[0], -2, 2)
    claims["control: smallest minus middle, NC"] = (less[1], -2, 2)
if 0.5 in on_record.index and 0.9 in on_record.index:
    claims["recorded at 0.5: C, CP, PC, most"] = (on_record.loc[0.5, sets[:3]].max(), -4, 0)
    claims["recorded at 0.5: NC"] = (on_record.loc[0.5, "NC"], 0, 10)
    claims["recorded at 0.9: C, CP, PC, least"] = (on_record.loc[0.9, sets[:3]].min(), 3, 20)
    claims["recorded at 0.9: range"] = (on_record.loc[0.9, "range"], 0, 3)

# %%
lead = {m: published.xs(m, level=1) - clip_rows for m in ("CLAP", "Im.Aug")}
lost = lead["CLAP"][attacked_columns].sub(lead["CLAP"]["C"], axis=0)
claims |= {
    "published: CLAP, C, least gain": (lead["CLAP"]["C"].min(), 0, 10),
    "Im.Aug, C: PACS and VLCS, least": (lead["Im.Aug"]["C"][benchmarks[:2]].min(), 0, 10),
    "Im.Aug, C: OfficeHome and DomainNet, most": (lead["Im.Aug"]["C"][benchmarks[2:]].max(), -10, 0),
    "published FGSM: lead minus clean lead, largest": (lost["FGSM"].abs().max(), 0, 1),
    "published PGD, CW: largest lead": (lead["CLAP"][["PGD-20", "CW-20"]].abs().max().max(), 0, 3),
}
claims["loss while training on"] = (loss_change, -5, 0)
claims["accuracy at α = 1 while training on"] = (look_change, -20, -1)
claims["accuracy at the label-free α while training on"] = (look_free_change, -10, -0.3)

# %% tags=["check"]
checks = pd.DataFrame(claims, index=["measured", "at least", "at most"]).T.astype(float)
limits = checks["at least"], checks["at most"]
checks["holds"] = checks["measured"].between(*limits)
assert checks["holds"].all() or not shipped, checks[~checks["holds"]]
checks.round(2)

# %% [markdown]
# And on whatever runs: an empty budget changes nothing, a budget is kept, and 20 steps do no less harm, in loss, than one.

# %% tags=["check"]
logits, row = models["frozen"], left["frozen"][0].nonzero()[:48, 0]
y, clean = label[row], pixels[row]
assert torch.equal(attacks.fgsm(logits, pixels[:2], label[:2], 0.0), pixels[:2])
for x in crafted.values():
    assert (x - pixels).abs().max() <= half + 1e-6
    assert x.min() >= 0 and x.max() <= 1
entropy = torch.nn.functional.cross_entropy
with torch.no_grad():
    one = entropy(logits(attacks.fgsm(logits, clean, y, half)), y)
    many = entropy(logits(crafted["PGD-20", "frozen"][row]), y)
print(f"mean loss after FGSM {one:.3f}, after PGD-20 {many:.3f}")
assert many >= one - 0.02 or not shipped

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: a strength for each medium
# Search the strength for each medium separately on its test pictures, as one would with one data set per domain. How
# much larger is the reported mean gain than with one strength for all? Is the extra gain real?

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
one_for_all, each, real = [], [], []
for hits in right[:, :, 2].double():  # (alphas, images), a head each
    common = hits.mean(1).argmax()
    for d in found.domain.unique():
        rows_ = (found.domain == d).nonzero()[:, 0]
        for a, b in ((rows_[::2], rows_[1::2]), (rows_[1::2], rows_[::2])):  # to search, and to see
            pick = hits[:, a].mean(1).argmax()
            each.append(hits[pick, a].mean() - hits[0, a].mean())
            real.append(hits[pick, b].mean() - hits[0, b].mean())
            one_for_all.append(hits[common, a].mean() - hits[0, a].mean())
one_for_all, each, real = (100 * torch.stack(v).mean() for v in (one_for_all, each, real))
print(f"gain of PC, one strength for all: {one_for_all:.1f} points")
print(f"one per medium, as reported: {each:.1f}; on other pictures: {real:.1f}")
assert each > real + 0.1 or not shipped

# %% [markdown]
# :::{dropdown} Why
# Eight choices on an eighth of the pictures each: the reported gain grows, because each is the best of many on few
# pictures. On other pictures of the same media it is smaller. A table with one tuned strength per data set
# contains both.
# :::
#
# ### Exercise 2: how many draws of noise?
# NC is usually reported from one draw. Take 12 draws, and say how far apart two single draws are, for the frozen model
# and with the head, and how many are needed for a standard error below a quarter of a point.

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
draw = torch.Generator().manual_seed(7 + seed)
texts = [model.embed_noised_texts(list(classes), 4, generator=draw) for _ in range(12)]
many = {"C": texts[0], "CP": texts[1], "PC": texts[2], "NC": texts[3:]}
for name, alpha in (("frozen", 0.0), ("head", alpha_free[0])):
    hits = answers(trained[0], alpha, found.image, many) == found.label
    values = 100 * hits.double().mean(1)
    sd = values.std()
    needed = max(1, (sd / 0.25) ** 2)
    print(f"{name}: {values.min():.1f} to {values.max():.1f}, sd {sd:.2f}: {needed:.0f} draws")
trained[0].alpha = alpha_free[0]

# %% [markdown]
# :::{dropdown} Why
# The noise is the same for all pictures, so more pictures do not average it out: only more draws do. (With 12 draws a
# spread is itself known to about a fifth, so the two numbers of draws are rough.)
# :::
#
# ### Exercise 3: an attack that travels
# The released evaluation scores CP and PC on pictures that were attacked through C. Do the same with our PGD pictures:
# how much of the damage reaches the other wordings, and the other model?

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
trips, turn_of = {}, torch.arange(len(pixels)) % len(trained)
for (attack, made_for), x in {("PGD-20", "nobody"): pixels, **crafted}.items():
    if attack == "PGD-20":
        z, every = model.embed_images(x), torch.arange(len(x))
        for victim, at in (("frozen", [0.0] * len(trained)), ("head", alpha_free)):
            each = [answers(h, alpha, z, words) for h, alpha in zip(trained, at)]
            hits = torch.stack(each)[turn_of, :, every] == label[:, None]
            shares = 100 * hits.double().mean(0)
            trips[made_for, victim] = [*shares[:3].tolist(), shares[scored].mean().item()]
for head, alpha in zip(trained, alpha_free):
    head.alpha = alpha
trips = pd.DataFrame(trips, index=sets).T
trips.index.names = ["attack made for", "scored"]
for here, there in (("frozen", "head"), ("head", "frozen")):
    own_damage = trips.loc[("nobody", here), "C"] - trips.loc[(here, here), "C"]
    damage_there = trips.loc[("nobody", there), "C"] - trips.loc[(here, there), "C"]
    assert damage_there < own_damage or not shipped
trips.round(1)

# %% [markdown]
# :::{dropdown} Why
# CP and PC stand close to C in feature space, so a good part of the damage arrives. What does not arrive makes
# "accuracy under attack" of CP, PC and NC look better than that of C, in the published table too: they were not the
# target. Pictures made for one of the two models hurt the other less, although they share the tower: within so small a
# budget an attack fits itself to the model in front of it. (Pictures that this model had wrong were left alone.)
# :::
#
# ## Summary
# - The strength decides whether the head helps. The gain is at a fraction of the strength of training, and most of it is
#   gone at its full value.
# - Agreement between wordings chooses it without labels. Its top is flat and reaches past the best accuracy: the middle
#   keeps a part of the gain in C. The smallest strength looked better on one model's test labels, and about the same on
#   the control. A search on test labels pretends little on many pictures, and much on few.
# - A few labelled pictures profit most from the head: one shot by far more than 32.
# - In pixel space, under equal budgets, we see no robustness that the head adds. The released attack measures pale pictures.
# - At its own best strength the edits matter most; temperature, width and number of prompts by a point or two. Edits of
#   style, or a pull to the bare name: one of the two is needed, and about enough. Blind edits gain next to nothing.
# - Without correlation in pretraining there is nothing to gain in C, and at 0.5 a little is lost. That is the control.
#
# ## Further reading
# - {cite:t}`cai2024clap`, section 5, for all of these experiments on real pictures.
# - {cite:t}`madry2018towards` on what a first-order attack can and cannot show, and {cite:t}`croce2020reliable` on
#   attacks that make weak evaluations visible.
# - {cite:t}`vonkugelgen2021content` prove when augmentations isolate content.
# - {cite:t}`perez2021true`: choosing without a validation set, for prompts of language models.

# %% tags=["remove-cell"]
metrics = {
    "alpha_free": np.mean(alpha_free),
    "alpha_maximum": np.mean(rules["maximum"]),
    "alpha_middle": np.mean(rules["middle"]),
    "alpha_smallest": np.mean(rules["smallest"]),
    "alpha_validation": np.mean(rules["validation"]),
    "alpha_test": np.mean(rules["test"]),
    "gain_C": gain[:, 0].mean() / 100,
    "gain_NC": gain[:, 3].mean() / 100,
    "gain_C_smallest": gain_smallest[:, 0].mean() / 100,
    "gain_NC_smallest": gain_smallest[:, 3].mean() / 100,
    "range_ratio": rows_ratio,
    "range_ratio_best_C": (spread[:, best] / spread[:, 0]).mean(),
    "pretence_small": pretence[0] / 100,
    "pretence_large": pretence[-1] / 100,
}

# %% tags=["remove-cell"]
for k, key in ((0, "clean"), (2, "fgsm"), (5, "fgsm_8")):
    metrics[f"{key}_clip"] = fgsm["frozen"][k] / 100
    metrics[f"{key}_clap"] = fgsm["head"][k] / 100
for attack, key in (("PGD-20", "pgd"), ("CW-20", "cw")):
    metrics[f"{key}_clip"] = under_attack.loc[attack, "frozen (%)"] / 100
    metrics[f"{key}_clap"] = under_attack.loc[attack, "head (%)"] / 100
    metrics[f"{key}_beyond"] = under_attack.loc[attack, "beyond clean"] / 100
    metrics[f"{key}_beyond_half"] = under_attack.loc[attack, "±"] / 100
metrics["n_attacked"] = len(pixels)  # the same pictures for clean_*, fgsm_*, pgd_*, cw_*

# %% tags=["remove-cell"]
for name, key in ((noiseless, "no_edits"), ("second term: none", "no_second"), (neither, "neither")):
    metrics[f"ablation_{key}_C"] = hindsight[name] / 100
metrics["ablation_baseline_C"] = hindsight["baseline"] / 100
metrics["clamp_only"] = released.iloc[1]["frozen"] / 100
if probing:
    metrics["shot_1_gain"] = extra["same medium"][0].mean() / 100
    metrics["shot_most_gain"] = extra["same medium"][-1].mean() / 100
for rule, ending in (("middle", ""), ("smallest", "_smallest")):
    if "glyph-fair" in live[rule]:
        metrics[f"fair_gain_C{ending}"] = live[rule]["glyph-fair"][:, 0].mean() / 100
        metrics[f"fair_gain_NC{ending}"] = live[rule]["glyph-fair"][:, 1].mean() / 100
runs.record(metrics, out_dir)
