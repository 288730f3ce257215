"""Who runs after whom: one rule per notebook, one job per notebook and seed.

Every job is one papermill call, shown on the first line of its log, that anyone can type.
A stage is done when its marker in data/runs/<profile>/done exists. It is due again when its
notebook, the resolved settings, the seeds, the methods or a stage before it are newer than the
marker. What a notebook due again finds trained already, it does not train again.
"""

import sys
from pathlib import Path

import pandas as pd

from kdlib import runs
from kdlib.config import load_profile, read_methods, read_seeds
from kdlib.methods import METHODS, PAPER
from kdlib.settings import KdlibError

# Notebook of one seed: the notebooks of the same seed whose files it reads.
PER_SEED = {
    "02_teacher": [],
    "03_supervised_fine_tuning": [],
    "04_word_level_kd": ["02_teacher"],
    "05_sequence_level_kd": ["02_teacher"],
    "06_reverse_kl": ["02_teacher"],
}
PICKING = ("05_sequence_level_kd", "06_reverse_kl", "07_on_policy")  # told which methods are
# The longest and what it waits for first, so that no core waits at the end for one of them.
PRIORITY = {"02_teacher": 3, "06_reverse_kl": 2, "04_word_level_kd": 2, "07_on_policy": 1, "08_minillm": 1}
USING_MODELS = ("12_what_stays", "13_membership_and_canaries")
PRIORITY["12_what_stays"] = 2
METER = "09_memorization_meter"
FIRST, MAP = "01_data_and_tokens", "00_map"  # one for all seeds, as are:
TOGETHER = ["10_comparison", "11_inheritance", "12_what_stays", "13_membership_and_canaries"]


try:
    PROFILE = str(config.get("profile", "laptop"))
    SETTINGS = load_profile(PROFILE)
    SEEDS = read_seeds(config.get("seeds"), SETTINGS)
    CHOSEN = read_methods(str(config.get("methods") or ""))
    for method in CHOSEN:
        SETTINGS.method(method)  # has rates for it
except KdlibError as error:
    sys.exit(f"make study: {error}")

TRAINED = {}  # notebook: the chosen methods that it trains
for method in CHOSEN:
    TRAINED.setdefault(METHODS[method].notebook, []).append(method)
# 07 also compares its models with those of 04 and 06
FURTHER = {
    "07_on_policy": ["02_teacher", "04_word_level_kd", "06_reverse_kl"],
    "08_minillm": ["02_teacher"],
}
PER_SEED |= {name: before for name, before in FURTHER.items() if name in TRAINED}
PER_SEED[METER] = list(PER_SEED)
further = " ".join(name for name in CHOSEN if name not in PAPER)
NAMED = {PAPER: "paper", tuple(METHODS): "all"}.get(CHOSEN, further)

RUNS = f"data/runs/{SETTINGS.name}"
EXECUTED = f"notebooks/executed/{SETTINGS.name}"
EACH = [f"{name}-seed{seed}" for name in PER_SEED for seed in SEEDS]
METERED = [f"{METER}-seed{seed}" for seed in SEEDS]
# 12 trains, and needs nothing of 09: it runs beside it
WAITING_FOR = {MAP: TOGETHER, "12_what_stays": [one for one in EACH if one not in METERED]}
STAGES = [FIRST, *EACH, *TOGETHER, MAP]


def done(stage):
    """The marker that says a stage is finished."""
    return f"{RUNS}/done/{stage}"


def note(name, text):
    """A file that is touched only when what it says changes, for stages to depend on."""
    path = Path(RUNS, "inputs", name)
    if not path.is_file() or path.read_text("utf-8") != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return str(path)


RESOLVED = note("settings.json", SETTINGS.model_dump_json(exclude={"seeds"}, indent=1))
REPORTED = note("seeds.txt", " ".join(map(str, SEEDS)))
COMPARED = note("methods.txt", " ".join(CHOSEN))


def picked(name):
    """The note that makes a notebook due again when other methods of its own are asked for."""
    return [note(f"methods-{name}.txt", " ".join(TRAINED[name]))] if name in PICKING else []


