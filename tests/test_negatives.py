"""Edits of scenes and sentences against each other, and mining against the plain search."""

import weakref

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from clipbook import negatives, world
from clipbook.losses import unit
from clipbook.negatives import KINDS, counterfactual, mine, swap


def pairs(n=300, seed=0, **fixed):
    scenes = world.sample(n, seed=seed, objects=2, **fixed)
    return scenes[scenes.color != scenes.color2]


def changed(before, after):
    return {name for name, value in vars(before).items() if not torch.equal(value, getattr(after, name))}


def test_counterfactuals_change_what_they_say_and_nothing_else():
    scenes = pairs()
    touched = {
        "swap_color": {"color", "color2"}, "swap_object": {"object", "object2"}, "reverse_relation": {"relation"},
        "replace_color": {"color"}, "replace_object": {"object"}, "replace_size": {"size"},
    }  # fmt: skip
    captions = world.caption(scenes)
    for kind in KINDS:
        wrong = counterfactual(scenes, kind)
        assert changed(scenes, wrong) == touched[kind]
        false = world.caption(wrong)
        assert all(a != b for a, b in zip(captions, false, strict=True)), "never its own negative"
        same_words = [sorted(a.split()) == sorted(b.split()) for a, b in zip(captions, false, strict=True)]
        if kind in ("swap_color", "swap_object"):
            assert sum(same_words) > 0.85 * len(scenes)  # but for a and an
            back = counterfactual(wrong, kind)
            assert changed(scenes, back) == set(), "twice is nothing"
        if kind == "reverse_relation":
            opposite = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
            for before, after in zip(scenes.relation.tolist(), wrong.relation.tolist(), strict=True):
                assert world.RELATIONS[after] == opposite[world.RELATIONS[before]]
        if kind.startswith("replace"):
            assert not any(same_words)
    # swapping everything that can be swapped is looking at the scene from the other object
    around = counterfactual(counterfactual(counterfactual(scenes, "swap_color"), "swap_object"), "reverse_relation")
    first, second = (
        {(o, c) for o, c in ((s.object[0].item(), s.color[0].item()), (s.object2[0].item(), s.color2[0].item()))}
        for s in (scenes, around)
    )
    assert first == second


def test_replacements_are_absent_from_the_scene_and_every_one_is_drawn():
    scenes = pairs(6000, seed=3)
    color = counterfactual(scenes, "replace_color").color
    assert not ((color == scenes.color) | (color == scenes.color2)).any()
    obj = counterfactual(scenes, "replace_object").object
    assert not ((obj == scenes.object) | (obj == scenes.object2)).any()
    assert obj.unique().tolist() == list(range(len(world.OBJECTS))), "a known object stays a known one"
    rates = color.bincount(minlength=10) / len(color)
    assert rates.min() > 0.08 and rates.max() < 0.12
    new = counterfactual(world.sample(500, novel=True), "replace_object")
    assert new.object.min() >= len(world.OBJECTS)
    assert torch.equal(
        counterfactual(scenes, "replace_size", seed=4).size, counterfactual(scenes, "replace_size", seed=4).size
    )


def test_the_grammar_agrees_with_the_world():
    scenes = pairs()
    captions = world.caption(scenes)
    assert swap(captions, "adjective") == world.caption(counterfactual(scenes, "swap_color"))
    assert swap(captions, "noun") == world.caption(counterfactual(scenes, "swap_object"))


