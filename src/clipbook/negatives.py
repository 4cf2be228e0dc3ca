"""Sentences and scenes that are almost right, and the search for hard ones.

Reading order: `counterfactual` edits a scene whose causes are known, and with it picture and caption; `swap` edits
any English caption that a small grammar understands; `mine` finds each item's nearest others among many.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from clipbook import world
from clipbook.losses import check_features, unit
from clipbook.world import Scenes

KINDS = ("swap_color", "swap_object", "reverse_relation", "replace_color", "replace_object", "replace_size")

# Of mining: queries and items at a time, items whose products are in the processor's cache, items in a group, and
# whether the processor multiplies half precision natively.
_ROWS, _CHUNK, _TILE, _GROUP = 128, 1 << 16, 4096, 16
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
    another kind, scenes of one object where two are needed, and scenes that the edit would leave as they are: two
    objects of one colour, two of one name, or two of both.
    Defined in {ref}`bag-of-words`.
    """
    if not isinstance(scenes, Scenes):
        raise ValueError(f"scenes must be Scenes, as from world.sample, got {type(scenes).__name__}")
    _check_seed(seed)
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    two = scenes.relation >= 0
    if kind in KINDS[:3] and not bool(two.all()):
        raise ValueError(f"{kind} needs scenes of two objects; sample with objects=2")
    same_color, same_object = scenes.color == scenes.color2, scenes.object == scenes.object2
    if kind == "swap_color":
        _check_differs(kind, "two colours", same_color, "scenes[scenes.color != scenes.color2]")
        return scenes.edit(color=scenes.color2, color2=scenes.color)
    if kind == "swap_object":
        _check_differs(kind, "two objects", same_object, "scenes[scenes.object != scenes.object2]")
        return scenes.edit(object=scenes.object2, object2=scenes.object)
    if kind == "reverse_relation":
        keep = "scenes[(scenes.object != scenes.object2) | (scenes.color != scenes.color2)]"
        _check_differs(kind, "two objects or two colours", same_object & same_color, keep)
        return scenes.edit(relation=scenes.relation ^ 1)  # RELATIONS come in opposite pairs
    factor = kind.removeprefix("replace_")
    generator = torch.Generator().manual_seed(seed)
    chance = torch.rand(len(scenes), generator=generator).to(scenes.seed.device)
    return scenes.edit(**{factor: _other(scenes, factor, chance)})


def _check_seed(seed: object) -> None:
    if isinstance(seed, bool) or not isinstance(seed, Integral):
        raise ValueError(f"seed must be an int, got {seed!r}")


def _check_differs(kind: str, what: str, same: Tensor, keep: str) -> None:
    rows = same.nonzero()
    if len(rows):
        raise ValueError(
            f"{kind} needs {what}, but {len(rows)} of {len(same)} scenes have one, the first in row "
            f"{int(rows[0])}; keep {keep}"
        )


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
_PLURALS = {"men", "women", "children", "people"}  # without an s
# What says the same of two things in either order; mixed, it does not.
_EITHER_WAY = [{"and", "or", ","}, {"next", "to"}, {"near"}, {"beside"}, {"alongside"}]
_EITHER_WAY += [{"with"}, {"together", "with"}, {"along", "with"}]
_NOUNS_IN_ING = {"king", "ring", "string", "spring", "wing", "building", "ceiling", "painting", "drawing", "thing"}


