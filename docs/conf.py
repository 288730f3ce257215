"""Settings of the site. `make site` lays out docs/notebooks, then calls Sphinx with PROFILE."""

import os
import pkgutil
import re
import tomllib
from pathlib import Path

import matplotlib.pyplot as plt
from docutils.nodes import SkipNode
from jinja2 import StrictUndefined, Template
from latex2mathml.converter import convert
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter
from matplotlib_fontja.matplotlib_fontja import FONT_NAME
from sphinx.application import Sphinx

import kdlib
from kdlib.config.profile import load_profile
from kdlib.figures import study_plots, style
from kdlib.report import findings, from_scratch, results, site
from kdlib.report.usefulness_sentences import ranked
from kdlib.stats import row_text

project = html_title = "What a model remembers"
author = copyright = "The kdlib authors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = [".doctrees"]

# Notebooks are shown as they were executed.
nb_execution_mode = "off"
nb_render_markdown_format = "myst"  # links and tables in outputs, too
nb_merge_streams = True
nb_code_prompt_show = nb_code_prompt_hide = "What was seen"  # of cells tagged `solutions`
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3

default_role = "code"  # docstrings mark code by single backticks
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True  # as written, without paths of this machine
toc_object_entries = False

html_theme = "sphinx_book_theme"
html_context = {"default_mode": "auto"}
html_static_path = ["_static"]
html_favicon = "_static/icon.svg"
html_css_files = ["site.css"]
html_sourcelink_suffix = ""
html_show_copyright = False
html_use_index = html_domain_indices = False  # there is the search
html_math_renderer = "mathml"  # browsers draw it themselves: no script, no network
html_theme_options = {
    "home_page_in_toc": True,
    "navbar_persistent": [],  # the search stands in the sidebar
    "use_fullscreen_button": False,
    "show_toc_level": 2,
}
if REPOSITORY := os.environ.get("GITHUB_REPOSITORY"):  # set where GitHub builds the site
    # Binder installs environment.yml and opens the notebook within the whole project.
    html_theme_options |= {
        "repository_url": f"https://github.com/{REPOSITORY}",
        "repository_branch": os.environ.get("GITHUB_REF_NAME", "main"),
        "launch_buttons": {
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    }

HERE = Path(__file__).parent
PROFILE = load_profile(os.environ.get("PROFILE", "laptop")).name
MODULES = sorted(
    found.name for found in pkgutil.walk_packages(kdlib.__path__, "kdlib.") if not found.ispkg
)
MARK = re.compile(r"(`[^`]*`)|[*|]|_(?!\w)")
JAPANESE = site.translator(tomllib.loads((HERE / "ja" / "words.toml").read_text("utf-8")))


def drawing_style() -> None:
    """The series' style, with a second font for what its first has no glyphs of."""
    style.style()
    plt.rcParams["font.family"] = ["sans-serif", FONT_NAME]


def draw(_: Sphinx) -> None:
    """Draw what the pages of this folder show, from the tables alone, in either language."""
    drawing_style()
    (HERE / "figures").mkdir(exist_ok=True)
    drawn = {"memorized": study_plots.memorization_by_size(results.read(PROFILE, "table1"))}
    if len(compared := results.compared(PROFILE)):
        drawn["compared"] = study_plots.less_than_sft(compared, results.WAYS)
    for name, figure in drawn.items():
        figure.savefig(HERE / "figures" / f"{name}.png")
        in_japanese(figure)
        figure.savefig(HERE / "figures" / f"{name}-ja.png")


def in_japanese(figure: Figure) -> None:
    """Translate what a figure says."""
    for axis in (one for axes in figure.axes for one in (axes.xaxis, axes.yaxis)):
        if isinstance(axis.get_major_formatter(), FuncFormatter):  # its ticks have names
            names = [JAPANESE(tick.get_text()) for tick in axis.get_ticklabels()]
            if any(names):  # none, where the panel to the left has them
                axis.set_ticks(axis.get_ticklocs(), names)
    for text in figure.findobj(Text):
        text.set_text(JAPANESE(text.get_text()))


def fill(_: Sphinx, page: str, text: list[str]) -> None:
    """Put numbers and names into the pages of this folder, which are Jinja templates."""
    if page.startswith("notebooks/"):
        return
    say = JAPANESE if page.startswith("ja/") else str
    known = {"profile": PROFILE, "modules": MODULES, "results": results, "findings": findings}
    known |= {"from_scratch": from_scratch, "ranked": ranked, "row_text": row_text}
    known["executed"] = site.copies(PROFILE)
    if page.split("/")[-1] in ("conclusion", "decide"):
        known |= site.decision(PROFILE, say) | site.conclusion(PROFILE, say)
    text[0] = Template(text[0], undefined=StrictUndefined).render(known)


def name_language(_app, page, _template, context, _tree) -> None:
    """Tell browsers, and who has pages read aloud, which pages are Japanese."""
    if page.startswith("ja/"):
        context["language"] = "ja"


def plain(*about) -> None:
    """Docstrings are plain text with code in single backticks: other marks stand for themselves."""
    lines = about[-1]
    lines[:] = [MARK.sub(lambda mark: mark[1] or f"\\{mark[0]}", line) for line in lines]


def inline_math(writer, node) -> None:
    """Write a formula within a line as MathML."""
    writer.body.append(convert(node.astext()))
    raise SkipNode


def display_math(writer, node) -> None:
    """Write a formula of its own line as MathML."""
    writer.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise SkipNode


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", draw)
    app.connect("source-read", fill)
    app.connect("html-page-context", name_language)
    app.connect("autodoc-process-docstring", plain)
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))