def local_files():
    """The data file and the weights that the profile gives by path: changed, all is due again."""
    folders = [Path(model.path) for model in SETTINGS.models.values() if model.path]
    weights = [file for folder in folders for file in folder.glob("*.safetensors")]
    data = [Path(SETTINGS.data.path)] if SETTINGS.data.path else []
    return [str(file) for file in [*data, *weights] if file.is_file()]


def label(stage):
    """What a person watching reads: '[ 2 of 21] 02_teacher, seed 0'."""
    return f"[{STAGES.index(stage) + 1:2} of {len(STAGES)}] {stage.replace('-seed', ', seed ')}"


# The lock on the log: what a killed run left running ends before the same stage starts again.
# The executed notebook takes its place only when complete; a failed one stays beside its log.
PAPERMILL = """
exec 9>> {log}; flock 9
export PYTHONWARNINGS="ignore:IProgress not found"  # progress is text here
export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} RAYON_NUM_THREADS={threads}
copy=$(basename {log} .log).ipynb
echo "{params.label}: started"
if (set -x; papermill {input.notebook} {RUNS}/logs/$copy -r profile {PROFILE:q} {params.more} \
        --log-output --no-progress-bar) > {log} 2>&1
then
    mkdir -p {EXECUTED}; mv {RUNS}/logs/$copy {EXECUTED}/
    echo "{params.label}: done in $SECONDS s"
else
    echo "{params.label}: failed after $SECONDS s; see {log}" >&2
    grep -o "KdlibError: .*" {log} | tail -n 1 >&2 || true
    exit 1
fi
"""

shell.executable("bash")


rule stages:
    input:
        done(MAP),
    output:
        f"data/results/{SETTINGS.name}/stages.csv",
    run:
        write_stages(output[0])


rule:
    name: FIRST
    input:
        RESOLVED,
        local_files(),
        notebook=f"notebooks/{FIRST}.ipynb",
    output:
        touch(done(FIRST)),
    params:
        label=label(FIRST),
        more="",
    log:
        f"{RUNS}/logs/{FIRST}.log",
    benchmark:
        f"{RUNS}/times/{FIRST}.tsv"
    threads: 2
    resources:
        gpu=1,
    shell:
        PAPERMILL


for name, before in PER_SEED.items():

    rule:
        name: name
        input:
            RESOLVED,
            picked(name),
            done(FIRST),
            [done(f"{stage}-seed{{seed}}") for stage in before],
            notebook=f"notebooks/{name}.ipynb",
        output:
            touch(done(f"{name}-seed{{seed}}")),
        params:
            label=lambda wildcards, output: label(Path(output[0]).name),
            more="-p seed {seed}" + (f" -r methods '{NAMED}'" if name in PICKING else ""),
        log:
            f"{RUNS}/logs/{name}-seed{{seed}}.log",
        benchmark:
            f"{RUNS}/times/{name}-seed{{seed}}.tsv"
        priority: PRIORITY.get(name, 0)
        resources:
            gpu=1,
        shell:
            PAPERMILL


for name in (*TOGETHER, MAP):

    rule:
        name: name
        input:
            RESOLVED,
            REPORTED,
            COMPARED,
            [done(one) for one in WAITING_FOR.get(name, METERED)],
            notebook=f"notebooks/{name}.ipynb",
        output:
            touch(done(name)),
        params:
            label=label(name),
            more=f"-r seeds '{' '.join(map(str, SEEDS))}' -r methods '{NAMED}'",
        log:
            f"{RUNS}/logs/{name}.log",
        benchmark:
            f"{RUNS}/times/{name}.tsv"
        priority: PRIORITY.get(name, 0)
        resources:
            gpu=int(name in USING_MODELS),
        shell:
            PAPERMILL


def write_stages(path):
    """Seconds and peak memory (MiB, of all processes) of every stage, in the order of the study."""
    rows = []
    for stage in STAGES:
        spent = pd.read_csv(f"{RUNS}/times/{stage}.tsv", sep="\t").iloc[0]
        name, _, seed = stage.partition("-seed")
        rows.append([name, seed, round(spent["s"], 1), round(spent["max_rss"], 0)])
    columns = ["stage", "seed", "seconds", "peak_mib"]
    frame = pd.DataFrame(rows, columns=columns).assign(machine=runs.machine())
    runs.write_table(Path(path), frame)
