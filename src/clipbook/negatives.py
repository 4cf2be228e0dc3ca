"""Sentences and scenes that are almost right, and the search for hard ones.

Reading order: `counterfactual` edits a scene whose causes are known, and with it picture and caption; `swap` edits
any English caption that a small grammar understands; `mine` finds each item's nearest others among many.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from clipbook import world
from clipbook.losses import check_features, unit
from clipbook.world import Scenes

KINDS = ("swap_color", "swap_object", "reverse_relation", "replace_color", "replace_object", "replace_size")

# Of mining: queries and items at a time, items whose products are in the processor's cache, items in a group, and
# whether the processor multiplies half precision natively.
_ROWS, _CHUNK, _TILE, _GROUP = 128, 1 << 17, 4096, 16
_FAST_HALF = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())


def counterfactual(scenes: Scenes, kind: str, *, seed: int = 0) -> Scenes:
    """The same scenes with one thing wrong: what a model that counts words cannot see, and what it can.

    Args:
        scenes: as from `world.sample`; of two objects for the first three kinds.
        kind: one of KINDS.
            "swap_color"        the two objects exchange their colours: the same words in another order
            "swap_object"       they exchange their places: the same words in another order
            "reverse_relation"  left of becomes right of, above becomes below
            "replace_color"     the first object takes a colour that is not in the scene
            "replace_object"    the first object becomes one that is not in the scene
            "replace_size"      the scene takes another size
        seed: of what replaces.

    Returns: Scenes, every other cause and all nuisance kept; render and caption them as ever. Raises ValueError for
    another kind, scenes of one object where two are needed, and two objects of one colour to swap.
    Defined in {ref}`bag-of-words`.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    two = scenes.relation >= 0
    if kind in KINDS[:3] and not bool(two.all()):
        raise ValueError(f"{kind} needs scenes of two objects; sample with objects=2")
    if kind == "swap_color":
        same = (scenes.color == scenes.color2).nonzero()
        if len(same):
            raise ValueError(
                f"swap_color needs two colours, but {len(same)} of {len(scenes)} scenes have one, the first in row "
                f"{int(same[0])}; keep scenes[scenes.color != scenes.color2]"
            )
        return scenes.edit(color=scenes.color2, color2=scenes.color)
    if kind == "swap_object":
        return scenes.edit(object=scenes.object2, object2=scenes.object)
    if kind == "reverse_relation":
        return scenes.edit(relation=scenes.relation ^ 1)  # RELATIONS come in opposite pairs
    factor = kind.removeprefix("replace_")
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(len(scenes), generator=generator).to(scenes.seed.device)
    return scenes.edit(**{factor: _other(scenes, factor, chance)})


def _other(scenes: Scenes, factor: str, chance: Tensor) -> Tensor:
    """A value of a factor that the scene does not have, each as likely; a known object stays a known one."""
    known = len({"object": world.OBJECTS, "color": world.COLORS, "size": world.SIZES}[factor])
    taken = [getattr(scenes, factor)]
    if factor != "size":
        taken.append(getattr(scenes, f"{factor}2"))
    first, count = torch.zeros_like(taken[0]), torch.full_like(taken[0], known)
    if factor == "object":
        novel = taken[0] >= known
        first, count = novel * known, torch.where(novel, len(world.NOVEL), known)
    allowed = torch.arange(known + len(world.NOVEL), device=chance.device)
    allowed = (allowed >= first[:, None]) & (allowed < (first + count)[:, None])
    for values in taken:
        allowed[values >= 0] &= ~torch.nn.functional.one_hot(values[values >= 0], allowed.shape[1]).bool()
    rank = (chance * allowed.sum(1)).long()  # the rank-th of those that are left
    return (allowed.cumsum(1) == rank[:, None] + 1).int().argmax(1)


# ------------------------------------------------------------------------------------- any English caption

