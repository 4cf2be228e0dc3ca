"""The recipe of the shipped weights: resumable, a function of its seed, and as good as its card says."""

import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from clipbook import backbones, evaluate, geometry, pretrain, prompts, world

TINY = replace(pretrain.RECIPES["glyph"], steps=6, batch_size=16, warmup=2)


def test_killed_training_resumes_to_the_same_weights(tmp_path):
    """Train 6 steps at a stretch; train again, killed after the first checkpoint; the weights agree."""
    pretrain.train(TINY, tmp_path / "whole", device="cpu", checkpoint_every=2)
    code = (
        "import sys, pathlib; from dataclasses import replace; from clipbook import pretrain as p;"
        "r = replace(p.RECIPES['glyph'], steps=6, batch_size=16, warmup=2);"
        "p.train(r, pathlib.Path(sys.argv[1]), device='cpu', checkpoint_every=2)"
    )
    folder = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)], stderr=subprocess.DEVNULL)
    while not (folder / "checkpoint.pt").exists() and process.poll() is None:
        time.sleep(0.02)
    process.kill()
    process.wait()
    pretrain.train(TINY, folder, device="cpu", checkpoint_every=2)
    whole, resumed = (load_file(tmp_path / k / "open_clip_model.safetensors") for k in ("whole", "killed"))
    for key in whole:
        assert torch.allclose(whole[key].float(), resumed[key].float(), atol=2e-3), key
    assert backbones.load(f"local-dir:{folder}", "cpu").dim == 128
    with pytest.raises(ValueError, match="written by another recipe"):
        pretrain.train(replace(TINY, steps=8), folder, device="cpu")


def test_batches_follow_from_seed_and_step():
    images, captions, false = pretrain.batch(TINY, 3)
    again, same, _ = pretrain.batch(TINY, 3)
    assert torch.equal(images, again) and captions == same and images.shape == (16, 3, 64, 64) and not false
    assert pretrain.batch(TINY, 4)[1] != captions
    assert not {word for text in captions for word in text.split()} & set(world.NOVEL)


def test_trained_on_alike_but_for_false_captions_or_twins():
    plain, false, twins = (
        replace(pretrain.RECIPES[f"glyph-{k}"], batch_size=96) for k in ("plain", "negatives", "twins")
    )
    images, captions, none = pretrain.batch(plain, 5)
    same, as_well, wrong = pretrain.batch(false, 5)
    assert torch.equal(images, same) and captions == as_well and not none, "the control sees the same scenes"
    assert len(wrong) == 64 and not set(wrong) & set(captions)
    words = lambda text: sorted(word for word in text.split() if word not in ("a", "an"))
    of_a_scene = {tuple(words(text)) for text in captions[-64:]}
    swapped = [text for text in wrong if tuple(words(text)) in of_a_scene]
    assert len(swapped) > len(wrong) / 2, "swaps keep the words; a relation changes one"
    drawn, told, none = pretrain.batch(twins, 5)
    assert len(drawn) == len(told) == 96 and not none and told[:64] == captions[:64]
    assert sorted(wrong[:11]) == sorted(told[64:75]), "what is a false caption there is a twin's true one here"
    both = replace(pretrain.RECIPES["glyph-both"], batch_size=96)
    _, told, wrong = pretrain.batch(both, 5)
    assert len(wrong) == 64 and told[64:75] == pretrain.batch(twins, 5)[1][64:75]
    assert not set(wrong) & set(told), "a false caption is not true of the other twin"
    rare = pretrain.batch(replace(twins, twinned=0.05), 5)[1]
    assert rare[:93] == captions[:93] and rare[93:] != captions[93:]
    ones = [{word for word in text.replace(",", "").split() if word in world.OBJECTS} for text in captions[-64:]]
    held = [sum(map(world.OBJECTS.index, two)) % 5 == 0 for two in ones if len(two) == 2]
    assert held and not any(held), "some pairs of objects are kept for the test"


