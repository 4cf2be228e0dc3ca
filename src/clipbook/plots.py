"""One house style, and the few figures that several chapters draw.

A chapter calls `plots.use()` once; every figure drawn afterwards, by these helpers, by matplotlib or by
seaborn, shares fonts, palette and paper. Each helper returns its `Figure` and leaves pyplot alone: as the
last line of a cell the figure shows once, and the chapter can still adjust it first
(`figure.axes[0].set_yscale("log")`).

Light and dark: figures carry their own opaque, almost white paper, so every contrast inside a figure is the
same on every page. A transparent figure would need ink that reads on white and on black, and no colour
keeps 4.5:1 on both.
"""

import io
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise

import matplotlib as mpl
import numpy as np
from cycler import cycler
from IPython import get_ipython
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

PAPER = "#fbfaf7"
INK = "#222222"  # 15:1 on PAPER
QUIET = "#5c5c5c"  # notes, chance lines: 6.4:1
# Okabe and Ito's colours that stand out at 3:1 on PAPER (their yellow, orange and sky blue do not), the
# purple a little darker for the same reason. Five tell apart under every common colour blindness; further
# lines repeat them dashed.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#c46ca0", INK)
WIDTH = 7.0  # inches; a chapter's column is 700 px wide, so an inch is 100 px and 10 points are 14 px

_STYLE = {
    "figure.figsize": (WIDTH, 3.6),
    "figure.dpi": 100,
    "savefig.dpi": 200,
    "figure.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "axes.facecolor": PAPER,
    "axes.edgecolor": QUIET,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "axes.labelsize": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": cycler(linestyle=["-", "--"]) * cycler(color=PALETTE),
    "grid.color": "#dfddd6",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.5,
    "ytick.labelsize": 9.5,
    "font.size": 10.5,
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same figure on every machine
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "lines.linewidth": 2.0,
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
}


def use() -> None:
    """Set the house style for the rest of the process, and sharp figures when a notebook runs.

    Call it once, in a chapter's first code cell. Defined in {ref}`world`.
    """
    mpl.rcParams.update(_STYLE)
    shell = get_ipython()
    if getattr(shell, "kernel", None) is not None:
        import matplotlib_inline.backend_inline  # noqa: F401  (registers its own way to show figures: first)

        # Ours shows a Figure that pyplot never saw, which every helper here returns, and names only the width
        # that twice as many pixels take: with a height beside it ("retina") a phone would stretch the figure.
        shell.display_formatter.formatters["image/png"].for_type(Figure, _png)


def _png(figure: Figure) -> tuple[bytes, dict[str, int]]:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=200, bbox_inches="tight")
    width = int.from_bytes(buffer.getvalue()[16:20], "big")  # where a PNG says how wide it is
    return buffer.getvalue(), {"width": width // 2}


def pixels(image) -> np.ndarray:
    """One image as uint8 (h, w, 3).

    Args:
        image: a PIL image, or a tensor or array (3, h, w) with values in [0, 1].

    Raises ValueError for another shape or for values outside [0, 1].
    """
    if hasattr(image, "convert"):
        return np.asarray(image.convert("RGB"))
    array = _array(image)
    if array.ndim != 3 or array.shape[0] != 3:
        raise ValueError(f"image must be a PIL image or have the shape (3, h, w), got {array.shape}")
    # A little slack for rounding; images normalised for a network lie far outside.
    if not (array.min() >= -1e-3 and array.max() <= 1 + 1e-3):
        raise ValueError(f"image values must lie in [0, 1], got {array.min():.3g} to {array.max():.3g}")
    return (array.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)


def _array(values) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=np.float64)


