"""Executed copies hold final text, their links hold, and a failed one says why."""

from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from kdlib.report import executed, findings, from_scratch


def stream(text, name="stderr"):
    return new_output("stream", name=name, text=text)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "notebooks" / "executed" / "smoke").mkdir(parents=True)
    for name in ("01_data", "02_teacher", "03_sft"):
        nbformat.write(new_notebook(), tmp_path / "notebooks" / f"{name}.ipynb")
    (tmp_path / "README.md").touch()
    return tmp_path / "notebooks" / "executed" / "smoke"


def copies(folder, *names, cells=()):
    for name in names:
        nbformat.write(new_notebook(cells=list(cells)), folder / f"{name}.ipynb")


def tidied(folder, name, seeds=()):
    executed.tidy(folder, folder.parents[1], seeds)
    return nbformat.read(folder / f"{name}.ipynb", 4).cells


LINKS = "[a](01_data.ipynb) [b](02_teacher.ipynb#part) [c](03_sft.ipynb) [d](../README.md)"


@pytest.mark.parametrize(
    ("name", "seeds", "teacher"),
    [
        ("02_teacher-seed0", (1, 0), "02_teacher-seed0.ipynb"),  # its own seed
        ("02_teacher-seed1", (0, 1), "02_teacher-seed1.ipynb"),
        ("10_comparison", (1, 0), "02_teacher-seed1.ipynb"),  # the first that is reported
        ("10_comparison", (7,), "02_teacher-seed0.ipynb"),  # any that is there
    ],
)
def test_links_lead_to_the_copies_of_the_same_seed(folder, name, seeds, teacher):
    shown = new_output("display_data", data={"text/markdown": LINKS, "text/plain": LINKS})
    cells = [new_markdown_cell(LINKS), new_code_cell(LINKS, outputs=[shown])]
    copies(folder, "01_data", "02_teacher-seed0", "02_teacher-seed1", "10_comparison", cells=cells)
    expected = (
        f"[a](01_data.ipynb) [b]({teacher}#part) [c](../../03_sft.ipynb) [d](../../../README.md)"
    )
    for _ in range(2):  # a second time nothing changes
        text, code = tidied(folder, name, seeds)
        assert text.source == expected
        assert code.outputs[0].data == {"text/markdown": expected, "text/plain": LINKS}
        assert code.source == LINKS


def test_a_copy_that_was_not_kept_gives_way_to_its_source(folder):
    text = new_markdown_cell("[a](02_teacher-seed0.ipynb) [b](../../03_sft-seed0.ipynb)")
    copies(folder, "14_cause", cells=[text])
    (cell,) = tidied(folder, "14_cause")
    assert cell.source == "[a](../../02_teacher.ipynb) [b](../../03_sft.ipynb)"


def test_the_committed_profiles_are_those_that_findings_quote():
    assert set(executed.COMMITTED) == {findings.REFERENCE, from_scratch.PROFILE}
    kept = (Path(__file__).parents[2] / ".gitignore").read_text("utf-8")
    assert all(f"!/notebooks/executed/{name}/" in kept for name in executed.COMMITTED)


def test_what_a_profile_did_not_run_is_read_in_the_copy_of_another(folder):
    laptop, tiny, smoke = (folder.parent / name for name in ("laptop", "tiny", "smoke"))
    for one in (laptop, tiny):
        one.mkdir()
    text = new_markdown_cell("[a](01_data.ipynb#part) [b](02_teacher.ipynb) [c](03_sft.ipynb)")
    copies(laptop, "01_data", "02_teacher-seed0", "02_teacher-seed1", cells=[text])
    copies(tiny, "03_sft", cells=[text])
    copies(smoke, "10_comparison", cells=[text])
    in_laptop = "[a](01_data.ipynb#part) [b](02_teacher-seed1.ipynb) [c](../tiny/03_sft.ipynb)"
    back = "[a](../laptop/01_data.ipynb#part) [b](../laptop/02_teacher-seed1.ipynb)"
    for _ in range(2):  # a second time nothing changes
        assert tidied(laptop, "02_teacher-seed1", [1])[0].source == in_laptop
        assert tidied(tiny, "03_sft", [1])[0].source == f"{back} [c](03_sft.ipynb)"
        (cell,) = tidied(smoke, "10_comparison", [1])
        assert cell.source == f"{back} [c](../tiny/03_sft.ipynb)"  # and to no other profile
    copies(laptop, "03_sft")  # now it was run
    (cell,) = tidied(laptop, "01_data")
    assert cell.source == "[a](01_data.ipynb#part) [b](02_teacher-seed1.ipynb) [c](03_sft.ipynb)"


