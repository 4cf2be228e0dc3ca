"""The built pages as a reader meets them: in a browser, with no kernel and no network."""

from __future__ import annotations

from pathlib import Path

import pairs
import pytest

import book

pytestmark = pytest.mark.built

CHAPTERS = [path.relative_to(book.ROOT).with_suffix("").as_posix() for path in pairs.chapters()]
PAGES = [str(Path(page).with_suffix("")) for page in book.pages()]
SCREENSHOTS = book.BUILD / "screenshots"
SLICE = 2400  # pixels
SIZES = {"desktop": {"width": 1280, "height": 900}, "phone": {"width": 390, "height": 844}}
VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]'
PATIENCE = 60_000  # milliseconds: a machine that also trains a model is slow, not wrong


class Opened:
    """A page in a browser, and everything that went wrong on it."""

    def __init__(self, browser, site: str, name: str, size: str):
        self.name, self.size, self.site, self.trouble = name, size, site, []
        self.context = browser.new_context(viewport=SIZES[size], reduced_motion="reduce")
        self.context.set_default_timeout(PATIENCE)
        self.context.route(lambda url: not url.startswith((site, "data:", "blob:")), self.refuse)
        self.page = self.context.new_page()
        self.page.on("console", lambda m: self.trouble.append(f"console: {m.text}") if m.type == "error" else None)
        self.page.on("pageerror", lambda error: self.trouble.append(f"error: {error}"))
        self.page.on("response", lambda r: self.trouble.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        self.page.goto(f"{site}/{name}.html", wait_until="load")
        if name == "index":  # sends on to the first page
            self.page.wait_for_url("**/book/intro.html")
        self.page.evaluate("() => window.MathJax ? MathJax.startup.promise : null")
        self.page.wait_for_function(  # every widget is drawn, and so is what is in a box
            f"""() => [...document.querySelectorAll('{VIEW}')]
                 .every(view => view.parentElement.querySelector('.jupyter-widgets'))
                  && !document.querySelector('.widget-box:empty, .widget-box > :not(.jupyter-widgets)')"""
        )

    def refuse(self, route) -> None:
        self.trouble.append(f"asked the network for {route.request.url}")
        route.abort()

    def picture(self, theme: str) -> None:
        """The whole page in slices: of a page this long Chromium leaves most blank in one picture."""
        size = SIZES[self.size]
        self.page.set_viewport_size(size | {"height": SLICE})
        height = self.page.evaluate("() => document.documentElement.scrollHeight")
        for part, top in enumerate(range(0, height, SLICE)):
            self.page.evaluate("top => scrollTo(0, top)", top)
            self.page.screenshot(path=SCREENSHOTS / self.name / f"{theme}-{part:02d}.png")
        self.page.set_viewport_size(size)

    def check(self) -> None:
        assert not self.trouble, f"{self.name} ({self.size}): " + "\n".join(self.trouble)


def on(names: list[str], *sizes: str):
    """The tests below share one opened page per name and size: pytest runs them together, in the order of this file."""
    wanted = [pytest.param((name, size), id=f"{name}-{size}") for name in names for size in sizes]
    return pytest.mark.parametrize("opened", wanted, indirect=True, scope="module")


@pytest.fixture(scope="module")
def opened(request, browser, site):
    made = Opened(browser, site, *request.param)
    yield made
    made.context.close()


@on([*PAGES, "index", "search", "genindex"], "desktop", "phone")
def test_page_is_sound(opened: Opened):
    page = opened.page
    page.wait_for_timeout(300)  # late scripts may still ask for something
    opened.check()
    mute = page.evaluate(
        """() => [...document.querySelectorAll('main img')]
                 .filter(i => !i.alt.trim() || /\\.(png|svg|jpe?g|webp)$/.test(i.alt)).map(i => i.src.slice(0, 100))"""
    )
    assert not mute, f"pictures without alt text: {mute}"
    views, handles = (page.locator(which).count() for which in (VIEW, ".cell_output .noUi-handle"))
    assert views == handles, f"{views} widgets, {handles} sliders: any other widget is dead without a kernel"
    raw = page.evaluate(
        """() => [...document.querySelectorAll('main .math')]
                 .filter(m => !m.querySelector('mjx-container')).map(m => m.textContent)"""
    )
    raw += page.evaluate(  # a formula broken by the text around it is never marked as one
        """() => [...document.querySelectorAll('main :is(p, li, td, th, h1, h2, h3)')]
                 .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.data.includes('$')))
                 .map(e => e.textContent.slice(0, 100))"""
    )
    assert not raw, f"equations that MathJax did not set: {raw}"
    broken = page.evaluate("() => [...document.querySelectorAll('mjx-merror')].map(m => m.textContent)")
    assert not broken, f"equations with errors: {broken}"
    width = page.evaluate("() => document.documentElement.scrollWidth")
    wide = page.evaluate(
        """() => [...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
                 .map(e => e.tagName + '.' + e.className).slice(0, 8)"""
    )
    assert width <= SIZES[opened.size]["width"], f"the page scrolls sideways: {width} pixels, because of {wide}"


@on(CHAPTERS, "desktop")
def test_chapter_hides_solutions_and_leads_to_colab(opened: Opened):
    page = opened.page
    solutions = page.locator("details.hide")
    assert solutions.count() >= 3
    assert not page.locator("details.hide[open]").count(), "solutions are closed until asked for"
    solutions.first.locator("summary").click()
    assert solutions.first.locator("div.cell_input").is_visible()
    links = page.eval_on_selector_all("a", "all => all.map(a => a.href)")
    repository = pairs.install_cell().split("git+https://")[1].split('"')[0]
    there = repository.replace("github.com", "github")
    colab = f"https://colab.research.google.com/{there}/blob/main/{opened.name}.ipynb"
    assert colab in links, [link for link in links if "colab" in link]
    assert page.request.get(f"{opened.site}/_sources/{opened.name}.ipynb").json()["cells"], "the download button's file"


@on(CHAPTERS, "desktop", "phone")
def test_every_slider_moves_its_picture(opened: Opened):
    page = opened.page
    page.evaluate("() => document.querySelectorAll('details').forEach(d => d.open = true)")
    handles = page.locator(".cell_output .noUi-handle")
    assert handles.count() >= 1, "a chapter has at least one slider"
    seen = """handle => [...handle.closest('.cell_output').querySelectorAll('img')]
                        .filter(i => i.offsetParent && i.naturalWidth).map(i => i.src).join()"""
    for number in range(handles.count()):
        handle = handles.nth(number)
        handle.scroll_into_view_if_needed()
        before = handle.evaluate(seen)
        assert before, f"slider {number} shows no picture"
        handle.focus()
        page.keyboard.press("ArrowRight")
        page.wait_for_function(
            f"([handle, before]) => {{ const now = ({seen})(handle); return now && now !== before; }}",
            arg=[handle.element_handle(), before],
        )
    opened.check()


@on(PAGES, "desktop")
def test_both_themes(opened: Opened):
    """The switch works, text and ground swap, and a picture of each page is left for a person to look at."""
    page, grounds = opened.page, {}
    for theme in ("light", "dark"):
        for _ in range(3):  # auto, light, dark in turn
            if page.evaluate("() => document.documentElement.dataset.mode") == theme:
                break
            page.locator("button.theme-switch-button:visible").first.click()
        assert page.evaluate("() => document.documentElement.dataset.theme") == theme
        page.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
        page.mouse.move(5, 5)
        page.wait_for_timeout(400)
        grounds[theme] = page.evaluate(
            """() => [[document.body, 'backgroundColor'], [document.querySelector('main p'), 'color']]
                     .map(([e, what]) => getComputedStyle(e)[what].match(/\\d+/g).slice(0, 3))
                     .map(rgb => rgb.reduce((sum, part) => sum + +part, 0) / 765)"""
        )
        opened.picture(theme)
    assert grounds["light"][0] > 0.8 > 0.5 > grounds["light"][1], grounds
    assert grounds["dark"][0] < 0.3 < 0.5 < grounds["dark"][1], grounds
    opened.check()
