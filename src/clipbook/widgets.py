"""A slider over pictures drawn beforehand: it works in Jupyter, in Colab, and in a built page with no kernel.

`interact` calls Python at every move, so on a published page it is dead. Here every picture is already in the
page; the slider and the stack of pictures are linked in the browser, and Python is needed only to draw.

Two causes at once (say K and beta) would be a Stack of Stacks: one slider linked to the outer one, the other
to every inner one.
"""

import base64
import io
import json
from collections.abc import Sequence
from html import escape

import ipywidgets
import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from clipbook import plots

MAX_BYTES = 3_000_000  # of one slider, as it stands in the page: several still load on a phone
SHARPNESS = 1.5  # pixels drawn per pixel shown: crisp on a phone at half the bytes of 2

# What ipywidgets leaves out and a screen reader needs: the slider's name, and the label of its position
# instead of a bare number. It runs whenever a picture is shown (a Stack puts only the chosen one in the
# page); the slider itself may be drawn a little later than the first picture, hence the retries.
_NAME_SLIDER = """
(function name(picture, tries) {{
  const root = picture.closest('.clipbook-frames'), handle = root && root.querySelector('.noUi-handle');
  if (!handle) {{ if (tries) setTimeout(name, 100, picture, tries - 1); return; }}
  handle.setAttribute('aria-label', {name});
  handle.setAttribute('aria-valuetext', {label});
}})(this, 50)
"""


class Frames(ipywidgets.VBox):
    """The box that `frames` returns; as plain text it says what a reader without widgets misses."""

    def __init__(self, children, summary: str):
        super().__init__(children)
        self._summary = summary
        self.add_class("clipbook-frames")

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        bundle["text/plain"] = self._summary
        return bundle


def frames(pictures: Sequence, labels: Sequence[str], *, name: str, alt: str | Sequence[str]) -> Frames:
    """A slider that shows one of several pictures, with the label of the one in view.

    Args:
        pictures: two or more of one size: matplotlib figures, PIL images, or tensors (3, h, w) in [0, 1].
            Small images are enlarged without smoothing.
        labels: one string per picture, the value that it stands for ("0.5", "10 steps").
        name: what the slider changes ("correlation"); shown before the label and read out for the slider.
        alt: what the pictures show, for whoever cannot see them: one string per picture, or one for all,
            to which name and label are added.

    Returns: the widget; make it the last line of the cell.

    Raises ValueError for fewer than two pictures, another number of labels or alts, empty texts, pictures of
    different sizes, or more than MAX_BYTES in all.

    Defined in {ref}`world`.
    """
    pictures, labels = list(pictures), [str(label) for label in labels]
    if len(pictures) < 2:
        raise ValueError(f"pictures must hold at least two, got {len(pictures)}")
    if len(labels) != len(pictures):
        raise ValueError(f"labels must be one per picture ({len(pictures)}), got {len(labels)}")
    one = isinstance(alt, str) and alt.strip()
    alts = [f"{alt}; {name}: {label}" for label in labels] if one else list(alt)
    if len(alts) != len(pictures):
        raise ValueError(f"alt must be one string, or one per picture ({len(pictures)}), got {alt!r}")
    if not all(text.strip() for text in (name, *labels, *alts)):
        raise ValueError("name, labels and alt must not be empty: they are all that some readers get")

    images = [_draw(picture) for picture in pictures]
    sizes = [image.size for image in images]
    if len(set(sizes)) > 1:
        odd = next(i for i, size in enumerate(sizes) if size != sizes[0])
        raise ValueError(f"pictures must have one size, {sizes[0]} pixels as the first; number {odd} has {sizes[odd]}")
    width, height = sizes[0]
    if isinstance(pictures[0], Figure):
        shown, smoothing = round(width / SHARPNESS), "auto"
    else:
        enlarge = max(1, 256 // width)
        shown, smoothing = width * enlarge, "pixelated" if enlarge > 1 else "auto"
    # width and height keep the place of a picture that is still being decoded: the page does not jump.
    place = (
        f'width="{shown}" height="{round(shown * height / width)}" decoding="sync" '
        f'style="max-width:100%;height:auto;padding:0;image-rendering:{smoothing}"'
    )
    values = []
    for image, label, text in zip(images, labels, alts, strict=True):
        script = " ".join(_NAME_SLIDER.format(name=json.dumps(name), label=json.dumps(label)).split())
        values.append(
            f'<div style="line-height:1.5">{escape(name)}: <strong>{escape(label)}</strong></div>'
            f'<img alt="{escape(text)}" {place} onload="{escape(script)}" src="{_data_url(image)}">'
        )
    size = sum(map(len, values))
    if size > MAX_BYTES:
        raise ValueError(
            f"pictures must take at most {MAX_BYTES / 1e6:.1f} MB together, got {size / 1e6:.1f} MB in "
            f"{len(values)} pictures of {width} x {height}: use fewer, or smaller, or smoother ones"
        )
    slider = ipywidgets.IntSlider(
        min=0,
        max=len(values) - 1,
        readout=False,
        style={"handle_color": plots.PALETTE[0]},  # white as by default, it is lost on a light page
        layout=ipywidgets.Layout(width="auto", max_width="700px"),
    )
    stack = ipywidgets.Stack([ipywidgets.HTML(value) for value in values], selected_index=0)
    ipywidgets.jslink((slider, "value"), (stack, "selected_index"))
    return Frames([slider, stack], f"Slider over {name} ({', '.join(labels)}). {alts[0]}")


def _draw(picture) -> Image.Image:
    if not isinstance(picture, Figure):
        return Image.fromarray(plots.pixels(picture))
    buffer = io.BytesIO()
    picture.savefig(buffer, format="png", dpi=SHARPNESS * 100)
    plt.close(picture)  # one drawn with pyplot would show once more at the end of the cell
    return Image.open(buffer).convert("RGB")


def _data_url(image: Image.Image) -> str:
    """Lossless WebP, which is small for a figure; photographs and grain take the lossy one."""
    best = b""
    for options in ({"lossless": True}, {"quality": 85}):
        buffer = io.BytesIO()
        image.save(buffer, format="WebP", method=4, **options)
        if not best or len(buffer.getvalue()) < 0.6 * len(best):
            best = buffer.getvalue()
        if len(best) < 50_000:
            break
    return "data:image/webp;base64," + base64.b64encode(best).decode("ascii")
