"""From class names to sentences: templates, and the four prompt sets that the evaluations share."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping, Sequence

# CLAP's prompt sets (Cai et al. 2024, arXiv 2311.16445, sec. 5.1). NC is C with noise: embed it with
# `Backbone.embed_noised_texts`, the other three with `embed_texts`.
PROMPT_SETS = {"C": "{}", "CP": "a {} in a photo", "PC": "a photo of a {}", "NC": "{}"}

# A small general-purpose ensemble, in the manner of CLIP's 80 templates for ImageNet (Radford et al. 2021).
# Its words are those of captions on the web, which the shipped model has seen too.
TEMPLATES = (
    "a {}",
    "a picture of a {}",
    "an image of a {}",
    "a photo of a {}",
    "a painting of a {}",
    "a sketch of a {}",
    "a cartoon of a {}",
    "a sculpture of a {}",
)

# What CLAP's prompts say besides the class: 2 x 8 x 3 x 10 = 480 prompts for each (same source, table 1).
ATTRIBUTES = {
    "style": ("realistic", "impressionistic"),
    "type": ("painting", "sketch", "cartoon", "clipart", "photograph", "infograph", "mosaic art", "sculpture"),
    "size": ("large", "normal sized", "small"),
    "color": ("red", "blue", "green", "yellow", "purple", "orange", "black", "white", "brown", "multicolored"),
}
# How often an augmentation leaves a word out, and "swap": turns the sentence round. As released.
AUGMENTATIONS = {"size": 0.5, "color": 0.5, "swap": 0.5}

# Written with a vowel and spoken with a consonant, or the other way round.
_CONSONANT_SOUND = re.compile(r"(?i)(uni([^nm]|$)|use|usu|uten|util|uran|eu|ewe|one\b|once|ufo\b|ukulele)")
_VOWEL_SOUND = re.compile(r"(?i)(hour|honest|honou?r|heir|[fhlmnrsx]-|(mp3|x-?ray|suv|atm|led)\b)")
_SLOT = re.compile(r"(?i)(?P<article>\ba(?:n|\(n\))? )?\{\}")


def check_name(argument: str, name: str) -> None:
    """Raises ValueError unless name is a str with something in it."""
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"{argument} must be a non-empty str, got {name!r}")


def check_names(argument: str, names: Sequence[str]) -> None:
    """Raises ValueError unless names is a sequence of names, not a single str."""
    if isinstance(names, str) or not hasattr(names, "__len__"):
        raise ValueError(f"{argument} must be a sequence of names, got {'the str ' * isinstance(names, str)}{names!r}")
    for index, name in enumerate(names):
        check_name(f"{argument}[{index}]", name)


def article(noun: str) -> str:
    """A noun phrase with its indefinite article, by sound: "airplane" -> "an airplane", "cat" -> "a cat".

    Raises ValueError for an empty phrase.
    """
    check_name("noun", noun)
    vowel = (noun[0] in "aeiouAEIOU" and not _CONSONANT_SOUND.match(noun)) or bool(_VOWEL_SOUND.match(noun))
    return f"{'an' if vowel else 'a'} {noun}"


def fill(template: str, classes: Sequence[str]) -> list[str]:
    """One prompt per class.

    An article right before the slot ("a {}", "an {}", "a(n) {}") agrees with the class that fills it, so
    templates published with "a photo of a {}" do not become "a photo of a airplane" (as OpenAI's own do).

    Args:
        template: text with exactly one slot `{}`, such as "a photo of a {}".
        classes: names as words ("alarm clock", not "alarm_clock"); `ImageDataset.classes` are.

    Returns: list of len(classes) prompts. Raises ValueError unless the template has one slot, for an empty
    name, and for a single str in place of classes.
    """
    if not isinstance(template, str) or template.count("{}") != 1:
        raise ValueError(f"template must have exactly one slot {{}}, got {template!r}")
    check_names("classes", classes)

    def prompt(name: str) -> str:
        slot = _SLOT.search(template)
        text = article(name) if slot["article"] else name
        if slot["article"] and slot["article"][0] == "A":
            text = "A" + text[1:]
        return template[: slot.start()] + text + template[slot.end() :]

    return [prompt(name) for name in classes]


def styled(name: str, swap: bool = False, **words: str) -> str:
    """A prompt that names styles: "a realistic sketch of a small red cat", as many of them as are given.

    Args:
        name: the class.
        swap: the other way round, "a small red cat in realistic sketch style".
        words: of ATTRIBUTES: style, type, size, color.

    Raises ValueError for an empty name and for another attribute.
    """
    check_name("name", name)
    if unknown := set(words) - set(ATTRIBUTES):
        raise ValueError(f"words must be among {', '.join(ATTRIBUTES)}, got {', '.join(sorted(unknown))}")
    thing = article(" ".join([*(words[key] for key in ("size", "color") if key in words), name]))
    image = " ".join(words[key] for key in ("style", "type") if key in words)
    if not image:
        return thing
    return f"{thing} in {image} style" if swap else f"{article(image)} of {thing}"


def views(
    name: str, n: int, *, augmentations: Mapping[str, float] = AUGMENTATIONS, seed: int = 0
) -> tuple[list[str], list[str]]:
    """n prompts for a class, and each once more with some of its style edited away: CLAP's two views.

    Args:
        name: the class.
        n: at most the number of different prompts they are all different; beyond, they repeat.
        augmentations: chance, in [0, 1], that the second view leaves out an attribute ("style", "type",
            "size", "color"), or turns round ("swap"). What is not named happens never. Noise is not text:
            see `Backbone.embed_noised_texts`.
        seed: the same seed gives the same views.

    Returns: the prompts, the augmented prompts; n each, pair by pair. Raises ValueError for an empty name, n < 1,
    an unknown augmentation or a chance outside [0, 1].
    """
    check_name("name", name)
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a positive int, got {n!r}")
    if unknown := set(augmentations) - {*ATTRIBUTES, "swap"}:
        raise ValueError(f"augmentations must be among {', '.join(ATTRIBUTES)}, swap, got {', '.join(unknown)}")
    if not all(0 <= chance <= 1 for chance in augmentations.values()):
        raise ValueError(f"augmentations must have chances in [0, 1], got {dict(augmentations)}")
    draw = random.Random(f"{seed} {name}")
    every = list(itertools.product(*ATTRIBUTES.values()))
    picked = [combination for _ in range(-(-n // len(every))) for combination in draw.sample(every, len(every))][:n]
    prompts, augmented = [], []
    for combination in picked:
        words = dict(zip(ATTRIBUTES, combination))
        prompts.append(styled(name, **words))
        kept = {key: word for key, word in words.items() if draw.random() >= augmentations.get(key, 0.0)}
        augmented.append(styled(name, draw.random() < augmentations.get("swap", 0.0), **kept))
    return prompts, augmented
