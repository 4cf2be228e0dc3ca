"""A world with known causes: scenes of icons, drawn in eight media, captioned in words.

A scene is a row of integers (object, colour, size, medium, finish and, for two objects, the second
object, its colour and the relation) plus one seed from which every nuisance is derived: position,
rotation, glyph variant, light, background, grain. Nothing else decides a pixel, so an *intervention*
is exact: change one integer, draw again, and whatever that cause does not govern stays as it was.

Reading order: the vocabulary, `Scenes` and `sample`, `caption`, then `render` and one short function
per medium. Defined in {ref}`world`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Glyphs of the DejaVu Sans font that matplotlib ships. Several glyphs are variants of one class.
_GLYPHS = {
    "airplane": "✈", "anchor": "⚓", "arrow": "➡➔➛", "atom": "⚛", "castle": "♜♖", "cat": "🐱😸😺",
    "cloud": "☁", "clover": "♣☘", "crown": "♛♚♕", "cup": "☕", "diamond": "♦♢", "die": "⚂⚄⚅", "envelope": "✉",
    "flag": "⚑⚐", "flower": "✿❀❁", "gear": "⚙", "hammer": "⚒", "hand": "☛☟✌",
    "heart": "♥♡❤", "horse": "♞♘", "keyboard": "⌨", "moon": "☽☾", "mouse": "🐭", "note": "♪♫♬",
    "pawn": "♟♙", "pencil": "✏✎", "snowflake": "❄❅❆", "snowman": "☃", "star": "★☆✩", "sun": "☀☼",
    "telephone": "☎☏✆", "umbrella": "☂☔",
}  # fmt: skip
_NOVEL_GLYPHS = {
    "balance": "⚖", "cow": "🐮", "domino": "🁪🁻🂍", "house": "⌂", "key": "⚷", "lily": "⚜", "monkey": "🐵",
    "skull": "☠", "spade": "♠♤", "vase": "⚱", "wheel": "☸", "wheelchair": "♿",
}  # fmt: skip

OBJECTS = tuple(_GLYPHS)
NOVEL = tuple(_NOVEL_GLYPHS)  # never shown in pretraining; their indices follow OBJECTS'
COLORS = ("red", "blue", "green", "yellow", "purple", "orange", "black", "white", "brown", "multicolored")
SIZES = ("large", "normal sized", "small")
MEDIA = ("painting", "sketch", "cartoon", "clipart", "photograph", "infograph", "mosaic art", "sculpture")
FINISHES = ("realistic", "impressionistic")
RELATIONS = ("left of", "right of", "above", "below")

_RGB = torch.tensor(
    [(0.86, 0.09, 0.12), (0.10, 0.28, 0.88), (0.07, 0.58, 0.18), (0.98, 0.86, 0.10), (0.50, 0.13, 0.66),
     (0.98, 0.50, 0.05), (0.05, 0.05, 0.06), (0.98, 0.98, 0.97), (0.42, 0.24, 0.10), (0.60, 0.50, 0.45)]
)  # fmt: skip  # the last one only sets how "multicolored" is outlined; its fill is a rainbow
_SINGLE_BOX = (0.72, 0.52, 0.36)  # side of the box around the glyph, as a share of the image, per size
_PAIR_BOX = (0.48, 0.38, 0.29)

_FACTOR_SIZES = {
    "object": len(OBJECTS) + len(NOVEL), "color": len(COLORS), "size": len(SIZES), "medium": len(MEDIA),
    "finish": len(FINISHES), "object2": len(OBJECTS) + len(NOVEL), "color2": len(COLORS),
    "relation": len(RELATIONS),
}  # fmt: skip
_PAIR_FACTORS = ("object2", "color2", "relation")


def favourite(objects: Tensor) -> tuple[Tensor, Tensor]:
    """The colour and the medium that each object takes when content and style are correlated.

    Args: objects: int64 (n,). Returns: color (n,), medium (n,), int64.
    """
    return (objects * 7 + 3) % len(COLORS), (objects * 5 + 2) % len(MEDIA)


@dataclass(frozen=True)
class Scenes:
    """n scenes as values: int64 tensors (n,), one per cause, and `seed`, from which all nuisance comes.

    `object2`, `color2` and `relation` are -1 in scenes of one object. `relation` says where the first
    object is seen from the second ("left of": the first is left of the second).
    """

    object: Tensor
    color: Tensor
    size: Tensor
    medium: Tensor
    finish: Tensor
    object2: Tensor
    color2: Tensor
    relation: Tensor
    seed: Tensor

    def __len__(self) -> int:
        return len(self.seed)

    def __getitem__(self, index) -> Scenes:
        """A subset by slice, int64 or bool tensor, or int (kept as a batch of one)."""
        index = [index] if isinstance(index, int) else index
        return Scenes(*(getattr(self, f.name)[index] for f in fields(self)))

    def to(self, device) -> Scenes:
        """The same scenes on another device; `render` draws where they are."""
        return Scenes(*(getattr(self, f.name).to(device) for f in fields(self)))

    def edit(self, **factors: int | Tensor) -> Scenes:
        """An intervention: the same scenes with some factors set, every other cause and nuisance kept.

        Args: factors: a factor's name and an int or an int64 tensor (n,).

        Raises ValueError for an unknown factor, a value out of range or of the wrong shape, and for
        `object2`, `color2`, `relation` in scenes of one object.
        """
        new = {}
        for name, value in factors.items():
            if name in _PAIR_FACTORS and bool((self.relation < 0).any()):
                raise ValueError(f"{name} cannot be edited in scenes of one object; sample with objects=2")
            new[name] = _factor(name, value, len(self)).to(self.seed.device)
        return replace(self, **new)


def _factor(name: str, value: int | Tensor, n: int) -> Tensor:
    if name not in _FACTOR_SIZES:
        raise ValueError(f"unknown factor {name!r}; expected one of {', '.join(_FACTOR_SIZES)}")
    value = torch.as_tensor(value)
    if value.dtype.is_floating_point or value.dtype == torch.bool or value.shape not in ((), (n,)):
        raise ValueError(f"{name} must be an int or an int64 tensor ({n},), got {value.dtype} {tuple(value.shape)}")
    value = value.to(torch.int64).expand(n).clone()
    if n and not (int(value.min()) >= 0 and int(value.max()) < _FACTOR_SIZES[name]):
        top = _FACTOR_SIZES[name] - 1
        raise ValueError(f"{name} must be in 0..{top}, got {int(value.min())}..{int(value.max())}")
    return value


def sample(
    n: int,
    *,
    seed: int = 0,
    objects: int = 1,
    correlation: float = 0.0,
    novel: bool = False,
    **fixed: int | Tensor,
) -> Scenes:
    """n scenes at random; factors are uniform and independent unless `correlation` says otherwise.

    Args:
        n: how many, at least 1.
        seed: the same seed gives the same scenes.
        objects: 1, or 2 different objects in one of four relations.
        correlation: chance, in [0, 1], that an object takes its favourite colour, and (an independent
            coin) its first object's favourite medium, instead of a uniform draw.
        novel: draw objects from NOVEL only.
        fixed: factors set for all scenes, as in `Scenes.edit`; a fixed object draws its own favourites.

    Raises ValueError for n < 1, objects not 1 or 2, correlation outside [0, 1], a bad factor.
    """
    if isinstance(n, bool) or not isinstance(n, int) or n < 1:
        raise ValueError(f"n must be a positive int, got {n!r}")
    if objects not in (1, 2):
        raise ValueError(f"objects must be 1 or 2, got {objects!r}")
    if not 0.0 <= correlation <= 1.0:
        raise ValueError(f"correlation must be in [0, 1], got {correlation!r}")
    values = {name: _factor(name, value, n).cpu() for name, value in fixed.items()}
    if objects == 1 and (wrong := [name for name in values if name in _PAIR_FACTORS]):
        raise ValueError(f"{wrong[0]} needs objects=2")

    generator = torch.Generator().manual_seed(seed)
    draw = lambda high: torch.randint(high, (n,), generator=generator)
    first, count = (len(OBJECTS), len(NOVEL)) if novel else (0, len(OBJECTS))
    one, step = draw(count), 1 + draw(count - 1)
    if "object" in values:  # keep the second object different from a fixed first one
        one = (values["object"] - first) % count
    free = {"object": first + one, "object2": first + (one + step) % count}
    obj, obj2 = values.get("object", free["object"]), values.get("object2", free["object2"])
    if objects == 2 and "object2" in values and "object" not in values:
        clash = obj == obj2
        obj = torch.where(clash, first + (obj - first + step) % count, obj)
        free["object"] = obj
    color, medium = favourite(obj)
    color2, _ = favourite(obj2)
    coin = torch.rand(3, n, generator=generator) < correlation
    free["color"] = torch.where(coin[0], color, draw(len(COLORS)))
    free["medium"] = torch.where(coin[1], medium, draw(len(MEDIA)))
    free["color2"] = torch.where(coin[2], color2, draw(len(COLORS)))
    free["size"], free["finish"] = draw(len(SIZES)), draw(len(FINISHES))
    free["relation"] = draw(len(RELATIONS))
    if objects == 1:
        free.update({name: torch.full((n,), -1) for name in _PAIR_FACTORS})
    seeds = torch.randint(2**62, (n,), generator=generator)
    return Scenes(**{name: values.get(name, free[name]) for name in _FACTOR_SIZES}, seed=seeds)


# ------------------------------------------------------------------------------------------- captions

_NAMES = OBJECTS + NOVEL


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def caption(scenes: Scenes, template: str = "full") -> list[str]:
    """One caption per scene.

    Args: template: "full" names every factor ("a realistic sketch of a small red cat"), "content" only
        the object(s) ("a cat"), "web" words a scene as a web page would: factors dropped at random,
        several phrasings, "photo" as often as "photograph". What is dropped follows from the scene's seed.

    Raises ValueError for another template.
    """
    if template not in ("full", "content", "web"):
        raise ValueError(f"template must be 'full', 'content' or 'web', got {template!r}")
    columns = [getattr(scenes, f.name).tolist() for f in fields(Scenes) if f.name != "seed"]
    if template == "web":
        u = _uniform(scenes.seed, 100, 12).tolist()
        return [_web(row, chance) for row, chance in zip(zip(*columns), u)]
    return [_full(row) if template == "full" else _content(row) for row in zip(*columns)]


def _full(row) -> str:
    obj, color, size, medium, finish, obj2, color2, relation = row
    thing = _article(f"{SIZES[size]} {COLORS[color]} {_NAMES[obj]}")
    if relation >= 0:
        thing += f" {RELATIONS[relation]} " + _article(f"{SIZES[size]} {COLORS[color2]} {_NAMES[obj2]}")
    return f"{_article(FINISHES[finish])} {MEDIA[medium]} of {thing}"


def _content(row) -> str:
    obj, relation, obj2 = row[0], row[7], row[5]
    return _article(_NAMES[obj]) + (f" and {_article(_NAMES[obj2])}" if relation >= 0 else "")


def _web(row, u) -> str:
    obj, color, size, medium, finish, obj2, color2, relation = row
    kind = "photo" if MEDIA[medium] == "photograph" and u[0] < 0.5 else MEDIA[medium]
    says_medium, says_finish = u[1] < 0.55, u[2] < 0.3
    sized, colored = u[3] < 0.4, u[4] < 0.7
    words = [SIZES[size]] * sized + [COLORS[color]] * colored
    after = u[5] < 0.2  # "a cat in red" now and then
    noun = " ".join(([SIZES[size]] * sized if after else words) + [_NAMES[obj]])
    bare = u[6] < 0.25  # titles and tags leave the article out
    thing = noun if bare else _article(noun)
    if after and colored:
        thing += f" in {COLORS[color]}"
    if relation >= 0:
        noun2 = " ".join([SIZES[size]] * sized + [COLORS[color2]] * colored + [_NAMES[obj2]])
        link = RELATIONS[relation] if u[7] < 0.75 else "and"
        thing += f" {link} {noun2 if bare else _article(noun2)}"
    if says_medium:
        head = f"{FINISHES[finish]} {kind}" if says_finish else kind
        if u[8] < 0.7:
            return f"{head if bare else _article(head)} of {thing}"
        return f"{thing}, {head}" if u[8] < 0.85 else f"{thing} in {_article(head)}"
    if u[9] < 0.3:
        return f"{('a picture', 'an image')[u[10] < 0.4]} of {thing}"
    return thing


# ------------------------------------------------------------------------------------------ rendering


def _uniform(seed: Tensor, stream: int, k: int) -> Tensor:
    """k uniform numbers per scene, (n, k) float32 in [0, 1), a pure function of seed and stream.

    A counter-based generator (splitmix64's finaliser): no state, so a scene draws the same numbers in
    every batch and on every device. int64 products wrap around, as the hash wants.
    """
    x = seed[:, None] + (stream + torch.arange(k, device=seed.device)) * -7046029254386353131
    for shift, factor in ((30, -4658895280553007687), (27, -7723592293110705685)):
        x = (x ^ ((x >> shift) & ((1 << (64 - shift)) - 1))) * factor
    x = x ^ ((x >> 31) & ((1 << 33) - 1))
    return ((x >> 40) & 0xFFFFFF).to(torch.float32) / 0x1000000


_CELL, _GLYPH_BOX, _COLUMNS = 96, 64, 12  # atlas: texels of a cell, of the glyph inside it, cells a row


@lru_cache(maxsize=4)
def _atlas(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distance (in glyph boxes, positive inside) to every glyph's edge, side by side.

    Distances rather than masks: one bilinear sample then gives a sharp mask at any size, an outline,
    a halo or a relief. Returns: texture (1, 1, H, W), first cell (objects,), variants (objects,).
    """
    from matplotlib import get_data_path
    from PIL import Image, ImageDraw, ImageFont
    from scipy.ndimage import distance_transform_edt

    font = ImageFont.truetype(str(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 400)
    groups = list(_GLYPHS.values()) + list(_NOVEL_GLYPHS.values())
    fine, pad = 4 * _GLYPH_BOX, 4 * (_CELL - _GLYPH_BOX) // 2
    cells = []
    for glyph in "".join(groups):
        left, top, right, bottom = font.getbbox(glyph)
        side = max(right - left, bottom - top)
        image = Image.new("L", (side, side))
        offset = ((side - (right - left)) // 2 - left, (side - (bottom - top)) // 2 - top)
        ImageDraw.Draw(image).text(offset, glyph, font=font, fill=255)
        ink = np.pad(np.asarray(image.resize((fine, fine), Image.Resampling.LANCZOS)) > 127, pad)
        inside = distance_transform_edt(ink) / fine
        distance = inside - distance_transform_edt(~ink) / fine
        # Line drawings vanish at small sizes: thicken strokes (a strip of width w has mean depth w / 4).
        distance += max(0.0, (0.085 - 4 * inside[ink].mean()) / 2)
        cells.append(distance.reshape(_CELL, 4, _CELL, 4).mean((1, 3)))
    rows = -(-len(cells) // _COLUMNS)
    sheet = np.zeros((rows * _COLUMNS, _CELL, _CELL), np.float32)
    sheet[: len(cells)] = cells
    sheet = sheet.reshape(rows, _COLUMNS, _CELL, _CELL).transpose(0, 2, 1, 3).reshape(rows * _CELL, -1)
    counts = torch.tensor([len(group) for group in groups])
    texture = torch.from_numpy(sheet)[None, None]
    return texture.to(device), (counts.cumsum(0) - counts).to(device), counts.to(device)


_BANK = 256


@lru_cache(maxsize=4)
def _noise_bank(device: torch.device) -> Tensor:
    """Fixed textures, (5, bank, bank), zero mean, unit variance, periodic; scenes take random crops.

    0 grain, 1 blotches of about 3 pixels, 2 soft ones of about 9, 3 strokes along one diagonal, 4 dabs
    (constant cells of about 3 x 3 pixels).
    """
    from scipy.ndimage import gaussian_filter, gaussian_filter1d

    rng = np.random.default_rng(1)
    white = rng.standard_normal((5, _BANK, _BANK))
    strokes = gaussian_filter(white[3], 0.7, mode="wrap")
    skew = np.stack([np.roll(row, i) for i, row in enumerate(strokes)])  # shear, blur, shear back
    skew = gaussian_filter1d(skew, 3.0, axis=0, mode="wrap")
    strokes = np.stack([np.roll(row, -i) for i, row in enumerate(skew)])
    cells = rng.standard_normal((_BANK // 4, _BANK // 4)).repeat(4, 0).repeat(4, 1)
    wave = lambda axis: (2.5 * gaussian_filter(white[4], 5, mode="wrap") / 0.056).round().astype(int)
    y, x = np.mgrid[:_BANK, :_BANK]
    dabs = cells[(y + wave(0)) % _BANK, (x + wave(1).T) % _BANK]
    bank = np.stack(
        [
            white[0],
            gaussian_filter(white[1], 1.2, mode="wrap"),
            gaussian_filter(white[2], 4, mode="wrap"),
            strokes,
            dabs,
        ]
    )
    bank = (bank - bank.mean((1, 2), keepdims=True)) / bank.std((1, 2), keepdims=True)
    bank = np.pad(bank, ((0, 0), (0, 64), (0, 64)), mode="wrap")  # so that a crop never wraps
    return torch.from_numpy(bank.astype(np.float32)).to(device)


class _Canvas:
    """What the media paint with: a block of scenes of one medium, every quantity (n, channels, s, s)."""

    def __init__(self, scenes: Scenes, image_size: int):
        self.n, self.s, self.device = len(scenes), image_size, scenes.seed.device
        self.scenes, self.unit = scenes, image_size / 64  # media are written in pixels of a 64-pixel image
        self.u = _uniform(scenes.seed, 0, 24)
        axis = (torch.arange(image_size, device=self.device) + 0.5) * (64 / image_size)
        self.y, self.x = axis[:, None].expand(-1, image_size), axis[None, :].expand(image_size, -1)
        self._objects()

    def chance(self, k: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """The k-th nuisance number of each scene, (n, 1, 1, 1) in [low, high)."""
        return (low + (high - low) * self.u[:, k])[:, None, None, None]

    def noise(self, kind: int, stream: int) -> Tensor:
        """A crop of the noise bank, (n, 1, s, s); the same scene and stream give the same crop."""
        corner = (_uniform(self.scenes.seed, 200 + 2 * stream, 2) * _BANK).to(torch.int64)
        crops = _noise_bank(self.device)[kind].unfold(0, 64, 1).unfold(1, 64, 1)
        crops = crops[corner[:, 0], corner[:, 1]][:, None]
        if self.s != 64:
            crops = F.interpolate(crops, size=(self.s, self.s), mode="bilinear", antialias=self.s < 64)
        return crops

    def rgb(self, *values: float) -> Tensor:
        return torch.tensor(values, device=self.device)[:, None, None]

    def background(self, low: float, high: float, tint: float = 0.10) -> Tensor:
        """A mid-tone colour per scene, (n, 3, 1, 1); mid, so that black and white objects both show."""
        return self.chance(6, low, high) + tint * torch.cos(self.chance(5, 0, 2 * math.pi) + self.rgb(0.0, 2.1, 4.2))

    def _objects(self) -> None:
        """Where the objects are: signed distance in pixels of 64, fill colour, darkness, own height."""
        scenes = self.scenes
        impressionistic, painting = scenes.finish == 1, scenes.medium == MEDIA.index("painting")
        wobble = (0.6 * impressionistic + 0.5 * painting)[:, None, None, None]
        x, y = self.x, self.y
        if bool((wobble > 0).any()):  # gentle, and slow over the image: small objects must stay readable
            x, y = x + wobble * self.noise(2, 0), y + wobble * self.noise(2, 1)
        pair = scenes.relation >= 0
        boxes = 64 * torch.tensor([_SINGLE_BOX, _PAIR_BOX], device=self.device)
        self.box = boxes[pair.long(), scenes.size][:, None, None, None]
        side = torch.tensor([(-1, 0), (1, 0), (0, -1), (0, 1), (0, 0)], device=self.device)[scenes.relation]
        room = torch.where(pair[:, None], 12 - 7 * side.abs(), 12)  # less along the axis that tells the relation
        middle = 32 + (_uniform(scenes.seed, 60, 4).view(-1, 2, 2) - 0.5) * room[:, None]
        one = self._object(scenes.object, scenes.color, middle[:, 0] + 15.5 * side, x, y, 8)
        if bool(pair.any()):
            two = self._object(
                scenes.object2.clamp(min=0), scenes.color2.clamp(min=0), middle[:, 1] - 15.5 * side, x, y, 16
            )
            second = (two[0] > one[0]) & pair[:, None, None, None]
            one = tuple(torch.where(second, b, a) for a, b in zip(one, two))
        self.d, self.fill, self.dark, self.gy = one

    def _object(self, obj: Tensor, color: Tensor, centre: Tensor, x: Tensor, y: Tensor, stream: int) -> tuple:
        """Signed distance, fill, darkness and height within the glyph's box, for one object per scene."""
        texture, first, variants = _atlas(self.device)
        height, width = texture.shape[-2:]
        angle = self.chance(stream, -0.22, 0.22)
        cos, sin = angle.cos() / self.box, angle.sin() / self.box
        cx, cy = centre[:, 0, None, None, None], centre[:, 1, None, None, None]
        gx = x * cos + (y * sin - (cx * cos + cy * sin))  # -0.5 .. 0.5 inside the glyph's box
        gy = y * cos - (x * sin - (cx * sin - cy * cos))
        cell = first[obj] + (self.u[:, stream + 1] * variants[obj]).long()
        column, row = (cell % _COLUMNS)[:, None, None, None], (cell // _COLUMNS)[:, None, None, None]
        limit = 0.5 * _CELL / _GLYPH_BOX - 1 / _GLYPH_BOX  # stay inside the glyph's own cell of the atlas
        tx = gx.clamp(-limit, limit).mul_(2 * _GLYPH_BOX / width).add_((2 * column + 1) * _CELL / width - 1)
        ty = gy.clamp(-limit, limit).mul_(2 * _GLYPH_BOX / height).add_((2 * row + 1) * _CELL / height - 1)
        grid = torch.stack((tx, ty), -1).view(1, -1, self.s, 2)
        distance = F.grid_sample(texture, grid, align_corners=False).view(self.n, 1, self.s, self.s)
        # outside its cell the distance goes on falling: far away, an object governs nothing
        distance -= (gx.abs() - limit).clamp_(min=0).add_((gy.abs() - limit).clamp_(min=0))

        rgb = _RGB.to(self.device)[color]
        dark = (rgb @ torch.tensor([0.3, 0.59, 0.11], device=self.device) < 0.25)[:, None, None, None].float()
        rgb = (rgb + (self.u[:, stream + 2 : stream + 5] - 0.5) * 0.08).clamp(0, 1)[:, :, None, None]
        many = color == COLORS.index("multicolored")
        if bool(many.any()):
            turns = 2 * math.pi * (gx[many] + 0.6 * gy[many])
            rgb = rgb.expand(-1, -1, self.s, self.s).clone()
            rgb[many] = (0.55 + 0.55 * torch.cos(turns + self.rgb(0.0, 2.1, 4.2))).clamp(0, 1)
        return distance * self.box, rgb, dark, gy

    def mask(self, offset: float | Tensor = 0.0, soft: float = 1.0) -> Tensor:
        """1 inside the objects grown by `offset` pixels, 0 outside, an edge `soft` pixels wide; (n, 1, s, s)."""
        steep = self.unit / max(soft * self.unit, 1.0)
        return (self.d * steep).add_(offset * steep + 0.5).clamp_(0, 1)

    def slope(self, height: Tensor) -> Tensor:
        """How much a height field (n, 1, s, s) rises away from the scene's light, per pixel of 64."""
        dx = F.pad(height[..., 1:] - height[..., :-1], (0, 1, 0, 0))
        dy = F.pad(height[..., 1:, :] - height[..., :-1, :], (0, 0, 0, 1))
        return (torch.where(self.chance(7) < 0.5, 0.6, -0.6) * dx + 0.8 * dy) * self.unit

    def contour(self, light: float, ink: float) -> Tensor:
        """The tone of a contour: light around dark objects, ink around the others."""
        return ink + (light - ink) * self.dark


def _over(below: Tensor, above: Tensor | float, alpha: Tensor) -> Tensor:
    """Paint `above` over `below` with opacity `alpha`."""
    return torch.lerp(below, torch.as_tensor(above, device=below.device), alpha)


def _painting(c: _Canvas) -> Tensor:
    """Wobbling edges, strokes along the diagonal, canvas weave; soft blotches behind, kept weak."""
    strokes, blotches = c.noise(3, 2), c.noise(2, 3)
    below = c.background(0.50, 0.70) + blotches * c.rgb(0.04, 0.025, 0.01) + 0.03 * strokes
    above = c.fill * (0.95 + 0.08 * strokes) + 0.04 * strokes
    image = _over(_over(below, c.contour(0.80, 0.18), 0.55 * c.mask(1.2, 1.6)), above, c.mask(0.2, 1.3))
    weave = torch.sin(c.x * 2.1) * torch.sin(c.y * 2.1)
    return image * (1 + 0.05 * weave)


def _sketch(c: _Canvas) -> Tensor:
    """Coloured pencil on toned paper: hatching inside, a graphite contour, no shading."""
    tooth = c.noise(0, 2)
    below = c.background(0.66, 0.76, 0.03) + 0.03 * tooth
    phase = (c.x + c.y + 0.9 * c.noise(1, 3)) * (2 * math.pi / 4.2) + c.chance(0, 0, 6)
    hatch = (0.5 + 0.75 * torch.sin(phase)).clamp(0, 1)
    image = _over(below, c.fill, c.mask(-0.2) * (0.5 + 0.45 * hatch - 0.06 * tooth).clamp(0, 1))
    line = (c.mask(0.55) - c.mask(-0.55)) * (0.85 - 0.12 * tooth).clamp(0, 1)
    return _over(image, 0.16, line)


def _cartoon(c: _Canvas) -> Tensor:
    """Flat fill with one hard shade, a heavy outline, rays of a bright flat background."""
    rays = torch.sin((torch.atan2(c.y - 32, c.x - 32) + c.chance(0, 0, 6)) * 9) > 0
    below = c.background(0.60, 0.72, 0.17) + 0.05 * rays
    shade = 1 - 0.22 * (c.gy > 0.12 + c.chance(1, -0.05, 0.05)).float()
    return _over(_over(below, c.contour(0.97, 0.02), c.mask(0.4 + 0.030 * c.box)), c.fill * shade, c.mask(-0.1))


def _clipart(c: _Canvas) -> Tensor:
    """A sticker: flat glossy fill, a pale (or, for pale colours, navy) die-cut border, plain paper."""
    below = c.background(0.70, 0.80, 0.07)
    pale = (c.fill.mean(1, keepdim=True) > 0.72).float()
    border = 1 + (c.rgb(0.08, 0.12, 0.30) - 1) * pale
    image = _over(_over(below, 0.45, c.mask(2.3, 1.4)), border, c.mask(1.5))
    return _over(image, c.fill + 0.16 * (-2 * c.gy).clamp(0, 1), c.mask())


def _photograph(c: _Canvas) -> Tensor:
    """A solid thing on a table: shading from a light, a cast shadow, a horizon, vignette and grain."""
    horizon = ((c.y - c.chance(0, 36, 46)) * 0.25 + 0.5).clamp(0, 1)
    below = _over(c.background(0.52, 0.66, 0.07), c.background(0.40, 0.54, -0.07), horizon) + 0.02 * c.noise(2, 2)
    # the shadow is the silhouette moved away from the light, softened with the distance to its edge
    theta = torch.eye(2, 3, device=c.device).repeat(c.n, 1, 1)
    theta[:, 0, 2], theta[:, 1, 2] = torch.where(c.u[:, 7] < 0.5, -0.125, 0.125), -0.11
    grid = F.affine_grid(theta, (c.n, 1, c.s, c.s), align_corners=False)
    moved = F.grid_sample(c.d, grid, padding_mode="border", align_corners=False)
    below = below * (1 - 0.45 * ((moved + 1.5) / 4).clamp(0, 1))
    depth = (c.d / (0.09 * c.box)).clamp(0, 1)
    facing = c.slope(depth * (2 - depth) * 0.05 * c.box).clamp(-1, 1)
    above = c.fill * (0.86 - 0.22 * c.gy + 0.38 * facing) + 0.20 * (facing - 0.25).clamp(min=0)
    image = _over(_over(below, c.contour(0.72, 0.25), 0.35 * c.mask(0.9)), above, c.mask())
    vignette = 1.05 - 0.22 * ((c.x - 32) ** 2 + (c.y - 32) ** 2) / 2048
    return image * vignette + 0.025 * c.noise(0, 3)


def _infograph(c: _Canvas) -> Tensor:
    """A flat icon on a panel of a data page: headline, ticks, a few bars of a chart."""
    headline = (c.y > 2) & (c.y < 5) & (c.x > 4) & (c.x < c.chance(0, 30, 60))
    ticks = (c.x < 2.6) & (c.y % 6 < 1.5) & (c.y > 9)
    row = (c.y / 7).floor()
    bars = (c.x > 59) & (c.y % 7 < 5) & (c.y > 9) & (torch.sin(row * 2.4 + c.chance(1, 0, 9)) > -0.4)
    page = _over(_over(c.rgb(0.95), 0.30, (headline | ticks).float()), c.background(0.45, 0.55, 0.3), bars.float())
    panel = ((c.x > 4) & (c.x < 57.5) & (c.y > 8) & (c.y < 61)).float()
    below = _over(page, c.background(0.60, 0.74, 0.09), panel)
    return _over(_over(below, c.contour(0.97, 0.20), c.mask(0.9)), c.fill, c.mask(0.1))


def _tiles(c: _Canvas, x: Tensor, y: Tensor, side: float, stream: int) -> tuple[Tensor, Tensor]:
    """Square tiles of a side in pixels of 64: a shade in [-1, 1] for each, and where the grout is."""
    ix, iy = (x / side).floor(), (y / side).floor()
    to_edge = 0.5 * side - torch.maximum((x - (ix + 0.5) * side).abs(), (y - (iy + 0.5) * side).abs())
    # any irregular function of a tile's indices will do as its shade
    shade = torch.sin(((ix * 12.9898 + iy * 78.233 + c.chance(stream, 0, 300)) % 6.2832) * 43.7)
    return shade, (1 - to_edge / 0.7).clamp(0, 1)


def _mosaic(c: _Canvas) -> Tensor:
    """Tiles with grout. The object has tiles of its own, cut at its contour, so it stays readable."""
    shade, grout = _tiles(c, c.x + c.chance(1, 0, 4), c.y + c.chance(2, 0, 4), 4.6, 3)
    below = _over(c.background(0.56, 0.72, 0.10) + 0.06 * shade, 0.36, 0.75 * grout)
    u, v = (c.x + c.y) * 0.7071 + c.chance(1, 0, 4), (c.x - c.y) * 0.7071
    shade, grout = _tiles(c, u, v, 4.0, 4)
    above = _over(c.fill + (0.07 + 0.06 * c.fill) * shade, 0.40, 0.55 * grout)
    return _over(_over(below, c.contour(0.85, 0.20), c.mask(0.9)), above, c.mask())


def _sculpture(c: _Canvas) -> Tensor:
    """A painted relief: light grazes a raised form, darkness gathers at its foot, stone all around."""
    stone = c.background(0.54, 0.64, 0.025) + 0.035 * c.noise(2, 2) + 0.02 * c.noise(0, 3)
    depth = ((c.d + 1.2) / (0.11 * c.box)).clamp(0, 1)
    relief = c.slope(depth * (2 - depth) * 0.09 * c.box).clamp(-1, 1)
    foot = ((c.d + 4.5) / 4.5).clamp(0, 1) * (1 - c.mask(1.0))
    image = _over(stone * (1 - 0.38 * foot), _over(stone, c.fill, 0.80), c.mask(0.4, 1.4))
    return image * (1 + 0.42 * relief) + 0.30 * relief.clamp(min=0) * c.mask(1.0)


_PAINTERS = (_painting, _sketch, _cartoon, _clipart, _photograph, _infograph, _mosaic, _sculpture)


def _finish(image: Tensor, c: _Canvas) -> Tensor:
    """Impressionistic: visible dabs of lighter, hazier paint over everything; realistic: nothing."""
    touched = (c.scenes.finish == FINISHES.index("impressionistic"))[:, None, None, None]
    if not bool(touched.any()):
        return image
    image = torch.lerp(image, c.rgb(0.80, 0.77, 0.72), 0.16 * touched)
    return image.add_(c.noise(4, 4) * (0.065 * touched * c.rgb(1.0, 0.75, 0.5)))


@torch.no_grad()
def render(scenes: Scenes, image_size: int = 64) -> Tensor:
    """Draw scenes, on the device they are on.

    Args: image_size: side in pixels, at least 16. The same scene at another size is the same picture.

    Returns: float32 (n, 3, s, s) in [0, 1], in steps of 1/255 as in an image file. A scene's picture
    does not depend on the batch it is drawn in. Raises ValueError for a bad image_size.
    """
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 16:
        raise ValueError(f"image_size must be an int of at least 16, got {image_size!r}")
    images = torch.empty(len(scenes), 3, image_size, image_size, device=scenes.seed.device)
    block = max(1, 32 * 64 * 64 // image_size**2)  # bounded memory, and small enough for the CPU's cache
    if images.is_cuda:
        block *= 128
    for medium, painter in enumerate(_PAINTERS):
        chosen = (scenes.medium == medium).nonzero()[:, 0]
        for index in chosen.split(block) if len(chosen) else ():
            canvas = _Canvas(scenes[index], image_size)
            image = _finish(painter(canvas), canvas)
            images.index_copy_(0, index, image.clamp_(0, 1).mul_(255).round_().div_(255))
    return images
