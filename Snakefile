"""Who runs after whom: one rule per notebook, one job per notebook and seed.

Every job is one papermill call, shown on the first line of its log, that anyone can type. Which
notebooks run follows from the chosen methods, and what a notebook is given from its parameters
cell: a seed, all seeds, methods. A stage is done when its marker in data/runs/<profile>/done
exists. It is due again when its notebook, the resolved settings, the seeds, the methods or a stage
before it are newer than the marker. What a notebook due again finds trained already, it does not
train again.
"""

import os
import sys
from pathlib import Path

import pandas as pd

from kdlib import runs
from kdlib.config.methods import PAPER
from kdlib.errors import KdlibError
from kdlib.report import executed
from kdlib.study import pipeline

try:
    PROFILE = str(config.get("profile", "laptop"))
    PLAN = pipeline.plan(PROFILE, config.get("seeds"), config.get("methods"), config.get("parts"))
except KdlibError as error:
    sys.exit(f"kdlib: {error}")

SETTINGS, SEEDS = PLAN.profile, PLAN.seeds
MAP, FIRST, TEACHER, METER = "00_map", "01_data_and_tokens", *pipeline.ALWAYS
CLOSING = "18_conclusion"
TRAINING = sorted({TEACHER, *PLAN.trained})
PAPERS = [name for name in TRAINING if name != TEACHER and set(PLAN.trained[name]) & set(PAPER)]
TOGETHER = [name for name, given in PLAN.parameters.items() if "seeds" in given and name != MAP]
DEFENDED = "15_defences"
# in these notebooks further students are trained, for all seeds or, in 17, the first
MORE_STUDENTS = ("11_inheritance", "12_what_stays", "14_cause", DEFENDED)
MORE_STUDENTS += ("16_life_cycle", "17_release")
USING_MODELS = (*MORE_STUDENTS, "13_membership_and_canaries")

PROBED = SETTINGS.probed(SEEDS)


def runs_on(name, seed):
    """Whether a notebook of one seed runs on it: with further methods alone, not on every one."""
    return name not in TRAINING or name in (TEACHER, *PAPERS) or int(seed) in PROBED


# Notebook of one seed: the notebooks of the same seed whose files it reads.
BEFORE = {}
for name in TRAINING:
    BEFORE[name] = [TEACHER] if PLAN.needs_teacher(name) else []
    if name not in (TEACHER, *PAPERS):  # it may compare its models with those of the paper's methods
        BEFORE[name] += PAPERS
BEFORE[METER] = TRAINING
# What others wait for comes first (11, 12, 14 to 17 wait for all that train), the longest of it.
PRIORITY = {name: 2 if PLAN.samples(name) else 1 for name in TRAINING}
PRIORITY |= dict.fromkeys((TEACHER, *MORE_STUDENTS), 3)

RUNS = os.path.relpath(runs.runs_dir(SETTINGS.name))
EXECUTED = os.path.relpath(runs.root() / "notebooks" / "executed" / SETTINGS.name)
EACH = [f"{name}-seed{seed}" for name in BEFORE for seed in SEEDS if runs_on(name, seed)]
METERED = [f"{METER}-seed{seed}" for seed in SEEDS]
# what trains needs nothing of 09: it runs beside it
WAITING_FOR = dict.fromkeys(MORE_STUDENTS, [one for one in EACH if one not in METERED])
WAITING_FOR["13_membership_and_canaries"] = ["11_inheritance", *METERED]  # with models of halves
WAITING_FOR[DEFENDED] = ["10_comparison"]  # with its table of trivial answers
WAITING_FOR[CLOSING] = [name for name in TOGETHER if name != CLOSING]
WAITING_FOR[MAP] = TOGETHER
STAGES = [FIRST, *EACH, *TOGETHER, MAP]
Path(RUNS, "locks").mkdir(parents=True, exist_ok=True)


def done(stage):
    """The marker that says a stage is finished."""
    return f"{RUNS}/done/{stage}"


def note(name, text):
    """A file that is touched only when what it says changes, for stages to depend on."""
    path = Path(RUNS, "inputs", name)
    if not path.is_file() or path.read_text("utf-8") != text:
        runs.write_text(path, text)
    return str(path)


RESOLVED = note("settings.json", SETTINGS.model_dump_json(exclude={"seeds"}, indent=1))
REPORTED = note("seeds.txt", " ".join(map(str, SEEDS)))
COMPARED = note("methods.txt", " ".join(PLAN.methods))