def test_training_continues_a_shipped_model(tmp_path):
    recipe = replace(pretrain.RECIPES["glyph-negatives"], steps=1, batch_size=16, learning_rate=0.0)
    facts = pretrain.train(recipe, tmp_path, device="cpu")
    ours, theirs = (backbones.load(name, "cpu").model.state_dict() for name in (f"local-dir:{tmp_path}", "glyph"))
    for key in theirs:  # a step of no size: the shipped weights, but for what batch normalisation counts
        if "running" not in key and "num_batches" not in key:
            assert torch.allclose(ours[key], theirs[key], atol=1e-3), key
    assert set(facts["history"][-1]) >= {"swap_color", "swap_object", "reverse_relation", "accuracy"}


def test_the_card_is_true():
    """Scores of the card on other seeds than its own: within four standard errors of so many scenes."""
    card = pretrain.card("glyph")
    backbone = backbones.load("glyph", "cpu")
    again = pretrain.score(backbone, card["recipe"]["correlation"], seeds=(91,), n=1600)
    for key in ("correlated", "decorrelated", "C", "CP", "PC", "NC", "binding_color"):
        assert abs(again[key] - card["scores"][key]) < 0.05, (key, again[key], card["scores"][key])
    assert abs(again["gap"] - card["scores"]["gap"]) < 0.02
    assert [row["step"] for row in card["history"]][-1] == card["recipe"]["steps"]
    with pytest.raises(ValueError, match="shipped models are glyph, glyph-fair"):
        pretrain.card("nothing")


@pytest.mark.parametrize("seed", [501, 502, 503])
def test_able_and_entangled(seed):
    """What the book needs of its default model, on scenes that neither training nor tuning has seen: it knows
    the objects, leans on style, binds colours like a bag of words, and has a modality gap."""
    backbone = backbones.load("glyph", "cpu")
    correlation = pretrain.card("glyph")["recipe"]["correlation"]
    scores = pretrain.score(backbone, correlation, seeds=(seed,), n=2000)
    assert scores["correlated"] >= 0.88
    assert 0.60 <= scores["decorrelated"] <= 0.80 and scores["decorrelated"] <= scores["correlated"] - 0.10
    assert scores["worst_medium"] >= 0.36
    assert 0.45 <= scores["binding_color"] <= 0.70
    assert scores["gap"] >= 0.15
    prompt_sets = [scores[name] for name in ("C", "CP", "PC", "NC")]
    assert max(prompt_sets) - min(prompt_sets) > 0.01


def test_the_control_leans_on_nothing():
    """glyph-fair differs from glyph in its correlation alone, and knows objects whatever they look like."""
    card, fair = pretrain.card("glyph"), pretrain.card("glyph-fair")
    assert fair["recipe"] == card["recipe"] | {"correlation": 0.0}
    for name in ("glyph", "glyph-fair"):  # cards tell the fields that a recipe had when they were written
        assert pretrain.card(name)["recipe"].items() <= vars(pretrain.RECIPES[name]).items()
    scores = pretrain.score(backbones.load("glyph-fair", "cpu"), 0.75, seeds=(504,), n=2000)
    assert scores["worst_medium"] >= 0.85 and abs(scores["decorrelated"] - scores["correlated"]) < 0.03


def test_novel_objects_are_novel():
    """Among the novel classes the model is near chance: whatever it knows was not trained."""
    backbone = backbones.load("glyph", "cpu")
    scenes = world.sample(600, seed=1, novel=True)
    text = backbone.embed_texts(prompts.fill("a picture of a {}", world.NOVEL))
    accuracy = evaluate.zero_shot(backbone.embed_images(world.render(scenes)), text, scenes.object - len(world.OBJECTS))
    assert accuracy < 0.25
    assert geometry.modality_gap(backbone.embed_images(world.render(scenes)), text) > 0.1
