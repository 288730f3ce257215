"""A figure in a notebook is saved, shown and captioned."""

import matplotlib.pyplot as plt

from kdlib.figures import captions


def test_a_figure_is_saved_shown_and_captioned(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KDLIB_ROOT", str(tmp_path))
    drawn, axes = plt.subplots()
    axes.plot([0, 1])
    captions.figure("made", drawn, "line", "It rises.", "numbers")
    saved = tmp_path / "data" / "figures" / "made" / "line.png"
    assert saved.read_bytes().startswith(b"\x89PNG") and not plt.fignum_exists(drawn.number)
    assert "Markdown" in capsys.readouterr().out