# Closed classes: what opens a noun phrase, and what ends one (prepositions, conjunctions, pronouns, auxiliaries,
# and what says where).
_CLOSED = {
    "determiner": "a an the this that these those his her its their my our your some any every each no another both "
    "one two three four five six seven eight nine ten several many",
    "between": "of in on at by with from to into onto over under above below behind beside between near next against "
    "across along around through inside outside beneath beyond during for without within upon off up down out left "
    "right front top bottom and or but while as than then there here not who which whose where when is are was were be "
    "being been am has have had do does did can could will would shall should may might must it he she they we you i "
    "him them us me very",
}
# An adjective changes places with one of its own kind: colours with colours, not with sizes.
_ADJECTIVES = {
    "color": "red blue green yellow purple orange black white brown grey gray pink golden silver multicolored colorful "
    "dark bright",
    "size": "large small big little tiny huge tall short long wide narrow thick thin normal sized normal-sized "
    "medium-sized fat heavy light",
    "age": "old young new ancient modern",
    "shape": "round square flat curved straight",
    "material": "wooden metal metallic plastic glass brick leather paper cotton stone",
    "surface": "furry fluffy wet dry clean dirty shiny striped spotted soft hard smooth rough transparent",
    "state": "empty full open closed broken hot cold happy sad angry sleeping beautiful ugly wild pretty",
    "style": "realistic impressionistic",
}
_CLASS = {word: name for name, words in _CLOSED.items() for word in words.split()}
_KIND = {word: kind for kind, words in _ADJECTIVES.items() for word in words.split()}
_NOUNS_IN_ING = {"king", "ring", "string", "spring", "wing", "building", "ceiling", "painting", "drawing", "thing"}


def swap(captions: Sequence[str], what: str = "any", *, seed: int = 0) -> list[str | None]:
    """Each caption with two of its adjectives, or two of its nouns, exchanged: the same words, another scene.

    "A red cat on a blue mat" becomes "a blue cat on a red mat" or "a red mat on a blue cat". A small grammar finds
    noun phrases between function words; it has a list of adjectives, but no dictionary, and refuses what it does not
    understand rather than write nonsense.

    Args:
        captions: any English sentences.
        what: "adjective" (of one kind: two colours, two sizes), "noun", or "any": one of the two, at random where
            both can be done.
        seed: of that choice, and of which two words where there are more.

    Returns: one for each caption: the changed caption, never equal to it, or None where nothing can be exchanged:
    fewer than two noun phrases, the same word in both, one plural and one singular, or no change of meaning ("a cat
    and a dog"). Raises ValueError for something
    that is not a list of strings, or another `what`.
    Source: after Yuksekgonul et al. 2023 (arXiv 2210.01936), which uses a parser. Defined in {ref}`negative-captions`.
    """
    if isinstance(captions, str) or not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"captions must be a list of strings, got {captions!r:.60}")
    if what not in ("adjective", "noun", "any"):
        raise ValueError(f"what must be 'adjective', 'noun' or 'any', got {what!r}")
    return [_swap(caption, what, random.Random(f"{seed} {caption}")) for caption in captions]


def _swap(caption: str, what: str, chance: random.Random) -> str | None:
    words = re.findall(r"[\w'-]+|[^\w\s]|\s+", caption)
    text = lambda span: "".join(words[span]).lower()
    found = {"adjective": [], "noun": []}
    phrases = _phrases(words)
    for number, a in enumerate(phrases):
        for b in phrases[number + 1 :]:
            # "a red cat and a blue cat" means the same the other way round
            joined = {word.lower() for word in words[a.noun.stop : b.start] if not word.isspace()}
            joined = {word for word in joined if _CLASS.get(word) != "determiner"} <= {"and", "or", ","}
            same = {
                kind
                for kind in a.adjectives.keys() & b.adjectives
                if text(a.adjectives[kind]) == text(b.adjectives[kind])
            }
            differ = (a.adjectives.keys() | b.adjectives) - same
            for kind in a.adjectives.keys() & b.adjectives:
                if not (joined and differ == {kind} and text(a.noun) == text(b.noun)):
                    found["adjective"].append((a.adjectives[kind], b.adjectives[kind]))
            if a.plural == b.plural and not (a.of or b.of) and not (joined and not differ):
                found["noun"].append((a.noun, b.noun))
    kinds = ["adjective", "noun"] if what == "any" else [what]
    chance.shuffle(kinds)
    for kind in kinds:
        pairs = [(one, other) for one, other in found[kind] if text(one) != text(other)]
        if pairs:
            one, other = chance.choice(pairs)
            parts = words[: one.start], words[other], words[one.stop : other.start], words[one], words[other.stop :]
            changed = _articles("".join(word for part in parts for word in part), caption)
            return changed if changed.lower() != caption.lower() else None
    return None


