"""Figures in notebooks: saved, shown, with a caption."""

import io

import matplotlib.pyplot as plt
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from kdlib import runs
from kdlib.figures import style


def figure(profile: str, drawn: Figure, file: str, caption: str, table: str) -> None:
    """Save a figure, show it, and say below it what it shows and where its numbers lie.

    Args:
        profile: its name; the file is data/figures/<profile>/<file>.png.
        drawn: closed afterwards.
        file: name without suffix.
        caption: the claim, as sentences; the picture's text for those who cannot see it, too.
        table: the name of the table in data/results/<profile> from which it was drawn.
    """
    path = runs.figures_dir(profile) / f"{file}.png"
    style.save(drawn, path)
    plt.close(drawn)
    small = io.BytesIO()  # 64 colours show the same in a third of the bytes
    picture = PIL.Image.open(path).convert("RGB").quantize(64)
    picture.save(small, "png", optimize=True)
    display(Image(small.getvalue(), alt=caption, width=picture.width * 2 // 3))
    display(Markdown(f"*{caption} Drawn from `data/results/{profile}/{table}.csv`.*"))
