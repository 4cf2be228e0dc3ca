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
# (contrastive-pretraining)=
# # Contrastive pretraining
#
# CLIP, *contrastive language-image pretraining*, learns from one game: here are $n$ pictures and their $n$
# captions, shuffled; which belongs to which? We write the loss of this game in seven lines and take it apart:
# its limits, its gradient, and a floor that no model can pass. Then we play it live, from two random starts,
# and watch the matrix of similarities form. What is learned first is not what we would wish for. Last, we
# follow the training of the model that ships with this book by two numbers, alignment and uniformity.
#
# :::{admonition} Objectives
# - write CLIP's loss, InfoNCE, and read its gradient: softmax minus identity,
# - say what the temperature does to the wrong answers, and why its learned value is clamped,
# - compute the smallest loss that any model can reach on a batch, and say what $\log n$ minus the loss measures,
# - train a small CLIP, and say what it learns first and how we know,
# - recognise mistakes in this loss that crash nothing and cost accuracy.
# :::

# %% tags=["parameters"]
backbone = "glyph"  # or any open_clip "ARCH/TAG"; the live training is small
dataset = "glyphs"  # where the similarity matrices come from
seed = 0
device = None  # "cpu" or "cuda"; None takes the best there is
n_images = 256  # pairs held out to measure on
steps = 100  # of each live training
out_dir = ""  # a folder to record the metrics in
n_seeds = 2  # live trainings, from seed on
batch_size = 32  # pairs per step; the shipped model saw 256
correlation = 0.75  # of content and style in the training pairs

# %%
import math
from collections import Counter
from dataclasses import replace
from time import perf_counter

import matplotlib.pyplot as plt
import pandas as pd
import torch
import torch.nn.functional as F
from myst_nb import glue
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm


def put(name, value):
    """Keep a number of this run for the prose."""
    glue(f"pretraining_{name}", float(value), display=False)


if steps < 1 or n_images < max(batch_size, 12):
    raise ValueError(
        "steps must be at least 1, n_images at least 12 and batch_size, "
        f"got steps={steps}, n_images={n_images}, batch_size={batch_size}"
    )

# %%
from clipbook import (
    backbones,
    datasets,
    evaluate,
    geometry,
    losses,
    plots,
    pretrain,
    prompts,
    runs,
    widgets,
    world,
)
from clipbook.losses import unit

plots.use()
clip = backbones.load(backbone, device)
recipe = replace(pretrain.RECIPES["glyph"], correlation=correlation, seed=seed)
cost = runs.cost_line("foundations/02_contrastive_pretraining")
glue("pretraining_cost", cost, display=False)

# %% [markdown]
# *{glue:text}`pretraining_cost`*
#
# ## The idea
#
# {cite:t}`radford2021clip` train two networks (*towers*), one for pictures and one for texts, that end in the
# same space of $d$ dimensions. Only directions count, so both outputs are brought to length one. A batch of $n$
# pairs gives unit vectors $x_1 \dots x_n$ and $y_1 \dots y_n$, and $n^2$ cosines $c_{ij} = x_i \cdot y_j$. Matched
# pairs lie on the diagonal; the others are *negatives*. Every row asks "which caption?", every column asks
# "which picture?". Both are ordinary classification into $n$ classes, with the cosines, divided by a
# *temperature* $\tau$, as logits:
#
# $$
# \begin{aligned}
# \mathcal{L} = -\frac{1}{2n} \sum_{i=1}^{n} \bigg[ &
#   \log \frac{\exp(c_{ii} / \tau)}{\sum_j \exp(c_{ij} / \tau)} \\ + &
#   \log \frac{\exp(c_{ii} / \tau)}{\sum_j \exp(c_{ji} / \tau)} \bigg].
# \end{aligned}
# $$ (eq-info-nce)
#
# Either half is the *InfoNCE* of {cite:t}`oord2018cpc`. A guess gives every answer the probability $1/n$ and has the
# loss $\log n$. {cite:t}`wang2020uniformity` show what the loss asks of the geometry: matched pairs close together
# (*alignment*), and all pictures, as all texts, spread evenly over the sphere (*uniformity*),
#
# $$
# \begin{aligned}
# \ell_{\text{align}} &= \frac{1}{n} \sum_i \lVert x_i - y_i \rVert^2, \\
# \ell_{\text{uniform}} &= \log \frac{2}{n(n-1)} \sum_{i<j} e^{-2 \lVert x_i - x_j \rVert^2}.
# \end{aligned}
# $$ (eq-alignment-uniformity)
#
# | symbol | code | meaning |
# |---|---|---|
# | $x_i$, $y_j$ | `unit(image)`, `unit(text)` | unit features of picture $i$ and caption $j$, $(n, d)$ |
# | $c_{ij}$ | `cosine` | cosine of picture $i$ and caption $j$, $(n, n)$ |
# | $\tau$ | `tau` | temperature; small means that small differences of cosine count |
# | $1/\tau$ | `scale` | what CLIP learns, and stores as its logarithm |
# | $p_{ij}$, $q_{ij}$ | `p`, `q` | softmax of $c / \tau$ along rows, along columns |
# | $\mathcal{L}$ | `info_nce`, `losses.clip_loss` | the loss, in nats (natural logarithms) |
# | $\ell_{\text{align}}$, $\ell_{\text{uniform}}$ | `losses.alignment`, `losses.uniformity` | both: lower is better |
#
# ## What the model sees
#
# Eight pairs of a training batch. The captions are worded as on the web: they leave out much of what can be
# seen. Cover them with your hand. Could you put each one back?

# %% mystnb={"image": {"alt": "Eight small pictures of icons, the last two with two objects each, and above each its short caption as it could stand on a web page."}}
few = replace(recipe, batch_size=8)
few_images, few_captions, _ = pretrain.batch(few, step=0)
plots.image_grid(few_images, few_captions, columns=4)

# %% [markdown]
# Nothing in the loss says "object". A picture must be told from the other pictures of its batch, by whatever
# its caption happens to mention.
#
# ## InfoNCE from scratch
#
# Seven lines, equation {eq}`eq-info-nce` term by term:


# %%
def info_nce(image, text, tau):
    """Which caption belongs to which picture? Both (n, d); loss in nats."""
    x, y = image / image.norm(dim=1)[:, None], text / text.norm(dim=1)[:, None]
    logits = x @ y.T / tau
    matched = logits.diagonal()
    rows = logits.logsumexp(1) - matched  # -log p: for each picture
    columns = logits.logsumexp(0) - matched  # -log q: for each caption
    return (rows.mean() + columns.mean()) / 2