@dataclass(frozen=True)
class _Phrase:
    """A noun phrase: where its words stand. adjectives: kind -> slice; of: "of" follows, as in "a photo of"."""

    start: int
    adjectives: dict[str, slice]
    noun: slice
    plural: bool
    of: bool


def _phrases(words: list[str]) -> list[_Phrase]:
    content = lambda i: i < len(words) and words[i][0].isalpha() and words[i].lower() not in _CLASS
    plural = lambda word: word.endswith("s") and not word.endswith(("ss", "us", "is"))
    found, at = [], 0
    while at < len(words):
        if not content(at):
            at += 1
            continue
        run = [at]
        while run[-1] + 2 < len(words) and words[run[-1] + 1].isspace() and content(run[-1] + 2):
            run.append(run[-1] + 2)
        at = run[-1] + 1
        before = next((w.lower() for w in reversed(words[: run[0]]) if not w.isspace()), "")
        after = next((w.lower() for w in words[at:] if not w.isspace()), "")
        last = words[run[-1]].lower()
        verb = last.endswith(("ing", "ed")) and last not in _NOUNS_IN_ING and last not in _KIND
        if verb or (len(run) > 1 and _CLASS.get(after) == "determiner"):
            run.pop()  # "a dog chasing a cat", "the dog saw a cat": the last word is the verb
        elif len(run) > 1 and plural(last):
            if before in ("a", "an", "one", "another", "each", "every"):
                run.pop()  # "a dog runs": what follows "a" is no plural
            elif words[run[-2]].lower() not in _KIND:
                continue  # "the dog runs", or "the dog toys"? Not for us to say
        kinds = [_KIND.get(words[i].lower()) for i in run]
        if None not in kinds:
            continue  # adjectives and no noun: "the grass is green"; or a verb alone
        split, adjectives = kinds.index(None), {}
        for i, kind in zip(run[:split], kinds, strict=False):  # "normal sized" is one adjective in two words
            adjectives[kind] = slice(adjectives[kind].start if kind in adjectives else i, i + 1)
        noun = slice(run[split], run[-1] + 1)
        found.append(_Phrase(run[0], adjectives, noun, plural(words[run[-1]].lower()), after == "of"))
    return found


def _articles(changed: str, caption: str) -> str:
    """a and an set right, and the first letter as large as it was."""
    right = lambda match: match[1][0] + ("n " if match[2][0].lower() in "aeiou" else " ") + match[2]
    changed = re.sub(r"\b([Aa]n?) (\w+)", right, changed)
    return changed[:1].upper() + changed[1:] if caption[:1].isupper() else changed


# ------------------------------------------------------------------------------------------------ mining