def swap(captions: Iterable[str], what: str = "any", *, seed: int = 0) -> list[str | None]:
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
    fewer than two noun phrases, the same word in both, one plural and one singular, one with an article and one
    without, or no change of meaning ("a cat and a dog", "a cat next to a dog", "a photo of a cat and a photo of a
    dog"). Raises ValueError for something that is not a list of strings, another `what`, or a seed that is no int.
    Source: after Yuksekgonul et al. 2023 (arXiv 2210.01936), which uses a parser. Defined in {ref}`negative-captions`.
    """
    if isinstance(captions, str) or not isinstance(captions, Iterable):
        raise ValueError(f"captions must be a list of strings, got {captions!r:.60}")
    captions = list(captions)
    if not all(isinstance(caption, str) for caption in captions):
        raise ValueError(f"captions must be a list of strings, got {captions!r:.60}")
    _check_seed(seed)
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
            # "a red cat and a blue cat" means the same the other way round; so do the ends of a list
            within = {at for c in phrases[number + 1 :] if c.start < b.start for at in range(c.start, c.noun.stop)}
            between = [words[at] for at in range(a.noun.stop, b.start) if at not in within]
            links = set(_bare(between))
            joined = any(links <= family for family in _EITHER_WAY)
            same = {
                kind
                for kind in a.adjectives.keys() & b.adjectives
                if text(a.adjectives[kind]) == text(b.adjectives[kind])
            }
            differ = (a.adjectives.keys() | b.adjectives) - same
            for kind in a.adjectives.keys() & b.adjectives:
                if not (joined and differ == {kind} and text(a.noun) == text(b.noun)):
                    found["adjective"].append((a.adjectives[kind], b.adjectives[kind]))
            alike = a.plural == b.plural and (a.plural or a.article == b.article)
            if alike and not (a.of or b.of) and not (joined and not differ):
                found["noun"].append((a.noun, b.noun))
    kinds = ["adjective", "noun"] if what == "any" else [what]
    chance.shuffle(kinds)
    for kind in kinds:
        ways = []
        for one, other in found[kind]:
            parts = words[: one.start], words[other], words[one.stop : other.start], words[one], words[other.stop :]
            changed = [word for part in parts for word in part]
            if text(one) != text(other) and not _same_parts(words, changed):
                ways.append("".join(changed))
        if ways:
            changed = _articles(chance.choice(ways), caption)
            return changed if changed.lower() != caption.lower() else None
    return None


def _bare(words: list[str]) -> list[str]:
    """Words in lower case, without spaces and determiners."""
    return [w.lower() for w in words if not w.isspace() and _CLASS.get(w.lower()) != "determiner"]


def _same_parts(words: list[str], others: list[str]) -> bool:
    """Do two captions say the same of the same things, in another order? "A on B and C on B", "C on B and A on B"."""
    for family in _EITHER_WAY:
        found = []
        for bare in (_bare(words), _bare(others)):
            parts = [[]]
            for word in bare:
                if word in family:
                    parts.append([])
                else:
                    parts[-1].append(word)
            found.append(sorted(parts))
        if found[0] == found[1]:
            return True
    return False


@dataclass(frozen=True)
class _Phrase:
    """A noun phrase: where its words stand.

    adjectives: kind -> slice; of: "of" follows, as in "a photo of"; article: a determiner comes before.
    """

    start: int
    adjectives: dict[str, slice]
    noun: slice
    plural: bool
    of: bool
    article: bool


def _phrases(words: list[str]) -> list[_Phrase]:
    content = lambda i: i < len(words) and words[i][0].isalpha() and words[i].lower() not in _CLASS
    plural = lambda word: word.endswith("s") and not word.endswith(("ss", "us", "is"))
    form = lambda word, *ends: word.endswith(ends) and word not in _NOUNS_IN_ING and word not in _KIND  # of a verb
    found, at = [], 0
    while at < len(words):
        if not content(at):
            at += 1
            continue
        run = [at]
        while run[-1] + 2 < len(words) and words[run[-1] + 1].isspace() and content(run[-1] + 2):
            if form(words[run[-1] + 2].lower(), "ing") and words[run[-1]].lower() not in _KIND:
                break  # "a man riding horses": no compound
            run.append(run[-1] + 2)
        at = run[-1] + 1
        before = next((w.lower() for w in reversed(words[: run[0]]) if not w.isspace()), "")
        if len(run) > 1 and form(words[run[0]].lower(), "ing") and _CLASS.get(before) != "determiner":
            run = run[1:]  # "are playing tennis", "riding horses"; but "a swimming pool"
        after = next((w.lower() for w in words[at:] if not w.isspace()), "")
        last = words[run[-1]].lower()
        if form(last, "ing", "ed") or (len(run) > 1 and _CLASS.get(after) == "determiner"):
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
        last, article = words[run[-1]].lower(), _CLASS.get(before) == "determiner"
        found.append(_Phrase(run[0], adjectives, noun, plural(last) or last in _PLURALS, after == "of", article))
    return found


def _articles(changed: str, caption: str) -> str:
    """a and an set right, and the first letter as large as it was."""
    right = lambda match: match[1][0] + ("n " if match[2][0].lower() in "aeiou" else " ") + match[2]
    changed = re.sub(r"\b([Aa]n?) (\w+)", right, changed)
    return changed[:1].upper() + changed[1:] if caption[:1].isupper() else changed


# ------------------------------------------------------------------------------------------------ mining


@torch.no_grad()
def mine(queries: Tensor, items: Tensor, k: int, *, skip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k items nearest in angle to each query, exactly, with memory that does not grow with the number of items.

    Args:
        queries: (n, d); items: (m, d), of the same precision; normalised here.
        k: how many, in 1..m (m - 1 with `skip`).
        skip: int64 (n,): for each query one item that is left out, say its own match.

    Returns: cosines (n, k), descending, and rows of items, int64 (n, k). Raises ValueError for mismatched widths or
    precisions, non-finite features, k or skip out of range. Defined in {ref}`weighing-negatives`.
    """
    check_features(1, False, queries=queries, items=items[:1] if isinstance(items, Tensor) and items.ndim else items)
    x, few = unit(queries), unit(items[:1])  # half precision is searched in single
    if (x.dtype, x.device) != (few.dtype, few.device):
        got = f"{queries.dtype} on {queries.device} and {items.dtype} on {items.device}"
        raise ValueError(f"queries and items must be of one precision and on one device, got {got}")
    most = len(items) - (skip is not None)
    if isinstance(k, bool) or not isinstance(k, int) or not 1 <= k <= most:
        raise ValueError(f"k must be an int in 1..{most}, got {k!r}")
    if skip is not None:
        _check_skip(skip, len(queries), len(items))
    wide = k + (skip is not None)
    fast = torch.bfloat16 if x.is_cuda or _FAST_HALF else x.dtype
    value, index, sure = _nearest(x, items, wide, fast)
    if fast != x.dtype and not bool(sure.all()):
        value[~sure], index[~sure], _ = _nearest(x[~sure], items, wide, x.dtype)
    if skip is not None:
        value = value.masked_fill(index == skip.to(x.device)[:, None], -torch.inf)
        value, index = _best(k, (value, index))
    return value, index


def _check_skip(skip: Tensor, n: int, m: int) -> None:
    if not isinstance(skip, Tensor) or skip.dtype != torch.int64 or skip.shape != (n,):
        got = f"{skip.dtype} {tuple(skip.shape)}" if isinstance(skip, Tensor) else type(skip).__name__
        raise ValueError(f"skip must be int64 ({n},), got {got}")
    if int(skip.min()) < 0 or int(skip.max()) >= m:
        raise ValueError(f"skip must be in 0..{m - 1}, got {int(skip.min())}..{int(skip.max())}")


def _best(k: int, *found: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The k largest of several (values, indices) in each row (all, if there are fewer), descending."""
    value, index = (torch.cat(parts, 1) for parts in zip(*found, strict=True))
    value, order = value.topk(min(k, value.shape[1]), 1)
    return value, index.gather(1, order)


def _nearest(x: Tensor, items: Tensor, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The k largest of x @ unit(items).T in each row, their columns, and whether they must be the largest.

    Items come in chunks. Of a chunk's whole tiles, products in `dtype` propose, and the best proposals of all chunks,
    2k of them (a few more than k if `dtype` is full), are scored again in full; the rest of a chunk is scored so at
    once. Rounding moves a unit vector by at most half of `eps`, and a product of two by twice that (Cauchy-Schwarz)
    and its own rounding: a row is sure where not even that brings what was not proposed among its k.
    """
    none = x.new_empty(len(x), 0), torch.empty(len(x), 0, dtype=torch.int64, device=x.device)
    exact, likely, wide = none, none, 2 * k if dtype != x.dtype else k + 8
    for first in range(0, len(items), _CHUNK):
        y = _finite(items[first : first + _CHUNK], first)
        whole = len(y) // _TILE * _TILE
        whole = whole if whole >= 2 * _GROUP * wide else 0
        if whole < len(y):
            parts = [(block @ y[whole:].T).topk(min(k, len(y) - whole), 1) for block in x.split(_ROWS)]
            value, index = (torch.cat(part) for part in zip(*parts, strict=True))
            exact = _best(k, exact, (value, index + first + whole))
        if whole:
            y, parts = y[:whole].to(dtype), zip(*(z.split(_ROWS) for z in (x, *likely)), strict=True)
            scores = y.new_empty(min(_ROWS, len(x)), whole)
            parts = [_proposed(block, y, wide, scores, first, *best) for block, *best in parts]
            likely = tuple(torch.cat(part) for part in zip(*parts, strict=True))
            del scores
        del y  # before the next chunk comes
    bound = torch.full_like(x[:, 0], -torch.inf)
    if likely[0].shape[1]:
        worst = likely[0].amin(1)
        bound = worst + torch.finfo(dtype).eps * (1.01 + worst.abs())
        blocks = zip(x.split(32), likely[1].split(32), strict=True)
        value = torch.cat([(unit(items[index]) @ block[..., None])[..., 0] for block, index in blocks])
        exact = _best(k, exact, (value, likely[1]))
    return *exact, bound < exact[0][:, -1]


def _finite(items: Tensor, first: int) -> Tensor:
    """A chunk of items, normalised; the error names a row of them all."""
    y = unit(items)
    if not bool(torch.isfinite(y.sum())):  # infinity over infinity is NaN too; much faster than to look at each
        row = first + int((~torch.isfinite(items)).any(1).nonzero()[0])
        raise ValueError(f"items must be finite, got NaN or infinity in row {row}")
    return y


def _proposed(x: Tensor, low: Tensor, k: int, scores: Tensor, first: int, *best: Tensor) -> tuple[Tensor, Tensor]:
    """The k largest of x @ low.T and of the best so far, values and indices; `low` holds the items from `first` on.

    They lie in the k groups with the largest maxima, and in none whose maximum is below the best so far: nothing else
    is looked at.
    """
    stride = _TILE // _GROUP  # a group is every stride-th item of a tile
    rounded, score, maxima = x.to(low.dtype), scores[: len(x)], []
    for tile, products in zip(low.split(_TILE), score.split(_TILE, 1), strict=True):
        torch.mm(rounded, tile.T, out=products)
        maxima.append(products.unflatten(1, (_GROUP, stride)).amax(1))
    maxima = torch.cat(maxima, 1).to(x.dtype)
    member = stride * torch.arange(_GROUP, device=x.device)
    items = lambda group: (group + group // stride * (_TILE - stride))[..., None] + member
    row = None
    if best[0].shape[1]:
        least = best[0].amin(1)
        row, group = (maxima > least[:, None]).nonzero(as_tuple=True)
    if row is None or len(row) > k * len(x):
        column = items(maxima.topk(k, 1, sorted=False).indices).flatten(1)
        value = score.gather(1, column).to(x.dtype)
    else:  # a few, not as many in each row: they are moved to the left of a table
        value, column = score[row[:, None], items(group)].to(x.dtype), items(group)
        better = value > least[row, None]
        row, value, column = row[:, None].expand_as(better)[better], value[better], column[better]
        counts = row.bincount(minlength=len(x))
        place = torch.arange(len(row), device=x.device) - (counts.cumsum(0) - counts)[row]
        table = x.new_full((len(x), int(counts.max())), -torch.inf)
        empty = torch.zeros_like(table, dtype=torch.int64)
        value, column = table.index_put((row, place), value), empty.index_put((row, place), column)
    value, at = torch.cat([best[0], value], 1).topk(k, 1, sorted=False)
    return value, torch.cat([best[1], column + first], 1).gather(1, at)
