"""The house style keeps its promises in numbers; figures show what they were given and cut nothing off."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.text import Text
from PIL import Image

from clipbook import plots

MEDIA = ("painting", "sketch", "cartoon", "clipart", "photograph", "infograph", "mosaic art", "sculpture")
STEPS = np.arange(0, 100, 10)


@pytest.fixture(autouse=True)
def style():
    plots.use()


def linear(color):
    c = np.array(to_rgb(color))
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Of WCAG 2: 4.5 for text, 3 for lines."""
    low, high = sorted(linear(c) @ (0.2126, 0.7152, 0.0722) for c in (one, other))
    return (high + 0.05) / (low + 0.05)


def dimmed(color):
    """What the theme does to pictures on a dark page: brightness(.8) contrast(1.2)."""
    return tuple(((np.array(to_rgb(color)) * 0.8 - 0.5) * 1.2 + 0.5).clip(0, 1))


@pytest.mark.parametrize("page", [lambda color: color, dimmed], ids=["light", "dark"])
def test_every_ink_reads_on_the_paper(page):
    paper = page(plots.PAPER)
    assert contrast(page(plots.INK), paper) >= 7
    assert contrast(page(plots.QUIET), paper) >= 4.5
    for color in plots.PALETTE:
        assert contrast(page(color), paper) >= 3, color
        assert contrast(page(plots._readable(color)), paper) >= 4.5, f"{color} as text"


def test_the_palette_tells_apart_for_colour_blind_eyes():
    # Full dichromacy, Machado et al. 2009 (doi 10.1109/TVCG.2009.113), applied to linear RGB.
    eyes = {
        "normal": np.eye(3),
        "protan": [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ],
        "deutan": [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ],
        "tritan": [
            [1.255528, -0.076749, -0.178779],
            [-0.078411, 0.930809, 0.147602],
            [0.004733, 0.691367, 0.303900],
        ],
    }

    def lab(rgb):
        xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ rgb.clip(0, 1)
        x, y, z = np.cbrt(xyz / (0.9505, 1, 1.089))
        return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])

    for eye, matrix in eyes.items():
        seen = [lab(np.array(matrix) @ linear(color)) for color in plots.PALETTE]
        for (i, a), (j, b) in itertools.combinations(enumerate(seen), 2):
            assert np.linalg.norm(a - b) > 10, (eye, plots.PALETTE[i], plots.PALETTE[j])


def rendered(figure):
    FigureCanvasAgg(figure).draw()
    return np.asarray(figure.canvas.buffer_rgba())