@pytest.mark.parametrize(
    ("what", "caption", "expected"),
    [
        ("adjective", "A red cat on a blue mat.", "A blue cat on a red mat."),
        ("noun", "A red cat on a blue mat.", "A red mat on a blue cat."),
        ("adjective", "an orange balloon above a green umbrella", "a green balloon above an orange umbrella"),
        ("adjective", "a small red cat near a large blue dog in a red house", None),  # checked below: more than one way
        ("noun", "the dog chases the cat", "the cat chases the dog"),
        ("noun", "a man riding a horse", "a horse riding a man"),
        ("noun", "a painting of a cat on a mat", "a painting of a mat on a cat"),
        ("noun", "A bowl of fruit next to a glass of milk", "A bowl of milk next to a glass of fruit"),
        ("adjective", "two dogs and a cat", None),
        ("noun", "two dogs and a cat", None),
        ("any", "a cat", None),
        ("any", "", None),
        ("any", "running", None),
        ("any", "a cat and a cat", None),
        ("any", "a cat and a dog", None),  # the same scene
        ("any", "a red cat and a blue cat", None),  # the same scene
        ("noun", "a red cat and a blue dog", "a red dog and a blue cat"),
        ("adjective", "a red cat and a blue dog", "a blue cat and a red dog"),
        ("adjective", "a big cat on a blue mat", None),  # a size is no colour
        ("adjective", "the grass is green and the sky is blue", None),
        ("noun", "the dog runs near the fence", None),  # runs: a verb, or several? refused
        ("noun", "a red car, parked by a white house", "a red house, parked by a white car"),
        ("any", "a cat next to a dog", None),  # true the other way round as well
        ("any", "a cat near a dog", None),
        ("any", "a cat with a dog", None),
        ("any", "a cat together with a dog", None),
        ("any", "A red cat beside a green cat", None),
        ("any", "a cat, a dog and a bird", None),
        ("any", "a photo of a cat and a photo of a dog", None),
        ("noun", "a red cat near a blue dog", "a red dog near a blue cat"),
        ("adjective", "a red cat near a blue dog", "a blue cat near a red dog"),
        ("noun", "a small cat above a dog next to a small bird", None),  # checked below: more than one way
        (
            "noun",
            "a painting of a red cat and a painting of a blue dog",
            "a painting of a red dog and a painting of a blue cat",
        ),
        ("noun", "the man who is tall and the woman who is short", "the woman who is tall and the man who is short"),
        ("any", "two men are playing tennis on a clay court", None),
        ("any", "a bowl of fruit on a table", None),  # not "a bowl of table on a fruit"
        ("noun", "a man riding horses by a barn", "a barn riding horses by a man"),
        ("noun", "a swimming pool behind a house", "a house behind a swimming pool"),
    ],
)
def test_the_grammar_swaps_what_it_understands_and_refuses_the_rest(what, caption, expected):
    (found,) = swap([caption], what)
    if "in a red house" in caption or "small bird" in caption:
        ways = {swap([caption], what, seed=seed)[0] for seed in range(20)}
        assert len(ways) > 1 and caption not in ways
        assert all(sorted(way.split()) == sorted(caption.split()) for way in ways)
    else:
        assert found == expected


def test_two_sides_that_change_places_are_no_swap():
    caption = "a cat on a mat and a dog on a mat"
    ways = {swap([caption], seed=seed)[0] for seed in range(30)}
    assert ways and not ways & {None, caption, "a dog on a mat and a cat on a mat"}


def test_captions_may_come_from_a_generator():
    captions = ["a red cat on a blue mat", "a cat"]
    assert swap(c for c in captions) == swap(captions) == swap(tuple(captions))
    assert swap([]) == []


def test_a_swap_is_never_the_caption_and_follows_from_the_seed():
    scenes = world.sample(800, seed=5, objects=2)  # colours may be the same, words may be missing
    for template in ("full", "web", "content"):
        captions = world.caption(scenes, template)
        for what in ("adjective", "noun", "any"):
            found = swap(captions, what, seed=1)
            assert len(found) == len(captions)
            assert all(a is None or a.lower() != b.lower() for a, b in zip(found, captions, strict=True))
            assert found == swap(captions, what, seed=1)
        if template == "content":
            assert found == [None] * len(captions), "two objects and nothing else: either order means the same"


@pytest.mark.parametrize(("m", "k", "chunk"), [(50, 3, 1000), (50, 50, 7), (30_003, 5, 4000), (30_003, 5, 10**6)])
def test_mining_is_the_plain_search(monkeypatch, m, k, chunk):
    monkeypatch.setattr(negatives, "_CHUNK", chunk)
    monkeypatch.setattr(negatives, "_ROWS", 6)
    g = torch.Generator().manual_seed(m)
    queries, items = torch.randn(13, 8, generator=g), torch.randn(m, 8, generator=g)
    cosine = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(items, dim=1).T
    value, index = mine(queries, items, k)
    best = cosine.topk(k, 1)
    assert torch.allclose(value, best.values, atol=1e-6)
    assert torch.allclose(cosine.gather(1, index), best.values, atol=1e-6)
    assert all(len(set(row)) == k for row in index.tolist())
    if k < m:
        skip = best.indices[:, 0]
        value, index = mine(queries, items, k, skip=skip)
        assert not (index == skip[:, None]).any()
        assert torch.allclose(value, cosine.scatter(1, skip[:, None], -2).topk(k, 1).values, atol=1e-6)


def test_mining_is_exact_where_half_precision_cannot_tell(monkeypatch):
    monkeypatch.setattr(negatives, "_FAST_HALF", True)  # as on a processor with native bfloat16
    g = torch.Generator().manual_seed(0)
    items = torch.cat([torch.randn(1, 16, generator=g) + 1e-3 * torch.randn(3000, 16, generator=g) for _ in range(3)])
    queries = items[::700] + 1e-3 * torch.randn(len(items[::700]), 16, generator=g)
    queries, items = unit(queries.double()), unit(items.double())
    cosine = queries @ items.T
    _, index = mine(queries, items, 7)
    assert torch.equal(index, cosine.topk(7, 1).indices)


