# Lethe. `make demo` and `make test` need nothing but Python 3.11 and make.

PYTHON ?= python3.11
#: Where the CPU build of torch is taken from when it can be reached; plain PyPI gives CUDA on Linux.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PORT ?= 8000

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.lethe-installed

.DEFAULT_GOAL := help
.PHONY: help setup demo up test check lock format clean

help: ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP) ## Make .venv and install everything, with hashes checked

$(STAMP): pyproject.toml $(wildcard requirements*) scripts/setup.sh
	@PYTHON='$(PYTHON)' VENV='$(VENV)' TORCH_INDEX='$(TORCH_INDEX)' bash scripts/setup.sh
	@touch $@

demo: $(STAMP) ## Forget a real person, end to end, then leave the service up
	@exec $(BIN)/lethe demo $(ARGS)

up: $(STAMP) ## The whole service on this machine
	@exec $(BIN)/lethe up --port $(PORT) $(ARGS)

# Tests of one file share servers (a database of Redis, say), so a file stays in one process. Files
# are taken in the order of collection, where slow ones come first, not by their number of tests.
test: $(STAMP) ## All tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP) ## The gates: lint, types, import contracts, migrations, containers
	@BIN='$(BIN)' bash scripts/check.sh

lock: $(STAMP) ## Write the lock files again, after a change of pyproject.toml
	@BIN='$(BIN)' bash scripts/lock.sh $(ARGS)

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment, caches and the demo's data
	rm -rf $(VENV) .lethe .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
