"""Figures in notebooks: saved, shown, with a caption."""

import io

import matplotlib.pyplot as plt
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from kdlib import runs
from kdlib.figures import style


def figure(profile: str, drawn: Figure, file: str, caption: str, table: str) -> None:
    """Save a figure as data/figures/<profile>/<file>.png, and show it above its caption.

    The caption, in sentences, is the claim, and the picture's text for those who cannot see it; the
    table in data/results/<profile> is what it was drawn from. The figure is closed afterwards.
    """
    path = runs.figures_dir(profile) / f"{file}.png"
    style.save(drawn, path)
    plt.close(drawn)
    small = io.BytesIO()  # 64 colours show the same in a third of the bytes
    picture = PIL.Image.open(path).convert("RGB").quantize(64)
    picture.save(small, "png", optimize=True)
    display(Image(small.getvalue(), alt=caption, width=picture.width * 2 // 3))
    display(Markdown(f"*{caption} Drawn from `data/results/{profile}/{table}.csv`.*"))
