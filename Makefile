# make demo   the whole loop on real clips; make test / make check   what CI runs; make help   the rest
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
# On x86-64 Linux the package index offers torch with CUDA; for the smaller CPU build say
# make demo TORCH_ARGS="--index-url https://download.pytorch.org/whl/cpu"
TORCH_ARGS ?=
RECIPE ?= configs/demo.yaml
# Tests of different files run side by side; 0 runs all of them in one process.
TEST_PROCESSES ?= 2

export HF_HUB_OFFLINE := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help install install-dev demo test check lint types format clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

install: $(VENV)/.runtime ## virtual environment with the pinned CPU stack
install-dev: $(VENV)/.dev ## the same with linter, type checker and tests

# A stamp, because a venv that fails half-way (no ensurepip) leaves bin/python but no pip.
$(VENV)/.created:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.runtime: requirements/cpu.lock pyproject.toml | $(VENV)/.created
	@echo "installing the CPU stack (about 4 GB, two to five minutes)"
	$(PIP) install $(TORCH_ARGS) torch==2.13.0
	$(PIP) install --no-deps -r requirements/cpu.lock
	$(PIP) install --no-deps --no-build-isolation --quiet --editable .
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(VENV)/.runtime
	$(PIP) install --no-deps --quiet -r requirements/dev.lock
	@touch $@

demo: $(VENV)/.runtime ## corpus, three stages, DE-GRPO on Ray, report
	$(BIN)/degrpo demo --recipe $(RECIPE)

test: $(VENV)/.dev ## all tests, those with a real engine included
	$(BIN)/python -m pytest --numprocesses=$(TEST_PROCESSES) --dist=loadfile

check: lint types test ## lint, types, tests

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev ## mypy
	$(BIN)/mypy

format: $(VENV)/.dev ## let ruff rewrite the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## caches and build leftovers; outputs/ and the virtual environment stay
	rm -rf .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -type d -prune -exec rm -rf {} +
