"""The command: students searched, what was chosen judged, tables written, a line for each."""

from collections.abc import Sequence
from pathlib import Path

from kdlib.analysis import rates
from kdlib.config.profile import Profile
from kdlib.study import pretraining, tuning
from kdlib.study.tuning import Student
from kdlib.tune import judging, search, store


def run(
    profile: Profile, seeds: Sequence[int], students: Sequence[Student], trials: int, file: Path
) -> list[str]:
    """Search each student until its trials are so many, judge on these seeds; the advice.

    The search is kept in `file`, and its runs in the seeds' folders: what was broken off goes on.
    """
    seed = tuning.seed_of(profile, seeds)
    digests = store.facts(profile, seed)
    with store.open_storage(file, digests) as storage:
        pretraining.prepare(profile)
        selection = search.Selection(profile, seed)
        for student in students:
            search.search(store.search(storage, student, digests), student, trials, selection)
        tables = judging.judge(profile, students, selection, seeds)
    rates.write_results(profile.name, tables)
    return list(tables["tuning_advice"]["advice"])