# %% [markdown]
# To try it we need features. We hold out some pairs that nobody trains on, and embed them with the model that
# ships with this book (or the one that you asked for in the parameters).

# %%
held = replace(recipe, batch_size=n_images, seed=10_000)
held_images, held_captions, _ = pretrain.batch(held, step=0)
order = torch.randperm(n_images, generator=torch.Generator().manual_seed(seed))
held_images = held_images[order]  # scenes of two objects came last
held_captions = [held_captions[i] for i in order]

image = clip.embed_images(held_images).double()
text = clip.embed_texts(held_captions).double()
cosine = unit(image) @ unit(text).T
ours = info_nce(image, text, 1 / clip.scale)
packaged = losses.clip_loss(image, text, clip.scale)
print(f"ours {ours:.6f} nats, losses.clip_loss {packaged:.6f} nats")
print(f"chance, log n: {math.log(n_images):.3f} nats")

# %% [markdown]
# ## What the temperature does
#
# Two limits say most of it. At a **high temperature** all negatives count alike, and to first order in $1/\tau$ the
# loss only sees two averages, of the matched cosines and of all cosines:
#
# $$
# \mathcal{L} \approx \log n - \frac{1}{\tau} \left( \overline{c_{ii}} - \overline{c_{ij}} \right).
# $$ (eq-hot)
#
# At a **low temperature** only the *hardest* negative of each row and column is left, the one with the highest cosine.
# For $\tau \to 0$,
#
# $$
# \tau \mathcal{L} \to \frac{1}{n} \sum_i \left[ \tfrac{1}{2} \max_j c_{ij} + \tfrac{1}{2} \max_j c_{ji} - c_{ii} \right].
# $$ (eq-cold)
#
# *Predict*: for a model that is already trained, is there a best temperature between the two, and is it the one
# that the model learned?


# %%
def hot(cosine, tau):
    lead = cosine.diagonal().mean() - cosine.mean()
    return math.log(len(cosine)) - lead / tau


def cold(cosine, tau):
    hardest = (cosine.amax(1).mean() + cosine.amax(0).mean()) / 2
    return (hardest - cosine.diagonal().mean()) / tau


taus = torch.logspace(-3, 1.5, 91, dtype=torch.float64)
curve = torch.stack([info_nce(image, text, tau) for tau in taus])
best_scale = 1 / float(taus[curve.argmin()])
put("best_scale", best_scale)
put("scale", clip.scale)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Loss against temperature on a logarithmic axis. It follows the low-temperature limit on the left, has one minimum, and follows the high-temperature limit to log n on the right; the learned temperature is marked near the minimum."}}
figure, axis = plt.subplots(figsize=(7, 3.6))
log_n = math.log(n_images)
axis.plot(taus, curve, color=plots.INK)
for limit, color in zip((cold, hot), plots.PALETTE):
    axis.plot(taus, [limit(cosine, tau) for tau in taus], "--", color=color)
axis.axhline(log_n, color=plots.QUIET, linestyle=":", linewidth=1.2)
axis.plot(1 / clip.scale, ours, "o", color=plots.INK, markersize=7)
note = {"textcoords": "offset points", "ha": "center"}
place = (1 / clip.scale, ours), (0, 18)
axis.annotate(f"learned: 1 / {clip.scale:.0f}", *place, **note)
axis.text(30, log_n + 0.1, "log n: chance", color=plots.QUIET, ha="right")
axis.text(0.0011, 0.25, "hardest negative only", color="#005a8c")
axis.text(0.62, 0.25, "all negatives alike", color="#a34700")
axis.set(xscale="log", xlim=(1e-3, 31), ylim=(0, 1.6 * log_n))
axis.set(xlabel="temperature τ (1 / scale)", ylabel="loss (nats)")
plt.show()

# %% [markdown]
# At either end the loss follows a limit (dashed). Between them it has one minimum, at $1/\tau$ =
# {glue:text}`pretraining_best_scale:.0f` on these pairs; the model learned {glue:text}`pretraining_scale:.0f`. Left of
# the minimum, being sure costs more on the wrong answers than it earns on the right ones. A model that is never wrong on
# its training batches has no such minimum: colder is always better, and the scale has no reason to stop growing. CLIP
# therefore clamps it at 100, "to prevent training instability" {cite:p}`radford2021clip`.
#
# ## The gradient: softmax minus identity
#
# How hard does the loss pull and push? Differentiate {eq}`eq-info-nce` by a cosine:
#
# $$
# \frac{\partial \mathcal{L}}{\partial c_{ij}} = \frac{1}{2 n \tau} \left( p_{ij} + q_{ij} - 2 \delta_{ij} \right).
# $$ (eq-gradient)
#
# ($\delta_{ij}$ is 1 on the diagonal and 0 elsewhere.) Matched cosines are pulled up by what their probability lacks
# to one. Unmatched ones are pushed down by the probability that they take away. Autograd agrees:

# %%
tau = 1 / clip.scale
leaf = cosine.clone().requires_grad_()
logits = leaf / tau
both = (logits.logsumexp(1) + logits.logsumexp(0)) / 2 - logits.diagonal()
both.mean().backward()

p, q = (cosine / tau).softmax(1), (cosine / tau).softmax(0)
by_hand = (p + q - 2 * torch.eye(n_images)) / (2 * n_images * tau)
gradient_error = float((leaf.grad - by_hand).abs().max() / by_hand.abs().max())
print(f"largest difference: {gradient_error:.1e} of the largest entry")

# %% [markdown]
# So the temperature decides *which* negatives are pushed {cite:p}`wang2021behaviour`. Below is one picture and the
# captions of eleven others. *Predict* the share of the hardest one at $\tau = 1$ and at $\tau = 0.01$. Then move the
# slider.

# %%
rivals = cosine[:12, :12] - 2 * torch.eye(12)
anchor = int(rivals.amax(1).argmax())  # its hardest negative is the hardest
others = [j for j in rivals[anchor].argsort().tolist() if j != anchor]


