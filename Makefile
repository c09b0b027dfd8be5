# Lethe. `make demo` and `make test` need nothing but Python 3.11 and make.

PYTHON ?= python3.11
#: The index of torch's CPU build, used where it can be reached; PyPI has the CUDA build on Linux.
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
PORT ?= 8000

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.lethe-installed

.DEFAULT_GOAL := help
.PHONY: help setup demo up test check lock settings format clean

help: ## Show the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(STAMP) ## Make .venv and install everything, with hashes checked

$(STAMP): pyproject.toml $(wildcard requirements*) scripts/setup.sh
	@PYTHON='$(PYTHON)' VENV='$(VENV)' TORCH_INDEX='$(TORCH_INDEX)' bash scripts/setup.sh
	@touch $@

demo: $(STAMP) ## Forget a real user, end to end, then leave the service up
	@exec $(BIN)/lethe demo $(ARGS)

up: $(STAMP) ## The whole service on this machine
	@exec $(BIN)/lethe up --port $(PORT) $(ARGS)

# The tests of one file share servers (a Redis database, for example), so each file stays in one
# process. Files run in the order of collection: files with slow tests first (tests/conftest.py).
# Many tests wait for processes, so that more processes than cores shorten the run.
test: $(STAMP) ## All tests
	$(BIN)/python -m pytest -n 4 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(STAMP) ## The gates: lint, types, imports, vocabulary, migrations, containers
	@BIN='$(BIN)' bash scripts/check.sh

lock: $(STAMP) ## Write the lock files again, after a change of pyproject.toml
	@BIN='$(BIN)' bash scripts/lock.sh $(ARGS)

settings: $(STAMP) ## Write docs/settings.md from app/settings.py
	$(BIN)/python -m scripts.settings_docs

format: $(STAMP) ## Format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the virtual environment, caches and the demo's data
	rm -rf $(VENV) .lethe .lethe-ledger .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