def words(figure):
    """Every text that is really drawn, with its box in pixels."""
    drawn, draw = [], Text.draw

    def note(text, renderer):
        drawn.append(text)
        draw(text, renderer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", note)
        rendered(figure)
    return [(text, text.get_window_extent()) for text in drawn if text.get_visible() and text.get_text()]


RNG = np.random.default_rng(0)
FIGURES = {
    "image_grid": lambda: plots.image_grid(
        RNG.random((9, 3, 64, 64)), [f"a small red cat, {m}" for m in (*MEDIA, "x")]
    ),
    "similarity_matrix": lambda: plots.similarity_matrix(
        RNG.random((8, 8)), MEDIA, [f"a picture of a {m}" for m in MEDIA]
    ),
    "bars_by_domain": lambda: plots.bars_by_domain(
        {name: {m: RNG.uniform(0.9, 1, 3) for m in MEDIA} for name in ("one prompt", "a longer name")},
        chance=1 / 32,
    ),
    "curves": lambda: plots.curves(
        STEPS,
        {f"temperature {k}": RNG.random((5, 10)) * 1e-3 + 1 for k in range(5)},
        xlabel="step",
        ylabel="loss (nats)",
        chance=1.0,
    ),
}


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_is_opaque_large_enough_to_read_and_cuts_nothing_off(name):
    figure = FIGURES[name]()
    picture = rendered(figure)
    assert figure.get_figwidth() == plots.WIDTH
    assert (picture[..., 3] == 255).all()
    assert (picture[0, 0, :3] == np.round(np.array(to_rgb(plots.PAPER)) * 255)).all()
    height, width = picture.shape[:2]
    found = words(figure)
    assert len(found) > 8
    for text, box in found:
        assert text.get_fontsize() >= 9, f"{text.get_text()!r}: 9 points are 12.5 pixels in a chapter"
        assert box.x0 >= -1 and box.y0 >= -1 and box.x1 <= width + 1 and box.y1 <= height + 1, text


def test_names_beside_lines_that_end_together_stay_apart():
    boxes = [box for text, box in words(FIGURES["curves"]()) if text.get_text().startswith(("temperature", "chance"))]
    assert len(boxes) == 6
    for a, b in itertools.combinations(boxes, 2):
        assert a.y1 <= b.y0 + 1 or b.y1 <= a.y0 + 1


def test_curves_draw_mean_and_deviation_and_say_how_many_seeds():
    values = RNG.random((4, 10))
    axis = plots.curves(STEPS, {"a": values, "b": values[0]}, xlabel="step", ylabel="loss (nats)").axes[0]
    assert np.allclose(axis.lines[0].get_ydata(), values.mean(0))
    assert np.allclose(axis.lines[1].get_ydata(), values[0])
    (band,) = axis.collections
    top = [max(y for x, y in band.get_paths()[0].vertices if x == step) for step in STEPS]
    assert np.allclose(top, values.mean(0) + values.std(0, ddof=1))
    assert axis.get_title(loc="right") == "mean ± standard deviation, 1 to 4 seeds"
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("step", "loss (nats)")


def test_bars_are_percentages_in_the_given_order_with_chance_and_mean():
    accuracy = {"C": {"sketch": [0.2, 0.4], "photograph": [0.5, 0.7]}}
    axis = plots.bars_by_domain(accuracy, chance=0.25).axes[0]
    assert [bar.get_width() for bar in axis.patches] == pytest.approx([30, 60])
    assert [label.get_text() for label in axis.get_yticklabels()] == ["sketch", "photograph"]
    assert axis.yaxis_inverted(), "the first domain on top"
    texts = [text.get_text() for text in axis.texts]
    assert texts == ["30.0  C, mean 45.0", "60.0", "chance 25.0"]
    assert axis.get_title(loc="right") == "mean ± standard deviation, 2 seeds"


def test_a_matrix_is_drawn_as_given_and_its_numbers_read_on_their_cells():
    matrix = np.linspace(-1, 1, 30).reshape(5, 6)
    axis = plots.similarity_matrix(matrix, vmin=-1, vmax=1).axes[0]
    (picture,) = axis.images
    assert np.allclose(picture.get_array(), matrix)
    assert [text.get_text() for text in axis.texts] == [f"{v:.2f}" for v in matrix.ravel()]
    for text, value in zip(axis.texts, matrix.ravel(), strict=True):
        assert contrast(text.get_color(), picture.cmap(picture.norm(value))[:3]) > 3.8
    assert not plots.similarity_matrix(np.eye(20)).axes[0].texts, "no room for numbers"


def test_images_keep_their_pixels_and_their_order():
    images = np.zeros((3, 3, 4, 4))
    for i in range(3):
        images[i, i] = 1  # red, green, blue
    figure = plots.image_grid(images, columns=2)
    picture = rendered(figure)
    h, w = picture.shape[:2]
    corners = [picture[h // 4, w // 4], picture[h // 4, 3 * w // 4], picture[3 * h // 4, w // 4]]
    assert [tuple(c[:3]) for c in corners] == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    assert (picture[3 * h // 4, 3 * w // 4, :3] == np.round(np.array(to_rgb(plots.PAPER)) * 255)).all()
    pil = Image.fromarray(RNG.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    assert (plots.pixels(np.asarray(pil).transpose(2, 0, 1) / 255) == plots.pixels(pil)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.pixels(np.zeros((64, 64, 3))), r"shape \(3, h, w\), got \(64, 64, 3\)"),
        (lambda: plots.pixels(np.full((3, 2, 2), 2.1)), r"lie in \[0, 1\], got 2.1 to 2.1"),
        (lambda: plots.pixels(np.full((3, 2, 2), np.nan)), r"lie in \[0, 1\], got nan"),
        (lambda: plots.image_grid([]), "at least one image"),
        (lambda: plots.image_grid(np.zeros((2, 3, 4, 4)), ["a"]), r"one per image \(2\), got 1"),
        (
            lambda: plots.image_grid(np.zeros((2, 3, 4, 4)), columns=0),
            "columns must be a positive int, got 0",
        ),
        (lambda: plots.similarity_matrix(np.zeros(3)), r"shape \(n, m\), got \(3,\)"),
        (lambda: plots.similarity_matrix([[np.nan]]), "must be finite"),
        (lambda: plots.similarity_matrix(np.eye(2), rows=["a"]), "rows must hold 2 names, got 1"),
        (lambda: plots.bars_by_domain({}), "at least one series"),
        (lambda: plots.bars_by_domain({"a": {"x": 45.0}}), r"accuracy\['a'\] must lie in \[0, 1\], got 45"),
        (
            lambda: plots.bars_by_domain({"a": {"x": 0.1}, "b": {"y": 0.1}}),
            r"accuracy\['b'\] must have the domains \['x'\]",
        ),
        (
            lambda: plots.bars_by_domain({"a": {"x": [0.1, 0.2], "y": [0.1]}}),
            "same number of seeds in every domain",
        ),
        (
            lambda: plots.bars_by_domain({"a": {"x": [0.1, 0.2]}, "b": {"x": 0.1}}),
            "same number of seeds in every series",
        ),
        (lambda: plots.curves(STEPS, {}, xlabel="x", ylabel="y"), "at least one line"),
        (
            lambda: plots.curves(STEPS, {"a": [1, 2]}, xlabel="x", ylabel="y"),
            r"series\['a'\] must be \(10,\)",
        ),
        (
            lambda: plots.curves(STEPS, {"a": STEPS * np.inf}, xlabel="x", ylabel="y"),
            r"series\['a'\] must be finite",
        ),
    ],
)
def test_bad_input_is_named(call, message):
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match=message):
        call()