def shares(tau):
    p = (cosine[anchor, :12] / tau).softmax(0)
    figure, axis = plt.subplots(figsize=(7, 4))
    axis.barh(range(11), 100 * p[others] / p[others].sum(), color="#a9cfe6")
    for k, j in enumerate(others):
        words = f"{held_captions[j]}  ({cosine[anchor, j]:+.2f})"
        axis.text(1, k, words, va="center")
    axis.set(xlim=(0, 100), yticks=[], xlabel="share of the push (%)")
    title = {"fontsize": 9.5, "fontweight": "normal"}
    axis.set_title(f"picture of: {held_captions[anchor]}", **title)
    push = f"total push 1 − p = {1 - p[anchor]:.2f}"
    axis.set_title(push, loc="right", **title)
    inset = axis.inset_axes([0.76, 0.34, 0.23, 0.42])
    inset.imshow(plots.pixels(held_images[anchor]))
    inset.axis("off")
    return figure


# %%
tried = [1, 0.3, 0.1, 0.05, 0.03, 0.02, 0.01]
frames = [shares(tau) for tau in tried]
seen = "Bars: how the push is shared among captions of other pictures"
widgets.frames(frames, tried, name="temperature τ", alt=seen)

# %% [markdown]
# The number after a caption is its cosine with the picture. Hot: all are pushed a little. Cold: one or two get it all.
# Training thus goes into the wrong captions that come closest. Some of these are not wrong, because the caption *fits*.
#
# ## A floor that no model can pass
#
# Two people caption two red hearts: "a red heart". The loss calls two of the four combinations right and two wrong. The
# latter are *false negatives*. In our world we can count them exactly. A caption depends on what is in the scene and on
# its author's manner: which words are chosen, what is left out. The manner follows from the scene's seed, so we can let
# the author of caption $j$ describe picture $i$. If the sentence comes out the same, the caption fits.


# %%
def fits(scenes):
    """(n, n) bool: would the author of caption j have said it of picture i?"""
    n = len(scenes)
    shown = scenes[torch.arange(n).repeat_interleave(n)]
    said = world.caption(replace(shown, seed=scenes.seed.repeat(n)), "web")
    own = world.caption(scenes, "web")
    return torch.tensor([a == b for a, b in zip(said, own * n)]).view(n, n)


# one object each: with two, the other order of words would also fit
singles = world.sample(256, seed=seed + 20_000, correlation=correlation)
said = world.caption(singles, "web")
fitting = fits(singles)
false_negatives = {n: float(fitting[:n, :n].sum() / n - 1) for n in (32, 256)}

# %% mystnb={"image": {"alt": "Eight pictures of one batch which all fit one and the same caption, each titled with the caption it came with."}}
j = int(fitting.sum(0).argmax())
also = [j] + [i for i in fitting[:, j].nonzero()[:, 0].tolist() if i != j]
print(f"{said[j]!r} fits {len(also)} pictures of 256. Eight of them:")
shown = world.render(singles[also[:8]], 96)
plots.image_grid(shown, [said[i] for i in also[:8]], columns=4)

# %%
x, y = clip.embed_images(world.render(singles)), clip.embed_texts(said)
negatives = unit(x) @ unit(y).T - 2 * torch.eye(256)
hardest = negatives.argmax(1, keepdim=True)
hit = {"any": fitting.sum(1) > 1, "hardest": fitting.gather(1, hardest)[:, 0]}
for name, values in hit.items():
    put(f"{name}_fits", 100 * float(values.float().mean()))
for n, count in false_negatives.items():
    put(f"false_{n}", count)

# %% [markdown]
# In a batch of 256, {glue:text}`pretraining_any_fits:.0f`% of the pictures have at least one more caption that fits;
# the average is {glue:text}`pretraining_false_256:.1f`. In a batch of 32 the average is
# {glue:text}`pretraining_false_32:.2f`: the number grows in proportion to $n - 1$. And they take the push: for
# {glue:text}`pretraining_hardest_fits:.0f`% of the pictures, the hardest of the 255 negatives fits.
#
# Where captions are equal, no model can tell which one is meant. Say that $m$ pairs of a batch share one caption, and so
# one text feature. In each of their rows these $m$ captions get the same probability, at most $1/m$: the loss is at least
# $\log m$. Their $m$ columns are one and the same softmax over pictures. The $m$ right pictures share it, so the mean of
# $-\log q$ is at least $\log m$ again. With $m_i$ counted for pair $i$, for any model at any temperature:
#
# $$
# \mathcal{L} \ge \frac{1}{n} \sum_i \log m_i .
# $$ (eq-floor)
#
# The floor is reached by a model that gives each distinct caption an axis of its own and puts its pictures there.


# %%
def floor(captions):
    """The smallest loss that any model can reach, in nats."""
    count = Counter(captions)
    return sum(math.log(count[c]) for c in captions) / len(captions)


def oracle(captions):
    """Perfect features: one axis for each distinct caption, (n, distinct)."""
    axes = {caption: k for k, caption in enumerate(dict.fromkeys(captions))}
    return torch.eye(len(axes)).double()[[axes[c] for c in captions]]


