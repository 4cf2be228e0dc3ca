"""From class names to sentences: templates, and the four prompt sets that the evaluations share."""

from __future__ import annotations

import re
from collections.abc import Sequence

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

# Written with a vowel and spoken with a consonant, or the other way round.
_CONSONANT_SOUND = re.compile(r"(?i)(uni([^nm]|$)|use|usu|uten|util|uran|eu|ewe|one\b|once|ufo\b|ukulele)")
_VOWEL_SOUND = re.compile(r"(?i)(hour|honest|honou?r|heir|[fhlmnrsx]-|(mp3|x-?ray|suv|atm|led)\b)")
_SLOT = re.compile(r"(?i)(?P<article>\ba(?:n|\(n\))? )?\{\}")


def article(noun: str) -> str:
    """A noun phrase with its indefinite article, by sound: "airplane" -> "an airplane", "cat" -> "a cat".

    Raises ValueError for an empty phrase.
    """
    if not isinstance(noun, str) or not noun.strip():
        raise ValueError(f"noun must be a non-empty str, got {noun!r}")
    vowel = (noun[0] in "aeiouAEIOU" and not _CONSONANT_SOUND.match(noun)) or bool(_VOWEL_SOUND.match(noun))
    return f"{'an' if vowel else 'a'} {noun}"


def fill(template: str, classes: Sequence[str]) -> list[str]:
    """One prompt per class.

    An article right before the slot ("a {}", "an {}", "a(n) {}") agrees with the class that fills it, so
    templates published with "a photo of a {}" do not become "a photo of a airplane" (as OpenAI's own do).

    Args:
        template: text with exactly one slot `{}`, such as "a photo of a {}".
        classes: names as words ("alarm clock", not "alarm_clock"); `ImageDataset.classes` are.

    Returns: list of len(classes) prompts. Raises ValueError unless the template has one slot, and for a
    single str in place of classes.
    """
    if not isinstance(template, str) or template.count("{}") != 1:
        raise ValueError(f"template must have exactly one slot {{}}, got {template!r}")
    if isinstance(classes, str):
        raise ValueError(f"classes must be a sequence of names, got the str {classes!r}")

    def prompt(name: str) -> str:
        slot = _SLOT.search(template)
        text = article(name) if slot["article"] else name
        if slot["article"] and slot["article"][0] == "A":
            text = "A" + text[1:]
        return template[: slot.start()] + text + template[slot.end() :]

    return [prompt(name) for name in classes]
