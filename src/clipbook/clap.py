"""CLAP: content isolated from style by contrasting augmented prompts; text alone, applied to images.

The technique itself is in the losses (`clap_loss`), the heads (`DisentangledNetwork`) and the prompts (`views`).
Here they are put together as every later chapter needs them. Reading order: `embed_views` encodes all the text
that training will ever see, once, in large batches; `train` fits heads on it; `choose_alpha` sets their strength
without labels. Defined in {ref}`augmented-prompts`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from . import evaluate, heads, losses, prompts, training
from .backbones import ASSETS, POSITIONS, Backbone


@dataclass(frozen=True)
class Views:
    """Text features for CLAP. prompt and augmented: (classes, n, d), pair by pair; content: (classes, d)."""

    prompt: Tensor
    augmented: Tensor
    content: Tensor


def embed_views(
    backbone: Backbone,
    classes: Sequence[str],
    n: int = 96,
    *,
    augmentations: Mapping[str, float] = prompts.AUGMENTATIONS,
    n_tokens: int = 4,
    std: float = 0.02,
    seed: int = 0,
) -> Views:
    """Encode n prompts per class, each once more augmented and with noise, and the bare class names.

    Args:
        backbone: whose text tower encodes.
        classes: names, at least 2, all different.
        n: prompts per class, of the 480 there are; more than 480 repeat, with other edits and noise.
        augmentations: see `prompts.views`; the default is as released.
        n_tokens, std: noise tokens of the augmented views; a third of them each in front, in the middle and at
            the end. 0 tokens: no noise.
        seed: of the choice of prompts, their edits and their noise.

    Returns: Views, un-normalised, float32. Raises ValueError as `prompts.views` and `embed_noised_texts`, and for
    a class whose name or prompts do not fit the context, the augmented ones together with their noise.
    """
    if isinstance(classes, str) or not hasattr(classes, "__len__") or len(classes) < 2:
        raise ValueError(f"classes must be at least two names, got {classes!r}")
    prompts.check_names("classes", classes)
    for index, name in enumerate(classes):
        if name in classes[:index]:
            raise ValueError(f"classes must be all different, got {name!r} twice")
    generator = torch.Generator().manual_seed(seed)
    plain, edited = zip(*(prompts.views(name, n, augmentations=augmentations, seed=seed) for name in classes))
    plain, edited = [text for texts in plain for text in texts], [text for texts in edited for text in texts]
    for texts, noise in ((edited, n_tokens), (plain, 0), (list(classes), 0)):
        _check_lengths(backbone, classes, texts, noise)
    augmented = torch.empty(len(edited), backbone.dim)
    where = torch.arange(len(edited)) % len(POSITIONS)  # prompts are in random order already
    for index, position in enumerate(POSITIONS):
        rows = (where == index).nonzero()[:, 0]
        if len(rows):
            texts = [edited[row] for row in rows.tolist()]
            augmented[rows] = backbone.embed_noised_texts(texts, n_tokens, std, position, generator)
    shape = (len(classes), n, -1)
    return Views(backbone.embed_texts(plain).view(shape), augmented.view(shape), backbone.embed_texts(list(classes)))


def _check_lengths(backbone: Backbone, classes: Sequence[str], texts: list[str], n_tokens: int) -> None:
    """Of texts in the order of their classes: one that the context cannot hold is named with its class."""
    if long := backbone.too_long(texts, n_tokens):
        name, text = classes[long[0] * len(classes) // len(texts)], texts[long[0]]
        context = backbone.tokenizer([text]).shape[1]
        raise ValueError(
            f"classes must have names that fit: {text!r}, of {name!r}, with {n_tokens} noise tokens exceeds the "
            f"context of {context} tokens"
        )


def train(
    views: Views,
    seeds: Sequence[int] = (0,),
    *,
    hidden: int | None = None,
    temperature: float = 0.5,
    content_temperature: float = 1.0,
    weight: float = 1.0,
    steps: int = 800,
    learning_rate: float = 1e-3,
    **early_stopping,
) -> tuple[list[heads.DisentangledNetwork], Tensor]:
    """Fit a head per seed on text features; a batch holds one prompt of every class.

    Args:
        views: from `embed_views`.
        seeds: of the head's first weights and of its batches; all heads are trained side by side.
        hidden: of `DisentangledNetwork`. temperature, content_temperature, weight: of `clap_loss`.
        steps, learning_rate, early_stopping: of `training.fit`.

    Returns: the heads, alpha 1, on the device of the views, and the history of losses (steps run, seeds). A head's
    result does not depend on which others were trained beside it, up to rounding. Raises ValueError for no seeds,
    views whose shapes do not fit, and as `clap_loss` and `training.fit`.
    """
    seeds = list(seeds)
    if not seeds:
        raise ValueError("seeds must hold at least one seed, got none")
    _check_views(views)
    networks, generators = [], [torch.Generator().manual_seed(seed) for seed in seeds]
    for seed in seeds:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)  # the CPU's: a GPU's generators are left alone
            network = heads.DisentangledNetwork(views.content.shape[-1], hidden)
        networks.append(network.to(views.prompt.device))
    classes, n = views.prompt.shape[:2]
    content = views.content.expand(len(networks), -1, -1)

    def loss(apply, step):
        pick = torch.stack([torch.randint(n, (classes,), generator=generator) for generator in generators])
        rows = torch.arange(classes), pick
        batch = apply(views.prompt[rows]), apply(views.augmented[rows]), apply(content)
        return losses.clap_loss(*batch, temperature, content_temperature, weight)

    history = training.fit(networks, loss, steps, learning_rate=learning_rate, **early_stopping)
    return networks, history


def _check_views(views: Views) -> None:
    shapes = [tuple(x.shape) for x in (views.prompt, views.augmented, views.content)]
    fit = shapes[0] == shapes[1] and len(shapes[0]) == 3 and shapes[2] == (shapes[0][0], shapes[0][2])
    if not fit or 0 in shapes[0]:
        raise ValueError(
            f"views must be prompt (classes, n, d), augmented (classes, n, d) and content (classes, d), got "
            f"{shapes[0]}, {shapes[1]} and {shapes[2]}"
        )


@torch.no_grad()
def agreement(head: heads.DisentangledNetwork, image: Tensor, class_texts: Sequence[Tensor]) -> Tensor:
    """How often two wordings of the classes give an image the same answer, with the head as it is: no labels.

    Args: image (n, d); class_texts: features of two or more wordings, (c, d) each; un-normalised, before the head.

    Returns: (n,) float64 in [0, 1], the mean over pairs of wordings. Raises ValueError for fewer than two
    wordings, or two classes, or where the wordings are not of the same classes.
    """
    if len(class_texts) < 2:
        raise ValueError(f"class_texts must hold at least two wordings, got {len(class_texts)}")
    counts = [len(text) for text in class_texts]
    if min(counts) < 2 or min(counts) < max(counts):
        raise ValueError(f"class_texts must be of the same two or more classes each, got {counts}")
    moved = head(image)
    answers = torch.stack([evaluate.predict(moved, head(text)) for text in class_texts])
    same, k = (answers[:, None] == answers[None]).double().sum((0, 1)), len(answers)
    return (same - k) / (k * (k - 1))


def choose_alpha(
    head: heads.DisentangledNetwork, image: Tensor, class_texts: Sequence[Tensor], alphas: Sequence[float]
) -> float:
    """The strength at which wordings agree most on unlabelled images: the middle of those that are as good.

    A content feature does not care how the class is worded, and this can be seen without labels. Too small an
    alpha leaves the wordings apart; too large a one distorts the images, which training never saw. Between
    them agreement is flat, and its largest value a matter of chance: taken is the median of all candidates
    that fall short of the best by no more than one standard error of the difference, image by image.

    Args: as `agreement`, n >= 2; alphas: candidates. `head.alpha` is left as it was. Returns: one of alphas.
    Raises ValueError as `agreement`, for fewer than two images, and for no candidates or one that is not finite.
    """
    alphas, before, agreed = [float(alpha) for alpha in alphas], head.alpha, []
    if not alphas:
        raise ValueError("alphas must hold at least one candidate, got none")
    if not all(math.isfinite(alpha) for alpha in alphas):
        raise ValueError(f"alphas must be finite, got {alphas}")
    if len(image) < 2:
        raise ValueError(f"image must hold at least two images, for a standard error, got {len(image)}")
    alphas.sort()
    try:
        for head.alpha in alphas:
            agreed.append(agreement(head, image, class_texts))
    finally:
        head.alpha = before
    agreed = torch.stack(agreed)
    short = agreed[agreed.mean(1).argmax()] - agreed
    bar = short.std(1) / len(image) ** 0.5 + 1e-9  # one image lost is one standard error exactly: not up to rounding
    good = (short.mean(1) <= bar).nonzero()[:, 0]
    return alphas[int(good[len(good) // 2])]


def published() -> pd.DataFrame:
    """What the authors released of CLIP, Im.Aug and CLAP, ViT-B/16: accuracies in %, means over a benchmark's domains.

    Returns: a row for each (dataset, method). Columns C, CP, PC, NC: zero-shot, by prompt set; FGSM, PGD-20, CW-20:
    under attack, prompt set C; "1" to "32": linear probes, by shots.
    Source: result files of Cai et al. 2024 (arXiv 2311.16445).
    """
    read = lambda name: pd.read_csv(ASSETS / "published" / name, keep_default_na=False)  # "None" is an attack
    by, zero_shot = ["dataset", "method"], read("clap_zero_shot.csv").query("backbone == 'ViT-B/16'")
    clean = zero_shot["attack"] == "None"
    parts = [
        zero_shot[clean].groupby(by)[["C", "CP", "PC", "NC"]].mean(),
        zero_shot[~clean].pivot_table("C", by, "attack"),
        read("clap_few_shot.csv").pivot_table("accuracy", by, "shots").rename(columns=str),
    ]
    datasets, methods = ("PACS", "VLCS", "OfficeHome", "DomainNet"), ("CLIP", "Im.Aug", "CLAP")
    return pd.concat(parts, axis=1).loc[pd.MultiIndex.from_product([datasets, methods], names=by)]
