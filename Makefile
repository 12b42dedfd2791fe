# make quickstart | test | faults | check | reproduce. The virtual environment is made on first use.

PYTHON ?= python3
VENV ?= .venv
SCALE ?= mini
BIN := $(VENV)/bin
SHARD ?= 1/1
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help quickstart test faults check reproduce

help:
	@echo "make quickstart   install, then run configs/quickstart.yaml (under 10 minutes on two cores)"
	@echo "make test         install with the development tools, then run the tests, one process per core"
	@echo "make faults       inject every fault of docs/reliability.md and renew its table (under 20 minutes on two cores)"
	@echo "make check        lint, formatting, types, import layers, dangerous calls, advisories on packages"
	@echo "make reproduce    the paper's tables and figures at SCALE: mini (67 minutes on two cores), small, paper"
	@echo
	@echo "Variables: PYTHON (a Python 3.11 or newer, now $(PYTHON)), VENV (now $(VENV)), SHARD (of make faults: 2/4)"

quickstart: $(VENV)/.quickstart
	$(BIN)/flashdistill run configs/quickstart.yaml
	@echo "The report: $(CURDIR)/runs/quickstart/report.html"

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

# The table is that of the last shard; of several machines' build/faults*.json: python -m tests.faults_table FILE...
faults: $(VENV)/.dev
	rm -f build/faults.json
	-OMP_NUM_THREADS=1 $(BIN)/python -m pytest -p tests.faults_plugin -m faults -n auto --maxschedchunk 1 \
		--faults-shard $(SHARD) --faults-json build/faults.json
	$(BIN)/python -m tests.faults_table build/faults.json

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/bandit -q -c pyproject.toml --severity-level medium -r src benchmarks reproduce
	$(BIN)/python .ci/audit_packages.py

reproduce: $(VENV)/.reproduce
	$(BIN)/python -m reproduce --scale $(SCALE)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; name one, as in: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and alone: with its version settled, nothing later can ask for another build.
$(VENV)/.torch: constraints.txt | $(BIN)/python
	$(INSTALL) -c constraints.txt torch
	@touch $@

$(VENV)/.quickstart: $(VENV)/.torch pyproject.toml
	$(INSTALL) -c constraints.txt -e ".[quickstart]"
	@touch $@

$(VENV)/.reproduce: $(VENV)/.torch pyproject.toml
	$(INSTALL) -c constraints.txt -e ".[quickstart,tasks]"
	@touch $@

$(VENV)/.dev: $(VENV)/.torch pyproject.toml
	$(INSTALL) -c constraints.txt -e ".[dev]"
	@touch $@
