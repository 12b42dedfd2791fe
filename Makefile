# make quickstart | test | check | reproduce. The virtual environment is made on first use.

PYTHON ?= python3
VENV ?= .venv
SCALE ?= mini
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help quickstart test check reproduce

help:
	@echo "make quickstart   install, then run configs/quickstart.yaml (under 10 minutes on two cores)"
	@echo "make test         install with the development tools, then run the tests, one process per core"
	@echo "make check        lint, formatting, types, import layers"
	@echo "make reproduce    the paper's tables and figures at SCALE: mini (67 minutes on two cores), small, paper"
	@echo
	@echo "Variables: PYTHON (a Python 3.11 or newer, now $(PYTHON)), VENV (now $(VENV))"

quickstart: $(VENV)/.quickstart
	$(BIN)/flashdistill run configs/quickstart.yaml
	@echo "The report: $(CURDIR)/runs/quickstart/report.html"

test: $(VENV)/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto

check: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/lint-imports

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