def test_a_source_that_an_output_names_stays(folder):
    text = "[a](../../01_data.ipynb) [b](01_data.ipynb)"
    shown = new_output("display_data", data={"text/markdown": text})
    copies(folder, "01_data", cells=[new_markdown_cell(text), new_code_cell("", outputs=[shown])])
    cell, code = tidied(folder, "01_data")
    assert cell.source == "[a](01_data.ipynb) [b](01_data.ipynb)"
    assert code.outputs[0].data["text/markdown"] == text


def test_other_links_stay(folder):
    text = (
        "[a](https://x.org/02_teacher.ipynb) [b](#part) [c](/root) [d](lost.ipynb) "
        '<a href="02_teacher.ipynb">e</a> <img src="data:image/png;base64,AA">'
    )
    copies(folder, "10_comparison", cells=[new_markdown_cell(text)])
    (cell,) = tidied(folder, "10_comparison")
    assert cell.source == text.replace('"02_teacher.ipynb', '"../../02_teacher.ipynb')


def test_no_path_of_the_machine_is_left(folder):
    noted = {
        "input_path": "notebooks/01.ipynb",
        "output_path": "/some/folder/01.ipynb",
        "duration": 1.0,
    }
    one = new_notebook(metadata={"papermill": noted})
    nbformat.write(one, folder / "01_data.ipynb")
    executed.tidy(folder, folder.parents[1])
    found = nbformat.read(folder / "01_data.ipynb", 4).metadata["papermill"]
    assert found == {"input_path": "01.ipynb", "output_path": "01.ipynb", "duration": 1.0}


def test_a_tidy_copy_is_not_written_again(folder):
    copies(folder, "01_data", cells=[new_markdown_cell("[a](01_data.ipynb)")])
    before = (folder / "01_data.ipynb").stat()
    tidied(folder, "01_data")
    assert (folder / "01_data.ipynb").stat().st_mtime_ns == before.st_mtime_ns


def bar(name, *states):
    return [stream(f"\r{name} {state}%") for state in states]


def test_only_the_last_state_of_a_progress_bar_is_kept():
    result = new_output("execute_result", data={"text/plain": "1"}, execution_count=1)
    outputs = [
        *bar("one", 0, 50),
        stream("never\rdone before\n", "stdout"),
        *bar("one", 70, 100),
        stream("\n"),
        *bar("two", 0, 100),
        stream("\n"),
        stream("a line\n", "stdout"),
        stream("another\r\n", "stdout"),
        result,
        stream("the end", "stdout"),
    ]
    shown = [(one.get("name"), one.get("text")) for one in executed.final(outputs)]
    assert shown == [
        ("stderr", "one 100%\ntwo 100%\n"),
        ("stdout", "done before\na line\nanother\r\n"),
        (None, None),
        ("stdout", "the end"),
    ]


def failed(tmp_path, *outputs, log="first line\nlast line\n\n"):
    copy, text = tmp_path / "02.ipynb", tmp_path / "02.log"
    if outputs:
        cells = [new_code_cell("", outputs=list(outputs)), new_code_cell("not run")]
        nbformat.write(new_notebook(cells=cells), copy)
    text.write_text(log, "utf-8")
    return copy, text


def error(kind, message):
    trace = ["a docstring: KdlibError: out of GPU memory"]
    return new_output("error", ename=kind, evalue=message, traceback=trace)


@pytest.mark.parametrize(
    ("kind", "message", "reason"),
    [
        ("KdlibError", "no 'x';\nname another", "no 'x';\nname another"),
        ("OverflowError", "\x1b[31mtoo large\x1b[0m", "OverflowError: too large"),
        ("NotFinite", "step 3", "NotFinite: step 3"),
    ],
)
def test_the_reason_is_the_error_of_the_failed_cell(tmp_path, kind, message, reason):
    copy, log = failed(tmp_path, stream("text"), error(kind, message))
    assert executed.reason(copy, log, 1) == reason


def test_without_an_error_the_log_ends_with_the_reason(tmp_path):
    assert executed.reason(*failed(tmp_path), 1) == "last line"
    assert (
        executed.reason(*failed(tmp_path, stream("text"), log="\x1b[0;31mdead\x1b[0m\n"), 1)
        == "dead"
    )
    assert executed.reason(*failed(tmp_path, log=" \n"), 1) == "no reason was printed"
    assert "SIGKILL" in executed.reason(*failed(tmp_path), 137)


def test_logs_of_failed_tries_are_kept(tmp_path):
    for number, message in ((1, "first"), (2, "second")):
        copy, log = failed(tmp_path, error("ValueError", message), log=f"try {number}\n")
        assert executed.keep_failed(copy, log, 1) == f"ValueError: {message}"
        text = f"try {number}\n\nValueError: {message}\n"
        assert log.read_text("utf-8") == text
        assert (tmp_path / f"02.failed-{number}.log").read_text("utf-8") == text
    assert "first" in (tmp_path / "02.failed-1.log").read_text("utf-8")