def image_grid(images, titles: Sequence[str] | None = None, columns: int | None = None) -> Figure:
    """Images in rows, a line of text above each.

    Args:
        images: tensor (n, 3, h, w) in [0, 1], or a sequence of such images or of PIL images.
        titles: n strings, wrapped to the width of an image.
        columns: images in a row; default at most 8.

    Returns: the figure, as wide as the column. Raises ValueError for no images or another number of titles.
    """
    pictures = [pixels(image) for image in images]
    if not pictures:
        raise ValueError("images must hold at least one image, got none")
    if titles is not None and len(titles) != len(pictures):
        raise ValueError(f"titles must be one per image ({len(pictures)}), got {len(titles)}")
    columns = min(len(pictures), 8) if columns is None else columns
    if columns < 1:
        raise ValueError(f"columns must be a positive int, got {columns}")
    rows = -(-len(pictures) // columns)
    cell = WIDTH / columns
    titles = [] if titles is None else [str(title) for title in titles]
    wrapped = [textwrap.fill(t, max(8, int(cell / 0.078)), break_long_words=False) for t in titles]
    # A letter of 9 points is about 0.07 inches wide: smaller letters only where a single word would not fit.
    longest = max((len(word) for title in titles for word in title.split()), default=1)
    size = min(9.0, 9.0 * cell / (0.07 * longest))
    lines = max((text.count("\n") + 1 for text in wrapped), default=0)
    aspect = max(picture.shape[0] / picture.shape[1] for picture in pictures)
    figure = Figure(figsize=(WIDTH, rows * (cell * aspect + 0.17 * lines + 0.09)))
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.axis("off")
    for i, (axis, picture) in enumerate(zip(axes, pictures, strict=False)):  # the last row may be short
        axis.imshow(picture)
        if wrapped:
            axis.set_title(wrapped[i], fontsize=size, fontweight="normal", loc="center", pad=3)
    return figure


def similarity_matrix(
    similarity,
    rows: Sequence[str] | None = None,
    columns: Sequence[str] | None = None,
    *,
    label: str = "cosine similarity",
    ylabel: str = "image",
    xlabel: str = "caption",
    vmin: float | None = None,
    vmax: float | None = None,
) -> Figure:
    """A matrix as a heat map, its values written in when there is room (up to 10 columns).

    Args:
        similarity: (n, m), finite; also a confusion matrix or any other table of one unit.
        rows, columns: n and m names; without them the axes count.
        label: what a cell holds, with its unit.
        vmin, vmax: ends of the colour scale; give both when several matrices are compared.

    Returns: the figure. Raises ValueError for NaN, another shape, or another number of names.
    """
    matrix = _array(similarity)
    if matrix.ndim != 2 or not matrix.size:
        raise ValueError(f"similarity must have the shape (n, m), got {matrix.shape}")
    if not np.isfinite(matrix).all():
        raise ValueError("similarity must be finite, got NaN or infinity")
    for name, given, size in (("rows", rows, len(matrix)), ("columns", columns, matrix.shape[1])):
        if given is not None and len(given) != size:
            raise ValueError(f"{name} must hold {size} names, got {len(given)}")
    n, m = matrix.shape
    height = min(7.0, max(2.4, 5.2 * n / m)) + (0.07 * max(map(len, columns)) if columns is not None else 0.3)
    figure = Figure(figsize=(WIDTH, height))
    axis = figure.subplots()
    picture = axis.imshow(matrix, vmin=vmin, vmax=vmax)
    axis.grid(False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if rows is not None:
        axis.set_yticks(range(n), rows, fontsize=min(9.5, 300 / n))
    if columns is not None:
        axis.set_xticks(range(m), columns, fontsize=min(9.5, 300 / m))
        if max(map(len, columns)) > 40 / m:  # too long to stand side by side
            axis.tick_params(axis="x", rotation=90)
    figure.colorbar(picture, ax=axis, label=label, shrink=0.8, aspect=30).outline.set_visible(False)
    if m <= 10 and n <= 16:
        for i, j in np.ndindex(n, m):
            red, green, blue, _ = picture.cmap(picture.norm(matrix[i, j]))
            # Relative luminance: 0.21 is where white letters and INK read equally well, at 4:1.
            dark = 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < 0.21
            axis.text(
                j,
                i,
                f"{matrix[i, j]:.2f}",
                ha="center",
                va="center",
                fontsize=9,
                color="white" if dark else INK,
            )
    return figure


def bars_by_domain(
    accuracy: Mapping[str, Mapping[str, float | Sequence[float]]],
    *,
    chance: float | None = None,
    xlabel: str = "top-1 accuracy (%)",
) -> Figure:
    """Accuracy in every domain (medium), a bar per series, its mean over domains in the series' label.

    Args:
        accuracy: {series: {domain: value in [0, 1], or one value per seed}}; the same domains in each series.
        chance: accuracy of guessing, in [0, 1]; drawn and labelled.

    Returns: the figure; with several seeds the whiskers are one standard deviation. Raises ValueError for
        values outside [0, 1], or series with different domains or numbers of seeds.
    """
    if not accuracy or not all(accuracy.values()):
        raise ValueError("accuracy must hold at least one series with one domain, got none")
    domains = list(next(iter(accuracy.values())))
    table = {}
    for name, values in accuracy.items():
        if set(values) != set(domains):
            raise ValueError(f"accuracy[{name!r}] must have the domains {domains}, got {list(values)}")
        seeds = {np.atleast_1d(values[d]).shape for d in domains}
        if len(seeds) > 1 or len(next(iter(seeds))) > 1:
            raise ValueError(f"accuracy[{name!r}] must have the same number of seeds in every domain")
        table[name] = np.array([np.atleast_1d(values[d]) for d in domains], dtype=float)  # (domains, seeds)
        if not ((table[name] >= 0) & (table[name] <= 1)).all():
            raise ValueError(
                f"accuracy[{name!r}] must lie in [0, 1], got {table[name].min():g} to {table[name].max():g}"
            )
    n_seeds = {values.shape[1] for values in table.values()}
    if len(n_seeds) > 1:
        raise ValueError(f"accuracy must have the same number of seeds in every series, got {sorted(n_seeds)}")
    seeds = n_seeds.pop()
    thick = 0.8 / len(table)
    figure = Figure(figsize=(WIDTH, 0.9 + len(domains) * max(0.36, 0.22 * len(table))))
    axis = figure.subplots()
    for k, (name, values) in enumerate(table.items()):
        mean, spread = 100 * values.mean(1), 100 * values.std(1, ddof=1) if seeds > 1 else None
        y = np.arange(len(domains)) + (k - (len(table) - 1) / 2) * thick
        axis.barh(
            y,
            mean,
            thick * 0.92,
            xerr=spread,
            color=PALETTE[k % len(PALETTE)],
            error_kw={"ecolor": INK, "elinewidth": 1.2, "capsize": 2},
        )
        # The name stands once, beside the first bar: a direct label instead of a legend.
        names = [f"  {name}, mean {mean.mean():.1f}" if i == 0 else "" for i in range(len(domains))]
        for i, value in enumerate(mean):
            right = value + 1 + (spread[i] if seeds > 1 else 0)
            axis.text(right, y[i], f"{value:.1f}{names[i]}", va="center", fontsize=9, color=INK)
    axis.set_yticks(range(len(domains)), domains)
    axis.invert_yaxis()
    axis.grid(axis="y", visible=False)
    axis.tick_params(axis="y", length=0)
    axis.set(xlim=(0, 112), xticks=range(0, 101, 20), xlabel=xlabel)
    _note_seeds(axis, seeds)
    if chance is not None:
        axis.axvline(100 * chance, color=QUIET, linewidth=1.2, linestyle=":")
        axis.annotate(
            f"chance {100 * chance:.1f}",
            (100 * chance, 1),
            (3, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            fontsize=9,
            color=QUIET,
        )
    return figure


def curves(x, series: Mapping[str, Sequence], *, xlabel: str, ylabel: str, chance: float | None = None) -> Figure:
    """Lines over a common x, each labelled at its end, with a band over seeds.

    Args:
        x: (t,), for instance optimiser steps.
        series: {name: (t,), or (seeds, t)}; the band is one standard deviation each way.
        xlabel, ylabel: with units.
        chance: value without any skill, in the unit of y; drawn and labelled.

    Returns: the figure, with the number of seeds written in it when there is a band. Raises ValueError for
        NaN, or a series whose length is not x's.
    """
    x = _array(x)
    if not series:
        raise ValueError("series must hold at least one line, got none")
    lines = {}
    for name, values in series.items():
        values = np.atleast_2d(_array(values))
        if values.ndim != 2 or values.shape[1:] != x.shape:
            raise ValueError(f"series[{name!r}] must be ({len(x)},) or (seeds, {len(x)}), as x is, got {values.shape}")
        if not np.isfinite(values).all():
            raise ValueError(f"series[{name!r}] must be finite, got NaN or infinity")
        lines[name] = values
    figure = Figure()
    axis = figure.subplots()
    ends = []
    for name, values in lines.items():
        mean = values.mean(0)
        (line,) = axis.plot(x, mean)
        if len(values) > 1:
            spread = values.std(0, ddof=1)
            axis.fill_between(x, mean - spread, mean + spread, color=line.get_color(), alpha=0.2, linewidth=0)
        ends.append((mean[-1], name, line.get_color()))
    if chance is not None:
        axis.axhline(chance, color=QUIET, linewidth=1.2, linestyle=":")
        ends.append((chance, "chance", QUIET))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    axis.margins(x=0)
    _label_ends(axis, x[-1], ends)
    _note_seeds(axis, *sorted({len(values) for values in lines.values()}))
    return figure


def _label_ends(axis, x_end: float, ends) -> None:
    """Names beside the lines' last points, pushed apart so that none covers another."""
    axis.autoscale_view()  # otherwise the limits, and with them the distances on paper, are not known yet
    points = [axis.transData.transform((x_end, y))[1] * 72 / axis.figure.dpi for y, _, _ in ends]
    order = np.argsort(points)
    shifted = np.array(points)
    for below, above in pairwise(order):
        shifted[above] = max(shifted[above], shifted[below] + 12)
    shifted -= (shifted - points).mean()  # the pile stays centred on its lines
    for (y, name, color), target, point in zip(ends, shifted, points, strict=True):
        axis.annotate(
            name,
            (x_end, y),
            (6, target - point),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=_readable(color),
            annotation_clip=False,
        )


def _readable(color: str) -> tuple[float, float, float]:
    """A line's colour, darkened for text: letters need 4.5:1 where a line needs 3:1."""
    return tuple(0.6 * np.array(to_rgb(color)) + 0.4 * np.array(to_rgb(INK)))


def _note_seeds(axis, *seeds: int) -> None:
    if max(seeds) > 1:
        count = str(seeds[0]) if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]}"
        axis.set_title(
            f"mean ± standard deviation, {count} seeds",
            fontsize=9,
            fontweight="normal",
            color=QUIET,
            loc="right",
        )