def clip_loss_at(n):
    """The model's mean loss over batches of n held-out pairs."""
    pairs = list(zip(image.split(n), text.split(n)))[: len(image) // n]
    loss = [info_nce(x, y, 1 / clip.scale).item() for x, y in pairs]
    return sum(loss) / len(loss)


# %% [markdown]
# ## What $\log n$ minus the loss measures
#
# By how much is the loss below that of a guess? On average over batches by no more than the *mutual information* $I$,
# the number of nats that a caption tells about its picture {cite:p}`oord2018cpc`:
#
# $$
# I(\text{picture}; \text{caption}) \ge \log n - \mathbb{E}\,\mathcal{L} .
# $$ (eq-bound)
#
# Nobody knows $I$ for photographs. Here we can set it: a picture shows one of 32 objects, all equally likely, and a
# *content* caption names it and nothing else. So $I = \log 32$, exactly. *Predict* the curve of the perfect model as
# the batch grows.

# %%
many = world.sample(2048, seed=seed + 30_000)
perfect = oracle(world.caption(many, "content"))  # "a cat" and no more
sizes = [2**k for k in range(3, 12)]
best_loss = [info_nce(perfect[:n], perfect[:n], 0.01).item() for n in sizes]
told = [math.log(n) - loss for n, loss in zip(sizes, best_loss)]
tried_sizes = [n for n in sizes if n <= n_images]
told_by_model = {n: math.log(n) - clip_loss_at(n) for n in tried_sizes}

# %% tags=["hide-input"] mystnb={"image": {"alt": "log n minus the loss against batch size. The perfect model on object names follows log n for small batches and then bends to log 32; the trained model on web captions climbs with log n, below it."}}
figure, axis = plt.subplots(figsize=(7, 3.4))
axis.plot(sizes, [math.log(n) for n in sizes], ":", color=plots.QUIET)
axis.axhline(math.log(32), color=plots.QUIET, linewidth=1.2, linestyle="--")
axis.plot(sizes, told, "o-", color=plots.PALETTE[0])
axis.plot(*zip(*told_by_model.items()), "o-", color=plots.PALETTE[1])
axis.set_xscale("log", base=2)
axis.set(xlabel="batch size n (pairs)", ylabel="log n − loss (nats)")
axis.set_xticks(sizes, sizes)
axis.text(460, 6.25, "log n", color=plots.QUIET, ha="right")
axis.text(8, math.log(32) + 0.1, "I = log 32", color=plots.QUIET)
side = {"color": "#005a8c", "ha": "right"}
axis.text(2048, 2.95, "perfect model, object names", **side)
n, value = list(told_by_model.items())[-1]
side = {"color": "#a34700", "va": "center"}
axis.text(1.15 * n, value, f"{backbone}, web captions", **side)
plt.show()

# %% [markdown]
# A small batch cannot show much: $\log n - \mathcal{L}$ never exceeds $\log n$. A large one shows what the captions
# tell, and then the curve is flat. Web captions tell more than the object, so there it may pass $\log 32$. For reading
# papers: losses at different batch sizes cannot be compared, nor losses on different captions.
#
# ## Training, live
#
# Now we play. The model is the shipped one before its first step: the same towers, optimiser and kind of data. Only the
# batch is smaller, so that a laptop can play along. Pairs are drawn in chunks, which is quicker, and none is seen twice.

# %%
glyph = clip if backbone == "glyph" else backbones.load("glyph", device)


def batches(tokenizer, seed, chunk=50):
    """`steps` batches of fresh pairs, as images and tokens for the model."""
    drawn = replace(recipe, seed=seed, batch_size=chunk * batch_size)
    shuffle = torch.Generator().manual_seed(seed)
    for start in range(0, steps, chunk):
        images, captions, _ = pretrain.batch(drawn, start, glyph.device)
        images = pretrain.normalise(images)
        tokens = tokenizer(captions).to(glyph.device)
        order = torch.randperm(len(tokens), generator=shuffle)
        for rows in order.split(batch_size)[: steps - start]:
            part = images[rows].contiguous(memory_format=torch.channels_last)
            yield part, tokens[rows]


# %% [markdown]
# One step. This is the whole technique; everything else in this section only watches it. The scale is stored as its
# logarithm and clamped after each step. (Two lines only save time: 16-bit arithmetic in the towers, and plain attention,
# which is faster than the fused one on CPUs for texts as short as ours.)


# %%
def update(model, optimiser, images, tokens):
    """One step of contrastive pretraining; returns the loss in nats."""
    model.train()
    lighter = torch.autocast(glyph.device.type, torch.bfloat16)
    with lighter, sdpa_kernel(SDPBackend.MATH):
        image, text = model.encode_image(images), model.encode_text(tokens)
    tau = 1 / model.logit_scale.exp()
    loss = info_nce(image.float(), text.float(), tau)
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()
    model.logit_scale.data.clamp_(0, math.log(100))
    return loss.item()


# %%
def adamw(model):
    """Weight decay is for matrices, not for gains, biases and the scale."""
    matrices = [p for p in model.parameters() if p.ndim >= 2]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}]
    groups += [{"params": rest, "weight_decay": 0.0}]
    settings = {"lr": recipe.learning_rate, "betas": (0.9, 0.98), "eps": 1e-6}
    return torch.optim.AdamW(groups, **settings, fused=True)


# %% [markdown]
# ### What to watch
#
# The loss alone does not say *what* was learned. Interventions do. Take a scene and its full caption, change one
# word of the caption to another value of the same factor ("red" to "blue"), and ask which of the two captions the
# model prefers. A model that does not know the factor is right half the time. Content and style are independent in
# these scenes, so no factor can stand in for another.

# %%
scenes = world.sample(128, seed=seed + 40_000)
scene_images, scene_captions = world.render(scenes), world.caption(scenes)
words = {"object": world.OBJECTS, "medium": world.MEDIA, "color": world.COLORS}
edited, chooser = {}, torch.Generator().manual_seed(seed)
for factor, values in words.items():
    shift = torch.randint(1, len(values), (len(scenes),), generator=chooser)
    other = (getattr(scenes, factor) + shift) % len(values)
    edited[factor] = world.caption(scenes.edit(**{factor: other}))


def knows(model):
    """Share of scenes whose own caption beats the edited one, by factor."""
    image = model.embed_images(scene_images)
    true = model.embed_texts(scene_captions)
    false = {name: model.embed_texts(words) for name, words in edited.items()}
    return {name: evaluate.binding(image, true, x) for name, x in false.items()}


# %% [markdown]
# We also follow the loss, alignment and uniformity, on some of the held-out pairs, and the *modality gap*: the distance
# between the mean of the pictures and the mean of the texts.

# %%
watched = max(128, batch_size)


