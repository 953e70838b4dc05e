# make repro   clone to finished results: environment, data, every stage, every figure
# make test    everything that must hold
# make lab     JupyterLab on the same environment
# make site    the documentation site, results included, in _site/
# make readme  README.md from nbs/index.ipynb
# make clean   remove what was made (the environment too); committed results and the journals of captions and scores stay
SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

# the first of these that runs and is 3.11 or newer; PYTHON=... overrides
CANDIDATES := python3.11 python3.12 python3.13 python3 python
PYTHON ?= $(shell for p in $(CANDIDATES); do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

# An NVIDIA GPU needs the ordinary wheel (=== excludes CPU builds); elsewhere a CPU build is taken where pip is offered one.
TORCH ?= $(if $(shell nvidia-smi -L 2>/dev/null),torch===2.13.0,torch==2.13.0)

VENV := .venv
BIN := $(CURDIR)/$(VENV)/bin
export PATH := $(BIN):$(PATH)
export PYTHONNOUSERSITE := 1
export DVC_NO_ANALYTICS := 1
unexport PYTHONPATH PYTHONHOME

# threads wait without spinning: beside other work that is ten times faster
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help checkout install repro test lab site readme clean

help:
	@grep -E '^# make ' Makefile | sed 's/^# //'

install: $(VENV)/.installed

# done once, and again when what is to be installed has changed
$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python 3.11 or newer found (tried $(CANDIDATES)); say make PYTHON=/path/to/python3.11"; exit 2; }
	test -x "$(BIN)/python" || $(PYTHON) -m venv $(VENV)
	"$(BIN)/python" -m pip install --quiet '$(TORCH)' -c constraints.txt
	"$(BIN)/python" -m pip install --quiet -c constraints.txt -e '.[dev,site]'
	@touch $@

checkout:
	@test -e .git || { echo "error: not a git repository, which DVC needs: clone with git, or run git init here"; exit 2; }

repro: checkout install
	@python -m retinalogos.stage --mend
	dvc repro

# notebooks of the library run as tests, then what crosses modules, the longest file first; two at a time and one thread each
test: export OMP_NUM_THREADS := 1
test: install
	nbdev-test --n-workers 2 --timing --skip-folder-re '^([_.]|stages|results|explore)' nbs
	pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/test_pipeline.py tests

lab: install
	jupyter lab nbs

site: install
	python docs/build.py

readme: install
	python docs/readme.py

clean:
	rm -rf $(VENV) _docs _site build *.egg-info .pytest_cache
	find data -mindepth 1 -maxdepth 1 ! -name results ! -name captions_journal ! -name purify_journal -exec rm -rf {} + 2>/dev/null || true