@torch.no_grad()
def mine(queries: Tensor, items: Tensor, k: int, *, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k items nearest in angle to each query, exactly, with memory that does not grow with their number.

    Args:
        queries: (n, d); items: (m, d); normalised here.
        k: how many, in 1..m (m - 1 with `skip`).
        skip: int64 (n,): for each query one item that is left out, say its own match.

    Returns: cosines (n, k), descending, and rows of items, int64 (n, k). Raises ValueError for mismatched widths,
    non-finite features, k out of range. Defined in {ref}`weighing-negatives`.
    """
    check_features(1, False, queries=queries, items=items)
    most = len(items) - (skip is not None)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ValueError(f"k must be an int in 1..{most}, got {k!r}")
    if skip is not None and (skip.dtype != torch.int64 or skip.shape != (len(queries),)):
        raise ValueError(f"skip must be int64 ({len(queries)},), got {skip.dtype} {tuple(skip.shape)}")
    x, y, extra = unit(queries), unit(items), skip is not None
    value = x.new_empty(len(x), 0)
    index = torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    for first in range(0, len(y), _CHUNK):
        top, at = _nearest(x, y[first : first + _CHUNK], k + extra)
        value, index = torch.cat([value, top], 1), torch.cat([index, at + first], 1)
        if extra:
            value = value.masked_fill(index == skip.to(x.device)[:, None], -torch.inf)
        value, order = value.topk(min(k, value.shape[1]), 1)
        index = index.gather(1, order)
    return value, index


def _nearest(x: Tensor, y: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of x @ y.T in each row (all, if there are fewer), descending, and their columns."""
    whole = len(y) // _TILE * _TILE
    if whole < 4 * _GROUP * k:
        whole = 0
    rest = [(block @ y[whole:].T).topk(min(k, len(y) - whole), 1) for block in x.split(_ROWS)]
    value, index = torch.cat([r.values for r in rest]), torch.cat([r.indices for r in rest]) + whole
    if not whole:
        return value, index
    fast = torch.bfloat16 if x.is_cuda or _FAST_HALF else x.dtype
    top, at, sure = _screened(x, y[:whole], k, fast)
    if fast != x.dtype and not bool(sure.all()):
        top[~sure], at[~sure], _ = _screened(x[~sure], y[:whole], k, x.dtype)
    value, order = torch.cat([top, value], 1).topk(k, 1)
    return value, torch.cat([at, index], 1).gather(1, order)


def _screened(x: Tensor, y: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest among 2k that a product in `dtype` proposes, their columns, and whether they must be the largest.

    x and y are unit vectors. The 2k lie in the 2k groups with the largest maxima: nothing else is sorted. They are
    scored again in full. Rounding moves a unit vector by at most half of `eps`, and a product of two by twice that
    (Cauchy-Schwarz) and its own rounding: a row is sure where not even that brings what was not proposed among its k.
    """
    low, stride = y.to(dtype), _TILE // _GROUP  # a group is every stride-th item of a tile
    member = stride * torch.arange(_GROUP, device=x.device)
    tiles, found = low.split(_TILE), []
    scores = low.new_empty(len(tiles), min(_ROWS, len(x)), _TILE)
    for block in x.split(_ROWS):
        rounded, score, maxima = block.to(dtype), scores[:, : len(block)], []
        for products, tile in zip(score, tiles, strict=True):
            torch.mm(rounded, tile.T, out=products)
            maxima.append(products.unflatten(1, (_GROUP, stride)).amax(1))
        group = torch.cat(maxima, 1).to(x.dtype).topk(2 * k, 1, sorted=False).indices
        column = ((group // stride * _TILE + group % stride)[..., None] + member).flatten(1)
        row = torch.arange(len(block), device=x.device)[:, None]
        score = score[column // _TILE, row, column % _TILE].to(x.dtype)
        best, at = score.topk(2 * k, 1, sorted=False)
        column, worst = column.gather(1, at), best.amin(1)
        top, at = (y[column] @ block[..., None])[..., 0].topk(k, 1)
        bound = worst + torch.finfo(dtype).eps * (1.01 + worst.abs())
        found.append((top, column.gather(1, at), bound < top[:, -1]))
    values, columns, sure = (torch.cat(parts) for parts in zip(*found, strict=True))
    return values, columns, sure