def measure(model):
    """What a Backbone does on pairs and scenes that were held out."""
    image = model.embed_images(held_images[:watched])
    text = model.embed_texts(held_captions[:watched])
    parts = list(zip(image.split(batch_size), text.split(batch_size)))
    parts = parts[: len(image) // batch_size]
    loss = [float(losses.clip_loss(x, y, model.scale)) for x, y in parts]
    return {
        "loss": sum(loss) / len(loss),
        "alignment": float(losses.alignment(image, text)),
        "image_uniformity": float(losses.uniformity(image)),
        "text_uniformity": float(losses.uniformity(text)),
        "gap": geometry.modality_gap(image, text),
        **knows(model),
    }


# %% [markdown]
# And a matrix to look at: one picture and one full caption for each combination of eight objects and eight media.

# %%
data = datasets.load(dataset)
first = {}  # one picture of each class in each domain
for index, cell in enumerate(zip(data.label.tolist(), data.domain.tolist())):
    first.setdefault(cell, index)
probe = [first[cell] for cell in sorted(first) if max(cell) < 8]
pictures = [data.image(index) for index in probe]
if data.scenes is not None:
    texts, kinds = world.caption(data.scenes[probe]), ("object", "medium")
else:
    named = prompts.fill("a picture of a {}", data.classes)
    texts, kinds = [named[data.label[i]] for i in probe], ("class", "domain")
content, style = data.label[probe], data.domain[probe]


def matrix(model):
    """(probe, probe): cosines of the pictures with the captions."""
    prepared = torch.stack([model.preprocess(picture) for picture in pictures])
    image, text = model.embed_prepared(prepared), model.embed_texts(texts)
    return unit(image) @ unit(text).T


# %% [markdown]
# Play. Every seed starts from other weights and sees other pairs.

# %%
looks = sorted({0, steps // 8, steps // 4, steps // 2, steps})
history, training = [], []  # a row per look, a row per step


def look(s, step, model, tokenizer):
    scale = model.logit_scale.exp().item()
    live = replace(glyph, model=model.eval(), tokenizer=tokenizer, scale=scale)
    seen = {"seed": s, "step": step, "cosine": matrix(live)}
    history.append(seen | measure(live))
    return live


# %%
def train(s):
    # the folder brings the vocabulary
    model, tokenizer = pretrain.build(backbones.ASSETS / "glyph", s)
    model = model.to(glyph.device, memory_format=torch.channels_last)
    optimiser = adamw(model)
    bar = tqdm(batches(tokenizer, s), f"seed {s}", total=steps, mininterval=1)
    for step, (images, tokens) in enumerate(bar):
        if step in looks:
            look(s, step, model, tokenizer)
        for group in optimiser.param_groups:  # a short warm-up
            group["lr"] = recipe.learning_rate * min(1, (step + 1) / 20)
        loss = update(model, optimiser, images, tokens)
        training.append({"seed": s, "step": step, "loss": loss})
    return look(s, steps, model, tokenizer)


# %%
started = perf_counter()
seeds = range(seed, seed + n_seeds)
trained = [train(s) for s in seeds]
seconds_training = perf_counter() - started

table, curve = pd.DataFrame(history), pd.DataFrame(training)
last = table[table.step == steps].mean(numeric_only=True)
put("seconds", seconds_training)
put("live_start", table[table.step == 0].loss.mean())
put("live_loss", last.loss)
put("log_n", math.log(batch_size))
for factor in edited:
    put(f"live_{factor}", 100 * last[factor])

# %% [markdown]
# ### The loss falls
#
# It starts near $\log n$, the loss of a guess; a little above, because an untrained model is not only wrong but also
# sure of something. The first dots lag behind the training batches; the last pitfalls below say why.

# %% tags=["hide-input"] mystnb={"image": {"alt": "Training loss of two seeds falling from about log n, noisy from step to step, with the held-out loss as dots on the same course."}}
figure, axis = plt.subplots(figsize=(7, 3.4))
for s, color in zip(seeds, plots.PALETTE):
    mine, rows = curve[curve.seed == s], table[table.seed == s]
    axis.plot(mine.step, mine.loss, color=color, linewidth=0.8, alpha=0.6)
    axis.plot(rows.step, rows.loss, "o-", color=color, markersize=5)
chance = math.log(batch_size)
axis.axhline(chance, color=plots.QUIET, linestyle=":", linewidth=1.2)
axis.text(steps, chance + 0.05, "log n: chance", color=plots.QUIET, ha="right")
axis.set(xlabel="step", ylabel="loss (nats)", ylim=(0, None), xlim=(0, steps))
key = f"thin: training batches; dots: held-out pairs; {n_seeds} seeds"
axis.set_title(key, fontsize=9.5, fontweight="normal")
plt.show()

# %% [markdown]
# ### The matrix forms
#
# Both panels show the same matrix, sorted in two ways. If the model sees objects, blocks appear on the left; if
# it sees media, on the right. The *contrast* in the titles puts a number to the blocks: how much higher the cosines of
# unmatched pairs are within a group than across groups. *Predict* which blocks come first. Then move the slider through
# the training of the first seed.


# %%
def contrast(cosine, group):
    """Mean cosine of unmatched pairs within groups, minus across groups."""
    same = group[:, None] == group
    within = cosine[same & ~torch.eye(len(group), dtype=torch.bool)]
    difference = float(within.mean() - cosine[~same].mean())
    return round(difference, 3) + 0.0  # no "-0.00"


# %%
def panel(axis, cosine, group, words, kind):
    order, present = group.argsort(stable=True), group.unique()
    shown = axis.imshow(cosine[order][:, order], vmin=-0.4, vmax=1)
    starts = [int((group < k).sum()) for k in present]
    axis.set_yticks(starts, [words[k] for k in present], fontsize=8, va="top")
    axis.set(xticks=[], xlabel="captions, in the same order")
    title = f"pictures by {kind}: contrast {contrast(cosine, group):+.2f}"
    axis.set_title(title, fontsize=9.5, fontweight="normal")
    axis.grid(False)
    return shown


def two_ways(cosine):
    figure, axes = plt.subplots(1, 2, figsize=(7, 3.7))
    panel(axes[0], cosine, content, data.classes, kinds[0])
    shown = panel(axes[1], cosine, style, data.domains, kinds[1])
    figure.colorbar(shown, ax=axes, label="cosine similarity", shrink=0.8)
    return figure


# %%
film = [row for row in history if row["seed"] == seed]
frames = [two_ways(row["cosine"]) for row in film]
seen = f"Cosines, by {kinds[0]} on the left and by {kinds[1]} on the right"
widgets.frames(frames, [row["step"] for row in film], name="step", alt=seen)

# %% [markdown]
# ### What was learned
#
# Style came first. Here are the interventions, for all seeds:

# %% mystnb={"image": {"alt": "Share of held-out scenes whose own caption beats one with a single word changed, against step. Medium and colour rise far above the 50 percent of chance, object stays near it."}}
by_seed = table.set_index(["seed", "step"]).unstack("step")
over_time = {factor: 100 * by_seed[factor].to_numpy() for factor in edited}
labels = {"xlabel": "step", "ylabel": "right caption preferred (%)"}
figure = plots.curves(looks, over_time, **labels, chance=50)
figure.axes[0].set_ylim(40, 102)
figure

# %% [markdown]
# The {glue:text}`pretraining_seconds:.0f` seconds of training and measuring took the loss from
# {glue:text}`pretraining_live_start:.2f` to {glue:text}`pretraining_live_loss:.2f` nats, far below
# $\log n$ = {glue:text}`pretraining_log_n:.2f`. The models tell media apart in {glue:text}`pretraining_live_medium:.0f`% of
# the scenes and colours in {glue:text}`pretraining_live_color:.0f`%. Objects: {glue:text}`pretraining_live_object:.0f`%, and
# 50% is a coin. **A contrastive loss can fall far before the model has seen a single object.**
#
# There are two causes. A medium or a colour can be read from any patch of a picture; an object needs its shape. And
# in these training pairs content and style go together, so style tells most pictures of a batch apart, and even
# says which object to expect ({ref}`world` computes how far that gets; exercise 3 looks closely). To separate the two,
# predict what changes with `correlation = 0`, then run the chapter again with it.
#
# ## The shipped model
#
# The shipped model is the same network after a longer game with larger batches. The same matrix:

# %% mystnb={"image": {"alt": "The same matrix of cosines for the trained model, sorted by object on the left and by medium on the right, with a bright diagonal; blocks are visible on the left."}}
grown = matrix(clip)
two_ways(grown)
plt.show()

# %%
final = measure(clip)
by_content, by_style = contrast(grown, content), contrast(grown, style)
put("final_object", 100 * final["object"])
put("by_content", by_content)
put("by_style", by_style)
live_column = {f"live, step {steps}": last[list(final)]}
pd.DataFrame(live_column | {backbone: pd.Series(final)}).round(2)

# %% [markdown]
# Objects are now told apart in {glue:text}`pretraining_final_object:.0f`% of the scenes. In the matrix the stronger blocks
# have moved to the left: contrast {glue:text}`pretraining_by_content:.2f` by object,
# {glue:text}`pretraining_by_style:.2f` by medium. But style has not left: media and colours are told apart as well as ever
# (table). Content was added to it.
#
# ### Two numbers that follow a training
#
# Alignment and uniformity, {eq}`eq-alignment-uniformity`, depend neither on the batch size nor on the temperature, so
# they can be compared across trainings. Collapsed features, all at one point, have alignment 0 and uniformity 0.
# Features that are spread evenly but know nothing have alignment 2 and uniformity close to $-4$. A good model is at the
# lower left.

# %%
shipped = backbone in backbones.shipped()
longer = pd.DataFrame(pretrain.card(backbone)["history"] if shipped else [])
if not shipped:
    print(f"{backbone}: no record of its training; the figures do without.")

# %% tags=["hide-input"] mystnb={"image": {"alt": "Paths in the plane of alignment and uniformity of pictures. The live runs start at the upper right and move to the lower left; the long training goes further down the same way."}}
figure, axis = plt.subplots(figsize=(7, 4))
for s, color in zip(seeds, plots.PALETTE):
    rows = table[table.seed == s]
    axis.plot(rows.alignment, rows.image_uniformity, ".-", color=color)
labels = {"   untrained": table.iloc[0]}
labels[f"    {backbone}, trained"] = pd.Series(final)
labels[f"live, {steps} steps   "] = table.iloc[len(looks) - 1]
if shipped:
    squares = {"color": plots.PALETTE[2], "marker": "s", "markersize": 4}
    axis.plot(longer.alignment, longer.image_uniformity, **squares)
    labels[f"   {backbone} from step {longer.step[0]} on"] = longer.iloc[0]
axis.plot(final["alignment"], final["image_uniformity"], "*k", markersize=12)
for label, row in labels.items():
    side = "right" if label.startswith("live") else "left"
    axis.text(row.alignment, row.image_uniformity, label, va="center", ha=side)
axis.axhline(-4, color=plots.QUIET, linestyle=":", linewidth=1.2)
axis.text(0.02, -3.95, "evenly spread", color=plots.QUIET)
axis.set(xlim=(0, 2.4), ylabel="uniformity of pictures (nats)")
axis.set_xlabel("alignment (mean squared distance of matched pairs)")
plt.show()

# %% [markdown]
# An untrained network puts all pictures into one narrow cone, so their uniformity is 0, and the texts into another one.
# Both numbers improve together at first. Later alignment hardly moves, and the features spread further. (The long path was recorded during training, on scenes of one object; the star is measured on the same pairs
# as the live runs.)

# %% tags=["hide-input"] mystnb={"image": {"alt": "Three panels over the steps of the long training: zero-shot accuracy on correlated scenes rises early and on decorrelated scenes late; the learned scale grows; the modality gap changes little."}}
if shipped:
    figure, axes = plt.subplots(1, 3, figsize=(7, 2.7))
    middle = longer.iloc[len(longer) // 2]
    columns = {"correlated": "accuracy_correlated", "decorrelated": "accuracy"}
    for (label, name), color in zip(columns.items(), plots.PALETTE):
        axes[0].plot(longer.step, 100 * longer[name], color=color)
        place = {"xytext": (4, -14), "textcoords": "offset points"}
        point = middle.step, 100 * middle[name]
        axes[0].annotate(label, point, fontsize=9, **place)
    axes[1].plot(longer.step, longer.scale, color=plots.INK)
    axes[2].plot(longer.step, longer.gap, color=plots.INK)
    axes[0].set_ylabel("zero-shot accuracy (%)")
    axes[1].set_ylabel("learned scale 1/τ")
    axes[2].set_ylabel("modality gap (distance)")
    for axis in axes:
        axis.set(xlabel="step", ylim=(0, None))
    plt.show()

# %% [markdown]
# Style first, here too. On scenes like those of the training, zero-shot accuracy for objects is high early: colour and
# medium give the object away. On scenes in which they are drawn independently of the object, accuracy comes much later.
# The learned scale grows as the model becomes surer. The modality gap does not close; why is the subject of a later part
# {cite:p}`liang2022gap`.
#
# ## Pitfalls
#
# ### Logits that are almost right
#
# Five ways to write the logits, four of them wrong, and none crashes. Without normalisation, a caption with a long
# feature vector wins wherever it appears. Many implementations return logits that are *already* scaled; scale them once
# more, and the model is sure of everything. What is stored is the logarithm of the scale; forget the exponential, or the
# scale, and the model is sure of nothing.

# %%
log_scale = math.log(clip.scale)
ways = {
    "scale * cosine (right)": lambda x, y: clip.scale * unit(x) @ unit(y).T,
    "scale * dot product": lambda x, y: clip.scale * x @ y.T,
    "scale * scale * cosine": lambda x, y: clip.scale**2 * unit(x) @ unit(y).T,
    "log scale * cosine": lambda x, y: log_scale * unit(x) @ unit(y).T,
    "cosine": lambda x, y: unit(x) @ unit(y).T,
}


def judge(logits_of):
    """Loss on the held-out pairs; accuracy and confidence for objects."""
    logits = logits_of(image, text)
    both = (logits.logsumexp(1) + logits.logsumexp(0)) / 2 - logits.diagonal()
    probability, answer = logits_of(objects, classes).softmax(1).max(1)
    return {
        "loss (nats)": float(both.mean()),
        "accuracy (%)": 100 * float((answer == scenes.object).double().mean()),
        "mean confidence (%)": 100 * float(probability.mean()),
    }


# %%
named = prompts.fill("a picture of a {}", world.OBJECTS)
classes = clip.embed_texts(named).double()
objects = clip.embed_images(scene_images).double()
results = pd.DataFrame({name: judge(way) for name, way in ways.items()}).T
right, dot = results["accuracy (%)"].iloc[:2]
put("cosine_accuracy", right)
put("dot_accuracy", dot)
length = classes.norm(dim=1)
put("length_spread", 100 * length.std() / length.mean())
results.round(1)

# %% [markdown]
# A wrong scale changes no answer, only the confidence. Accuracy cannot find it; the loss can, and so can comparing
# confidence with accuracy. A missing normalisation can change answers as well, if text features differ in length. Here
# their lengths vary by only {glue:text}`pretraining_length_spread:.1f`% (standard deviation), and accuracy goes from
# {glue:text}`pretraining_cosine_accuracy:.1f`% to {glue:text}`pretraining_dot_accuracy:.1f`%: we were lucky. The loss in
# the table was not.
#
# ### One batch on many devices
#
# Large batches are spread over devices, and each device computes the loss of its own rows. It needs the features of all
# the others as negatives. Two mistakes are easy: not to gather them at all, and to gather them with an operation through
# which no gradient flows back, as `torch.distributed.all_gather` does. We play eight devices on one:


# %%
def gathered(x, own, how):
    """What a device with the rows `own` sees of the features of the batch."""
    if how == "values":  # as all_gather does: numbers without a history
        return x.detach().index_copy(0, own, x[own])
    return x[own] if how == "nothing" else x


def on_devices(image, text, how, devices=8):
    """The mean over devices of the loss that each computes on its own rows."""
    x, y, total = unit(image), unit(text), 0
    for own in torch.arange(len(x)).chunk(devices):
        label = torch.arange(len(own)) if how == "nothing" else own
        rows = clip.scale * x[own] @ gathered(y, own, how).T
        columns = clip.scale * y[own] @ gathered(x, own, how).T
        total += F.cross_entropy(rows, label) + F.cross_entropy(columns, label)
    return total / 2 / devices


# %%
compared, right = {}, None
for how in ("values and gradients", "values", "nothing"):
    leaf = image.clone().requires_grad_()
    loss = on_devices(leaf, text, how)
    gradient = torch.autograd.grad(loss, leaf)[0].flatten()
    right = gradient if right is None else right
    compared[how] = {
        "loss (nats)": loss.item(),
        "gradient: cosine with right": float(unit(gradient) @ unit(right)),
        "gradient: relative length": float(gradient.norm() / right.norm()),
    }
columns = pd.DataFrame(compared).T
put("right_loss", columns.iloc[0, 0])
put("nothing_loss", columns.iloc[2, 0])
put("values_cosine", columns.iloc[1, 1])
columns.rename_axis("gathered").round(2)

# %% [markdown]
# Gathering nothing makes the task easier, so the loss *looks better*: {glue:text}`pretraining_nothing_loss:.2f` instead
# of {glue:text}`pretraining_right_loss:.2f`. Gathering values alone gives the right loss and a gradient in another
# direction (cosine {glue:text}`pretraining_values_cosine:.2f`): a picture no longer hears how the captions of other devices
# would like it to move. Test the gradient, not the loss.
#
# ### Two more that leave no trace
#
# - **Batch normalisation lets pictures talk.** In training mode a picture's features depend on the rest of its batch.
#   {cite:t}`he2020moco` saw a contrastive model use this to find out which pairs belong together, and shuffled batches over
#   devices to stop it. Our picture tower has batch normalisation too, so every measurement in this chapter calls
#   `model.eval()` first. (It is also why the first dots in the loss figure lag behind the training curve: the running
#   averages still remember the start.)
# - **Weight decay on the scale.** The logarithm of the scale is a parameter like any other, and decay would pull the
#   scale to 1. `adamw` above leaves it alone, as it does gains and biases.
#
# ## Check
#
# First the identities: ours against the package's loss, the two limits of the temperature, the gradient, the floor, the
# bound on information. The limits are checked as inequalities that hold at every temperature:
# $0 \le \mathcal{L} - \text{cold} \le \log n$ and $0 \le \mathcal{L} - \text{hot} \le 1 / 2 \tau^2$. Tolerance
# $10^{-9}$ for rounding, on three random sets of features.

# %% tags=["check"]
tiny, log_n = 1e-9, math.log(24)
for s in range(3):
    noise = torch.Generator().manual_seed(s)
    x, y = torch.randn(2, 24, 8, dtype=torch.float64, generator=noise)
    c = unit(x) @ unit(y).T
    for tau in (0.01, 0.07, 1.0, 100.0):
        loss = info_nce(x, y, tau)
        assert abs(loss - losses.clip_loss(x, y, 1 / tau)) < tiny
        assert -tiny <= loss - cold(c, tau) <= log_n + tiny
        assert -tiny <= loss - hot(c, tau) <= 0.5 / tau**2 + tiny
    asked = world.sample(64, seed=s, correlation=correlation)
    words = world.caption(asked, "web")
    best = oracle(words)
    assert abs(info_nce(best, best, 0.01) - floor(words)) < tiny
    x, y = clip.embed_images(world.render(asked)), clip.embed_texts(words)
    assert losses.clip_loss(x, y, clip.scale) > floor(words)
assert gradient_error < tiny
assert max(told) < math.log(32) + tiny
print("same loss, both limits, gradient, floor and bound: as claimed")

# %% [markdown]
# Then what we said about training, for *each* live seed: the loss falls by at least 1 nat; alignment improves by at
# least 0.5, uniformity of pictures by 1, the gap by 0.3; media are told apart in at least 75% of the scenes, colours in 65%,
# and objects in less than 65% (50% is chance, and one standard error of 128 scenes is 4 points). These claims are about
# runs of at least 3,000 pairs of our correlated world. And about the shipped model: it tells objects apart (90%), and at the
# first step on record its accuracy on correlated scenes was at least 30 points ahead of that on decorrelated ones.

# %% tags=["check"]
if steps * batch_size >= 3000 and correlation == 0.75:
    for s, rows in table.groupby("seed"):
        begin, end = rows.iloc[0], rows.iloc[-1]
        assert begin.loss - end.loss > 1, (s, begin.loss, end.loss)
        assert begin.alignment - end.alignment > 0.5, s
        assert begin.image_uniformity - end.image_uniformity > 1, s
        assert begin.gap - end.gap > 0.3, s
        assert end.medium > 0.75, (s, end.medium)
        assert end.color > 0.65, (s, end.color)
        assert end.object < 0.65, (s, end.object)
    print(f"{n_seeds} seeds, {steps} steps: style is learned, content is not")
if backbone == "glyph":
    early = longer.iloc[0]
    assert final["object"] > 0.9, final["object"]
    assert early.accuracy_correlated - early.accuracy > 0.3, early
    print(f"glyph at step {early.step:.0f}, right about the object:")
    print(f"{early.accuracy_correlated:.0%} of correlated scenes,")
    print(f"{early.accuracy:.0%} of decorrelated ones")

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: how many negatives count?
# The exponential of the entropy of a distribution says over how many things it is effectively spread. Compute it for the
# shares of the push, averaged over the held-out pictures, at the temperatures of the slider. At which one does the push
# concern less than a tenth of the negatives?

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
matched = torch.eye(n_images, dtype=torch.bool)
negatives = cosine.masked_fill(matched, -math.inf)
effective = {}
for tau in tried:
    entropy = torch.special.entr((negatives / tau).softmax(1)).sum(1)
    effective[tau] = float(entropy.exp().mean())
    print(f"temperature {tau}: {effective[tau]:.1f} of {n_images - 1}")
assert list(effective.values()) == sorted(effective.values(), reverse=True)

# %% [markdown]
# ### Exercise 2: two models that know nothing
# One model has collapsed: all pictures and all texts are one point. Another one gives random directions in 128
# dimensions. Predict loss, alignment and uniformity of both at a scale of 14, then compute them. Which of the three
# numbers can tell that something is wrong?

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
noise = torch.randn(2, 256, 128, generator=torch.Generator().manual_seed(seed))
point = torch.ones(2, 256, 128)
found = {}
for name, (x, y) in {"collapsed": point, "random": noise}.items():
    found[name] = losses.clip_loss(x, y, 14).item()
    near, even = losses.alignment(x, y), losses.uniformity(x)
    print(f"{name}: loss {found[name]:.2f},", end=" ")
    print(f"alignment {near:.2f}, uniformity {even:.2f}")
# Judged by the loss, the collapsed model is the better one: log 256 = 5.55. The
# random one is wrong, and sure of something. Alignment calls the collapsed one
# perfect, and uniformity the random one. It takes both.
assert abs(found["collapsed"] - math.log(256)) < 1e-4
assert found["random"] > found["collapsed"]

# %% [markdown]
# ### Exercise 3: what does the live model live on?
# The live models hardly know objects. Still, ask one for the object, zero-shot, on scenes like those of its training
# and on decorrelated ones. How often does it name an object whose *favourite* colour or medium is the one in the picture?

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
live = trained[0]
names = live.embed_texts(prompts.fill("a picture of a {}", world.OBJECTS))
for kind, rho in (("correlated", correlation), ("decorrelated", 0.0)):
    asked = world.sample(128, seed=seed + 50_000, correlation=rho)
    answer = evaluate.predict(live.embed_images(world.render(asked)), names)
    color, medium = world.favourite(answer)
    right = (answer == asked.object).float().mean()
    fitted = ((color == asked.color) | (medium == asked.medium)).float().mean()
    print(f"{kind}: right {right:.0%}, fits the style {fitted:.0%}")
# A blind answer is right in 3%, and fits colour or medium in 1 - 9/10 * 7/8 = 21%
# of the decorrelated scenes. The model reads the style and names the object that
# goes with it.

# %% [markdown]
# ### Exercise 4: false negatives at scale
# CLIP was trained with 32,768 pairs a batch {cite:p}`radford2021clip`. Check that the number of false negatives of a picture
# grows in proportion to $n - 1$, and say what it would be at that size in our world.

# %% tags=["solution", "hide-cell"] mystnb={"code_prompt_show": "Solution", "code_prompt_hide": "Hide the solution"}
rate = {}  # chance that another caption of the batch fits
for n in (32, 64, 128, 256):
    blocks = [fitting[i : i + n, i : i + n] for i in range(0, 256, n)]
    others = sum(float(block.sum()) - n for block in blocks)
    rate[n] = others / (len(blocks) * n * (n - 1))
    print(f"n = {n}: {rate[n]:.2%} of the other captions fit")
assert max(rate.values()) < 2 * min(rate.values())  # one rate, but for noise
print(f"at 32,768: about {rate[256] * 32767:.0f} other captions fit a picture")

# %% [markdown]
# ## Summary
# - Contrastive pretraining is classification within the batch, both ways: which caption, which picture.
# - The gradient by a cosine is softmax minus identity. The temperature decides whether all negatives are pushed or only
#   the hardest, and the hardest is often a caption that fits.
# - Equal captions put a floor under the loss. $\log n$ minus the loss is at most the information in the captions, and at
#   most $\log n$. Losses at different batch sizes cannot be compared.
# - In a world where content and style go together, the loss falls far while only style is learned. Content follows later,
#   and style stays.
# - Alignment and uniformity follow a training across batch sizes and temperatures; neither suffices alone.
#
# ## Further reading
# - {cite:t}`radford2021clip`, section 2: the recipe at full scale, and the pseudo-code that everybody copies.
# - {cite:t}`wang2020uniformity`: alignment and uniformity, and what the loss tends to with infinitely many negatives.
# - {cite:t}`wang2021behaviour`: temperature as tolerance to similar samples.
# - {cite:t}`poole2019bounds`: why $\log n$ caps the bound, and what can be done.
# - {cite:t}`cherti2023openclip`: contrastive pretraining in the open, with scaling laws.

# %% tags=["remove-cell"]
metrics = {
    "loss_start": table[table.step == 0].loss.mean(),
    "loss_end": last.loss,
    "alignment": last.alignment,
    "uniformity_image": last.image_uniformity,
    "uniformity_text": last.text_uniformity,
    "gap": last.gap,
    "seconds_training": seconds_training,
    "best_scale": best_scale,
    "false_negatives_256": false_negatives[256],
}
metrics |= {f"knows_{factor}": last[factor] for factor in edited}
metrics |= {f"backbone_{name}": value for name, value in final.items()}
runs.record(metrics, out_dir)
