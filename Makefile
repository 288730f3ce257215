# The study in one command: make study. `make help` lists the others.
PROFILE ?= laptop
SEEDS ?=
# The paper's four methods always run; further ones by name, "gkd minillm", or all.
METHODS ?= paper
CORES ?= $(shell nproc)
# Notebooks that may share one GPU; without a GPU it has no effect.
GPU_JOBS ?= $(if $(filter smoke laptop,$(PROFILE)),4,1)
# An environment made elsewhere (conda) is used with: make study BIN="$CONDA_PREFIX/bin"
BIN ?= .venv/bin
READY := $(if $(filter .venv/bin,$(BIN)),.venv/.ready)

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
export PATH := $(abspath $(BIN)):$(PATH)
export JUPYTER_PREFER_ENV_PATH := 1
.PHONY: help study smoke test lint format lab bench calibrate clean
.DEFAULT_GOAL := help

help:  ## list the commands
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18
	@echo 'Variables: PROFILE=laptop SEEDS="0 1 2" METHODS="paper | all | gkd minillm ..." CORES=<all>'

# One run per profile at a time: the kernel drops the lock when its holder dies, even by kill -9,
# so Snakemake's own lock, which would stay behind, is off.
study: $(READY)  ## run the study, or what is left of it, and print what came out
	@[[ "$(CORES)" =~ ^[1-9][0-9]*$$ ]] || { echo 'make study: CORES="$(CORES)" is no count; try CORES=2' >&2; exit 2; }
	@mkdir -p data/runs; exec 9> "data/runs/$(basename $(notdir $(PROFILE))).lock"; \
	flock -n 9 || { echo 'make study: PROFILE=$(PROFILE) is being run already; wait for it or stop it' >&2; exit 2; }; \
	python -m snakemake --quiet all --nolock --rerun-incomplete --rerun-triggers mtime --scheduler greedy \
	    --cores $(CORES) $(if $(wildcard /dev/nvidia0),--resources gpu=$(GPU_JOBS)) \
	    --config profile="$(PROFILE)" seeds="$(SEEDS)" methods="$(METHODS)"; \
	echo "all stages done after $$((SECONDS / 60)) min $$((SECONDS % 60)) s"
	@python -m kdlib report --profile "$(PROFILE)"

smoke:  ## the same on tiny settings with all methods, to see that everything runs
	@$(MAKE) --no-print-directory study PROFILE=smoke $(if $(filter file,$(origin METHODS)),METHODS=all)

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
	jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/00_map.ipynb

bench: $(READY)  ## the meter against decoding; training speed and memory against other libraries
	python -m pip install --quiet --constraint constraints.txt --editable '.[dev,peers]'
	TRL_EXPERIMENTAL_SILENCE=1 python tests/benchmarks/training.py
	python tests/benchmarks/memory.py
	python tests/benchmarks/meter.py
	python tests/benchmarks/audit.py

calibrate: $(READY)  ## find learning rates and training length by the rule in the profile
	python -m kdlib calibrate --profile "$(PROFILE)"

clean:  ## remove checkpoints, caches and stage markers; never results, figures, executed notebooks
	rm -rf data/runs data/raw .snakemake .pytest_cache .ruff_cache .mypy_cache
	find . -name .venv -prune -o -name __pycache__ -prune -exec rm -rf {} +

# Remade when the pins change; an installation that broke off leaves no .ready and is made anew.
.venv/.ready: constraints.txt pyproject.toml
	@python=$$(for one in $(PYTHON) python3.11 python3; do \
	    "$$one" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && echo "$$one" && break; \
	done) || { echo 'make: Python 3.11 or newer is needed; name it with PYTHON=/path/to/python' >&2; exit 2; }; \
	echo "making .venv with $$python: the pinned packages, some minutes the first time"; \
	rm -rf .venv; "$$python" -m venv .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@
