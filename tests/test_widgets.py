"""The slider: in a kernel, and then on a static page in a browser with no kernel and no network."""

import base64
import io
import json
import re
from pathlib import Path

import nbformat
import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from nbclient import NotebookClient
from PIL import Image

from clipbook import plots, widgets

ROOT = Path(__file__).parents[1]
STATE, VIEW = "application/vnd.jupyter.widget-state+json", "application/vnd.jupyter.widget-view+json"
CELLS = (
    "import matplotlib.pyplot as plt\nimport numpy as np\nfrom clipbook import plots, widgets\nplots.use()",
    'plots.curves(np.arange(5), {"a": np.arange(5.0)}, xlabel="step", ylabel="loss (nats)")',
    "_ = plt.subplots()",
    """def figure(k):
    drawn, axis = plt.subplots(figsize=(7, 3))
    axis.plot([0, k])
    axis.set(ylim=(0, 4))
    return drawn
figures = [figure(k) for k in range(4)]
widgets.frames(figures, range(4), name='slope of "a" <line>', alt="A line from zero")""",
)


@pytest.fixture(scope="module")
def notebook():
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in CELLS])
    return NotebookClient(made, kernel_name="python3").execute()


def test_each_figure_shows_once_at_the_width_of_the_column(notebook):
    for cell in notebook.cells[1:3]:
        (output,) = cell.outputs
        image = Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))
        shown = output.metadata["image/png"]
        assert set(shown) == {"width"}, "a height beside it would stretch the figure on a phone"
        assert 680 <= shown["width"] <= 730
        assert image.width in (2 * shown["width"], 2 * shown["width"] + 1)


def test_the_slider_is_all_that_its_cell_shows_and_has_words_for_plain_text(notebook):
    (output,) = notebook.cells[3].outputs
    assert set(output.data) == {"text/plain", VIEW}
    assert output.data["text/plain"] == (
        'Slider over slope of "a" <line> (0, 1, 2, 3). A line from zero; slope of "a" <line>: 0'
    )


@pytest.mark.parametrize("width", [1280, 390])
def test_a_static_page_moves_picture_label_and_names_by_keyboard(notebook, browser, tmp_path, width):
    view = notebook.cells[3].outputs[0].data[VIEW]
    state = notebook.metadata.widgets[STATE]
    config = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    scripts = [(ROOT / "book" / "_static" / name).as_uri() for name in config["nb_ipywidgets_js"]]
    scripts = "".join(f'<script src="{script}"></script>' for script in scripts)
    page_file, state = tmp_path / "page.html", json.dumps(state).replace("</", "<\\/")
    page_file.write_text(
        f"""<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">
        {scripts}
        <script type="{STATE}">{state}</script>
        <main><script type="{VIEW}">{json.dumps(view)}</script></main>"""
    )
    page = browser.new_page(viewport={"width": width, "height": 800})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.goto(page_file.as_uri())
    handle = page.get_by_role("slider", name='slope of "a" <line>', exact=True)
    handle.wait_for()
    page.keyboard.press("Tab")
    assert handle.evaluate("handle => handle === document.activeElement"), "reached by Tab alone"

    def seen():
        return page.evaluate("""() => {
            const [picture, ...others] = document.querySelectorAll('.clipbook-frames img');
            const box = picture.getBoundingClientRect();
            return {others: others.length, source: picture.src, alt: picture.alt,
                    pixels: picture.naturalWidth, box: [box.x, box.y, box.width, box.height],
                    label: document.querySelector('.clipbook-frames strong').textContent,
                    scrolls: document.documentElement.scrollWidth > innerWidth};
        }""")

    shots = []
    for label, key in (
        ("0", "ArrowRight"),
        ("1", "ArrowRight"),
        ("2", "End"),
        ("3", "ArrowLeft"),
        ("2", "Home"),
    ):
        page.wait_for_function("label => document.querySelector('.noUi-handle').ariaValueText === label", arg=label)
        shots.append(seen())
        assert shots[-1]["alt"] == f'A line from zero; slope of "a" <line>: {label}'
        assert shots[-1]["label"] == label
        page.keyboard.press(key)
    assert len({shot["source"] for shot in shots}) == 4, "four pictures, the last shown twice"
    assert all(shot["source"].startswith("data:image/webp;base64,") for shot in shots)
    assert all(shot["box"] == shots[0]["box"] for shot in shots), "the page does not jump"
    assert shots[0]["pixels"] == 1050
    assert shots[0]["box"][2] <= min(width, 700)
    assert shots[0]["box"][3] == pytest.approx(shots[0]["box"][2] * 3 / 7, abs=1)
    assert not any(shot["others"] or shot["scrolls"] for shot in shots)
    assert not errors
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


def test_small_images_are_enlarged_without_loss_or_smoothing():
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 64, 64)) / 255
    _, stack = widgets.frames(list(images), ["a", "b"], name="object", alt=["a cat", "a dog"]).children
    for image, alt, child in zip(images, ("a cat", "a dog"), stack.children, strict=True):
        assert f'<img alt="{alt}" width="256" height="256"' in child.value
        assert "image-rendering:pixelated" in child.value
        data = base64.b64decode(re.search(r'base64,([^"]+)"', child.value)[1])
        assert (np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) == plots.pixels(image)).all()


GREY = np.full((3, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pictures": [GREY]}, "at least two, got 1"),
        ({"labels": ["a"]}, r"one per picture \(2\), got 1"),
        ({"alt": ["a"]}, r"alt must be one string, or one per picture \(2\)"),
        ({"alt": ""}, "alt must be one string"),
        ({"alt": ["a", " "]}, "must not be empty"),
        ({"name": ""}, "must not be empty"),
        ({"labels": ["a", ""]}, "must not be empty"),
        (
            {"pictures": [GREY, np.full((3, 9, 8), 0.5)]},
            r"\(8, 8\) pixels as the first; number 1 has \(8, 9\)",
        ),
        ({"pictures": [GREY, 2 * GREY + 0.1]}, r"lie in \[0, 1\]"),
        ({"pictures": [Figure((7, 3)), Figure((7, 4))]}, "must have one size"),
        (
            {"pictures": np.random.default_rng(0).random((2, 3, 512, 512))},
            r"at most 0\.3 MB together, got \d\.\d MB in 2 pictures of 512 x 512",
        ),
    ],
)
def test_bad_input_is_named(monkeypatch, change, message):
    monkeypatch.setattr(widgets, "MAX_BYTES", 300_000)
    with pytest.raises(ValueError, match=message):
        widgets.frames(**({"pictures": [GREY, GREY], "labels": ["a", "b"], "name": "grey", "alt": "grey"} | change))
