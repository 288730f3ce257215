"""Figures in notebooks: saved, shown, with a caption."""

import io

import matplotlib.pyplot as plt
import PIL.Image
from IPython.display import Image, Markdown, display
from matplotlib.figure import Figure

from kdlib import runs


def figure(profile: str, fig: Figure, file: str, caption: str, table: str) -> None:
    """Save a figure as data/figures/<profile>/<file>.png (150 dpi), show and close it.

    The caption says the claim, also to those who cannot see the picture; `table` was drawn from.
    """
    path = runs.figures_dir(profile) / f"{file}.png"
    with runs.atomic(path) as temporary:
        fig.savefig(temporary, format="png", dpi=150, bbox_inches="tight")
    plt.close(fig)
    buffer = io.BytesIO()  # 256 colours show the same in a third of the bytes
    image = PIL.Image.open(path).convert("RGB").quantize()
    image.save(buffer, "png", optimize=True)
    display(Image(buffer.getvalue(), alt=caption, width=image.width * 2 // 3))
    display(Markdown(f"*{caption} Drawn from `data/results/{profile}/{table}.csv`.*"))