def chosen(name):
    """The note that makes a notebook due again when other methods of its own are asked for."""
    picks = "methods" in PLAN.parameters[name]
    return [note(f"methods-{name}.txt", " ".join(PLAN.trained[name]))] if picks else []


def given(name, seed=None):
    """What papermill passes on besides the profile: the parameters that the notebook has."""
    values = {"seed": f"-p seed {seed}", "seeds": f"-r seeds '{' '.join(map(str, SEEDS))}'"}
    values["methods"] = f"-r methods '{PLAN.named if seed is None or int(seed) in PROBED else 'paper'}'"
    return " ".join(text for one, text in values.items() if one in PLAN.parameters[name])


def earlier(name):
    """The markers of the same seed that a notebook waits for, by Snakemake's wildcards."""

    def markers(wildcards):
        asked = [one for one in BEFORE[name] if runs_on(one, wildcards.seed)]
        return [done(f"{one}-seed{wildcards.seed}") for one in asked]

    return markers


def given_of(name):
    """The same for what papermill passes on."""
    return lambda wildcards: given(name, wildcards.seed)


def local_files():
    """The data file and the weights that the profile gives by path: changed, all is due again."""
    folders = [Path(model.path) for model in SETTINGS.models.values() if model.path]
    weights = [file for folder in folders for file in folder.glob("*.safetensors")]
    data = [Path(SETTINGS.data.path)] if SETTINGS.data.path else []
    return [str(file) for file in [*data, *weights] if file.is_file()]


def label(stage):
    """What a person watching reads: '[ 2 of 21] 02_teacher, seed 0'."""
    return f"[{STAGES.index(stage) + 1:2} of {len(STAGES)}] {stage.replace('-seed', ', seed ')}"


# What a killed run left running holds the stage's lock, which papermill inherits: it ends before
# the same stage starts again. The executed notebook takes its place only when complete; a failed
# one stays beside its log.
PAPERMILL = """
trap 'exit 130' INT
export PYTHONWARNINGS="ignore:IProgress not found"  # progress is text here
export OMP_NUM_THREADS={threads} MKL_NUM_THREADS={threads} RAYON_NUM_THREADS={threads}
stage=$(basename {log:q} .log); copy={RUNS:q}/logs/$stage.ipynb
exec 9>> {RUNS:q}/locks/$stage.lock; flock 9
echo "{params.label}: started"
for attempt in 1 2 3; do
    rm -f "$copy"
    if (set -x; papermill {input.notebook} "$copy" -r profile {PROFILE:q} {params.given} \
            --log-output --no-progress-bar) > {log:q} 2>&1
    then
        mkdir -p {EXECUTED:q}; mv "$copy" {EXECUTED:q}/
        echo "{params.label}: done in $SECONDS s"
        exit 0
    else
        status=$?
    fi
    # two kernels that start at once may be given the same port: no cell has run then
    grep -q "Kernel died before replying to kernel_info" {log:q} || break
done
reason=$(python -m kdlib.report.executed "$copy" {log:q} $status)
printf '%s\\n' "{params.label}: failed after $SECONDS s; see {log}" "$reason" >&2
exit 1
"""

shell.executable("bash")


onsuccess:
    executed.tidy(Path(EXECUTED), Path("notebooks"), SEEDS)


onerror:
    executed.tidy(Path(EXECUTED), Path("notebooks"), SEEDS)


rule stages:
    localrule: True  # seconds: no job of a cluster
    input:
        done(MAP),
    output:  # a marker among the runs: a table may be older than they are, or be committed
        touch(done("stages")),
    run:
        write_stages(runs.results_dir(SETTINGS.name) / "stages.csv")


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
        given=given(FIRST),
    log:
        f"{RUNS}/logs/{FIRST}.log",
    benchmark:
        f"{RUNS}/times/{FIRST}.tsv"
    threads: 2
    resources:
        gpu=1,
    shell:
        PAPERMILL


for name in BEFORE:

    rule:
        name: name
        input:
            RESOLVED,
            chosen(name),
            done(FIRST),
            earlier(name),
            notebook=f"notebooks/{name}.ipynb",
        output:
            touch(done(f"{name}-seed{{seed}}")),
        params:
            label=lambda wildcards, output: label(Path(output[0]).name),
            given=given_of(name),
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
            given=given(name),
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
