"""Articles by sound, templates, and the prompt sets' agreement with the world's own captions."""

import pytest
import torch

from clipbook import world
from clipbook.prompts import PROMPT_SETS, TEMPLATES, article, fill, styled, views


def test_articles_follow_the_sound():
    expected = [
        "an airplane",
        "an umbrella",
        "a cat",
        "an hourglass",
        "a horse",
        "a unicorn",
        "a union",
        "an unimportant act",
        "a uniform",
        "a ukulele",
        "a utensil",
        "a European robin",
        "a one-way sign",
        "an onion",
        "an x-ray",
        "an MP3 file",
        "an Alarm clock",
        "a ewer",
        "an honest mistake",
        "a used car",
        "an usher",
        "an heirloom",
        "a house",
    ]
    assert [article(phrase.split(" ", 1)[1]) for phrase in expected] == expected


def test_articles_agree_with_the_captions_the_model_was_trained_on():
    names = world.OBJECTS + world.NOVEL
    scenes = world.sample(len(names), object=torch.arange(len(names)))
    assert fill("a {}", names) == world.caption(scenes, "content")


def test_fill():
    names = ["airplane", "cat"]
    assert fill("{}", names) == names
    assert fill("a photo of a {}.", names) == ["a photo of an airplane.", "a photo of a cat."]
    assert fill("a(n) {}, red", names) == fill("an {}, red", names) == ["an airplane, red", "a cat, red"]
    assert fill("A {} here", names) == ["An airplane here", "A cat here"]
    assert fill("a photo of the {}", names)[0] == "a photo of the airplane"
    assert fill("a large {}", names)[0] == "a large airplane"  # the article belongs to "large"
    assert fill("banana {}", names)[0] == "banana airplane"  # the a of a word is no article
    assert fill("{} in a box", ["unit {x}"]) == ["unit {x} in a box"]  # a name is text, not a format


def test_prompt_sets_are_claps():
    assert {k: fill(v, ["airplane"])[0] for k, v in PROMPT_SETS.items()} == {
        "C": "airplane", "CP": "an airplane in a photo", "PC": "a photo of an airplane", "NC": "airplane",
    }  # fmt: skip
    prompts = [fill(template, ["airplane"])[0] for template in TEMPLATES]
    assert len(set(prompts)) == len(TEMPLATES)
    assert all("an airplane" in p for p in prompts)


def test_bad_input_names_the_argument():
    for call, message in [
        (lambda: fill("a photo", ["cat"]), r"template must have exactly one slot \{\}, got 'a photo'"),
        (lambda: fill("{} and {}", ["cat"]), "template must have exactly one slot"),
        (lambda: fill("a {}", "cat"), "classes must be a sequence of names, got the str 'cat'"),
        (lambda: fill("a {}", None), "classes must be a sequence of names, got None"),
        (lambda: fill("{}", ["cat", ""]), r"classes\[1\] must be a non-empty str, got ''"),
        (lambda: fill("{}", [3]), r"classes\[0\] must be a non-empty str, got 3"),
        (lambda: styled(" ", size="small"), "name must be a non-empty str, got ' '"),
        (lambda: views(None, 2), "name must be a non-empty str, got None"),
        (lambda: article(3), "noun must be a non-empty str, got 3"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