@pytest.mark.parametrize("order", ["random", "rising", "falling"])
@pytest.mark.parametrize("half", [True, False])
def test_mining_is_exact_across_chunks_in_any_order(monkeypatch, order, half):
    """Later chunks keep only what beats the best so far: none of them, all of them, a few."""
    monkeypatch.setattr(negatives, "_CHUNK", 8192)
    monkeypatch.setattr(negatives, "_FAST_HALF", half)
    g = torch.Generator().manual_seed(1)
    queries, items = torch.randn(9, 8, generator=g), torch.randn(30_003, 8, generator=g)
    if order != "random":
        queries = queries[:1] + 0.1 * queries
        rank = (unit(items) @ unit(queries)[0]).argsort(descending=order == "falling")
        items = items[rank]
    best = (unit(queries) @ unit(items).T).topk(20, 1)
    value, index = mine(queries, items, 20)
    assert torch.allclose(value, best.values, atol=1e-6)
    assert (index == best.indices).double().mean() > 0.95  # but for ties in the last digit


class Peak(TorchDispatchMode):
    """Bytes of all tensors that operations have made and somebody still holds, at their most."""

    def __init__(self, *given):
        super().__init__()
        self.given, self.held, self.most = {z.untyped_storage().data_ptr() for z in given}, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for z in out if isinstance(out, tuple | list) else [out]:
            if isinstance(z, torch.Tensor) and z.untyped_storage().data_ptr() not in self.given:
                at = z.untyped_storage().data_ptr()
                size, holders = self.held.get(at, (0, 0))
                self.held[at] = max(size, z.untyped_storage().nbytes()), holders + 1
                weakref.finalize(z, self.let_go, at)
        self.most = max(self.most, sum(size for size, _ in self.held.values()))
        return out

    def let_go(self, at):
        size, holders = self.held.pop(at)
        if holders > 1:
            self.held[at] = size, holders - 1


@pytest.mark.parametrize("half", [True, False])
def test_memory_does_not_grow_with_the_number_of_items(monkeypatch, half):
    monkeypatch.setattr(negatives, "_CHUNK", 8192)
    monkeypatch.setattr(negatives, "_FAST_HALF", half)
    g, most = torch.Generator().manual_seed(0), []
    queries = torch.randn(40, 32, generator=g)
    for m in (20_000, 160_000):
        items = torch.randn(m, 32, generator=g)
        with Peak(queries, items) as peak:
            mine(queries, items, 5, skip=torch.arange(40))
        most.append(peak.most)
    assert most[1] < 1.1 * most[0], most
    assert most[1] < items.nbytes / 2, "and not a copy of them"


def test_bad_input_names_the_argument():
    one, two = world.sample(5), world.sample(40, objects=2, color=3)
    alike = two.edit(object2=two.object, color2=4)
    x = torch.randn(4, 3)
    cases = [
        (lambda: counterfactual(one, "swap_color"), "swap_color needs scenes of two objects"),
        (lambda: counterfactual(two.edit(color2=3), "swap_color"), "40 of 40 scenes have one, the first in row 0"),
        (lambda: counterfactual(one, "swap"), "kind must be one of swap_color"),
        (lambda: counterfactual([1], "swap_color"), "scenes must be Scenes, as from world.sample, got list"),
        (lambda: counterfactual(two, "replace_size", seed="a"), "seed must be an int, got 'a'"),
        (lambda: counterfactual(alike, "swap_object"), "swap_object needs two objects, but 40 of 40 scenes"),
        (lambda: counterfactual(alike.edit(color2=3), "reverse_relation"), "reverse_relation needs two objects or two"),
        (lambda: swap(None), "captions must be a list of strings, got None"),
        (lambda: swap(["a cat"], seed=None), "seed must be an int, got None"),
        (lambda: mine(x.double(), x, 1), "queries and items must be of one precision"),
        (lambda: mine(x, [1], 1), "items must be a floating-point tensor"),
        (lambda: mine(x, x, 1, skip=[0, 1, 2, 3]), r"skip must be int64 \(4,\), got list"),
        (lambda: mine(x, x, 1, skip=torch.tensor([0, 1, 2, 99])), r"skip must be in 0\.\.3, got 0\.\.99"),
        (lambda: mine(x, x, 1, skip=torch.tensor([0, 1, 2, -1])), r"skip must be in 0\.\.3, got -1\.\.2"),
        (lambda: swap("a cat"), "captions must be a list of strings, got 'a cat'"),
        (lambda: swap(["a cat", None]), "captions must be a list of strings"),
        (lambda: swap(["a cat"], "verb"), "what must be 'adjective', 'noun' or 'any', got 'verb'"),
        (lambda: mine(x, x[:, :2], 1), "queries and items must have matching widths"),
        (lambda: mine(x, x, 5), r"k must be an int in 1\.\.4, got 5"),
        (lambda: mine(x, x, 4, skip=torch.arange(4)), r"k must be an int in 1\.\.3"),
        (lambda: mine(x, x, 1, skip=torch.arange(3)), r"skip must be int64 \(4,\)"),
        (lambda: mine(x, x / 0, 1), "items must be finite"),
    ]
    for call, message in cases:
        with pytest.raises(ValueError, match=message):
            call()
