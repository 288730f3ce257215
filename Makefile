# The study in one command: make study. `make help` lists the others.
PROFILE ?= laptop
SEEDS ?=
# The paper's four methods always run; further ones by name, "gkd minillm", or all.
METHODS ?= paper
# The study itself; further notebooks by part: lab, cause, defences, life, release, all.
PARTS ?= study
CORES ?= $(shell nproc)
# Notebooks that may share one GPU, by default as the profile's models are small or not.
GPU_JOBS ?=
# make verify: the results folder of a finished run; empty: run the study anew, apart.
RUN ?=
# An environment made elsewhere (conda) is used with: make study BIN="$CONDA_PREFIX/bin"
BIN ?= .venv/bin
READY := $(if $(filter .venv/bin,$(BIN)),.venv/.ready)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(abspath $(BIN)):$(PATH)
export JUPYTER_PREFER_ENV_PATH := 1
# glibc gives large tensors' memory back after each use; keeping it saves a tenth of a training step.
export MALLOC_MMAP_THRESHOLD_ ?= 1073741824
export MALLOC_TRIM_THRESHOLD_ ?= 2147483647
.PHONY: help study verify smoke test lint format lab site bench calibrate clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo 'Variables: PROFILE=laptop SEEDS="0 1 2" METHODS="paper | all | gkd minillm ..." PARTS="study | lab | cause | defences | life | release | all" CORES=<all>'

# Quoted, so that a profile's path may hold blanks; a lock in data/runs keeps a second run away.
study: $(READY)  ## run the study, or what is left of it, and print what came out
	@python -m kdlib study --profile "$(PROFILE)" --seeds "$(SEEDS)" --methods "$(METHODS)" \
	    --parts "$(PARTS)" --cores "$(CORES)" $(if $(GPU_JOBS),--gpu-jobs "$(GPU_JOBS)")
	@python -m kdlib report --profile "$(PROFILE)"

verify: $(READY)  ## run the study anew, apart, and hold the committed tables against it
	@python -m kdlib verify --profile "$(PROFILE)" --cores "$(CORES)" $(if $(RUN),--run "$(RUN)")

smoke:  ## the same on tiny settings with all methods and parts, to see that everything runs
	@$(MAKE) --no-print-directory study PROFILE=smoke \
	    $(if $(filter file,$(origin METHODS)),METHODS=all) $(if $(filter file,$(origin PARTS)),PARTS=all)

test: $(READY)  ## every test, among them every notebook on the smoke profile
	python -m pytest

lint: $(READY)  ## ruff and mypy
	ruff check .
	ruff format --check .
	mypy

format: $(READY)  ## let ruff sort imports and lay out code
	ruff check --fix .
	ruff format .

lab: $(READY)  ## JupyterLab on the series
	PYTHONWARNINGS="ignore:IProgress not found" jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_map.ipynb

# The notebooks are shown as they were executed. Only the first call needs a network.
site: $(READY)  ## the notebooks, results and library as a website, in site/
	@python -m kdlib site --profile "$(PROFILE)"
	@python -c 'import latex2mathml, matplotlib_fontja, myst_nb, sphinx_book_theme' 2> /dev/null || \
	    python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	@rm -rf site docs/.doctrees
	@PROFILE="$(PROFILE)" python -m sphinx --quiet --jobs "$(CORES)" -d docs/.doctrees docs site
	@rm -rf docs/.doctrees jupyter_execute
	@echo "open site/index.html"

# laptop: at the default profile's size alone, 25 to 40 minutes; tiny; all: the audit and losses, too.
SIZE ?= all
bench: $(READY)  ## the meter against decoding; training speed and memory against other libraries
	python -m pip install --quiet --constraint constraints.txt --editable '.[dev,defences,peers]'
	TRL_EXPERIMENTAL_SILENCE=1 python tests/benchmarks/training.py --size "$(SIZE)"
	python tests/benchmarks/meter.py --size "$(SIZE)"
	python tests/benchmarks/defences.py --size "$(SIZE)"
	python tests/benchmarks/release.py --size "$(SIZE)"
ifeq ($(SIZE),all)
	python tests/benchmarks/memory.py
	python tests/benchmarks/audit.py
	python tests/benchmarks/gate.py
	python tests/benchmarks/planted.py
endif

calibrate: $(READY)  ## find learning rates and training length by the rule in the profile
	python -m kdlib calibrate --profile "$(PROFILE)"

# Locks of what runs are held by it; the profiles' own stay, so that nobody locks a deleted file.
clean:  ## remove checkpoints, caches and stage markers; never results, figures, executed notebooks
	@[ ! -d data/runs ] || while IFS= read -r -d '' lock; do \
	    exec {held}>> "$$lock"; \
	    flock -n $$held || { echo "make clean: $$lock is held by a study that runs; stop it first" >&2; exit 2; }; \
	done < <(find data/runs -name '*.lock' -print0); \
	[ ! -d data/runs ] || find data/runs -mindepth 1 -maxdepth 1 ! -name '*.lock' -exec rm -rf {} +
	rm -rf data/raw site docs/notebooks docs/figures docs/.doctrees .snakemake .pytest_cache .ruff_cache .mypy_cache
	find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

# Remade when the pins change; an installation that broke off leaves no .ready and is made anew.
.venv/.ready: constraints.txt pyproject.toml
	@python=$$(for one in $(PYTHON) python3.11 python3; do \
	    "$$one" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo "$$one" && break; \
	done) || { echo 'make: Python 3.11 or newer is needed; name it with PYTHON=/path/to/python' >&2; exit 2; }; \
	if pgrep -f "$(CURDIR)/[.]venv/bin/" > /dev/null 2>&1; then \
	    echo 'make: .venv has to be made anew, and something runs from it; end that first' >&2; exit 2; \
	fi; \
	echo "making .venv with $$python: the pinned packages, some minutes the first time"; \
	rm -rf .venv; "$$python" -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,defences]'
	@touch $@
