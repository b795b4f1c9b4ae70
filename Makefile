# What a developer types. `make` lists it. Needs Python 3.11 or newer, make and a compiler; all else it installs.
PYTHON   ?= python3
VENV     ?= .venv
SCENARIO ?= scenarios/quickstart.yaml
ARGS     ?=
EXTRA    ?= dev
WORKERS  ?= auto

# What an installation is made from; a change of one of them makes it anew.
INSTALLED := pyproject.toml setup.py constraints.txt $(wildcard clients/*.c clients/*.h)

# Absolute, because `check` works from another folder.
BIN := $(abspath $(VENV))/bin

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help run test check lint types layers format farm bench bench-peers rehearse docs reference pictures build clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "Variables: SCENARIO=file.yaml and ARGS='--set ...' for run; ARGS='-k name', WORKERS=0 (no parallel processes) and EXTRA=ci"
	@echo "  (whatever a test can use) for test; PYTHON=, VENV="

run: $(VENV)/.installed ## Set up, then run a scenario (the quickstart unless SCENARIO= names another)
	$(BIN)/fedmomentum run $(SCENARIO) $(ARGS)

test: $(VENV)/.installed-dev ## Set up, then run the tests
	$(BIN)/python -m pytest --numprocesses $(WORKERS) --maxprocesses 4 --max-worker-restart 0 --dist loadfile --no-loadscope-reorder $(ARGS)

check: lint types layers ## Lint, formatting, types and the layers of the architecture

lint: $(VENV)/.installed-dev ## Only ruff: lint and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: farm ## Only mypy, strict, on the library
	cd .check && $(BIN)/mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p fedmomentum

layers: farm ## Only import-linter: who may import whom
	cd .check && $(BIN)/lint-imports --no-logo --config ../pyproject.toml --cache-dir ../.import_linter_cache

format: $(VENV)/.installed-dev ## Mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Static tools do not run the import hook in fedmomentum/__init__.py, so they see the package through links that give
# it the shape that it has when installed.
farm: $(VENV)/.installed-dev
	@rm -rf .check && mkdir -p .check/fedmomentum
	@ln -s $(addprefix ../../,$(filter-out %/__pycache__,$(wildcard fedmomentum/*)) strategies clients scenarios) .check/fedmomentum/

bench: $(VENV)/.installed-dev ## Run the benchmarks
	$(BIN)/python -m benchmarks $(ARGS)

bench-peers: ## Set up other frameworks for the benchmarks, each in an environment of its own under .peers/ (2 GB)
	@for peer in pfl fedjax jax; do \
	  test -x .peers/$$peer/bin/python || $(PYTHON) -m venv .peers/$$peer; \
	  .peers/$$peer/bin/python -m pip install --quiet --requirement benchmarks/peers/$$peer.txt || exit 1; \
	done

rehearse: $(VENV)/.installed ## Run a scenario on a SuperLink and SuperNodes on this machine: ARGS='--nodes 4 my.yaml'
	$(BIN)/python -m fedmomentum.deployment.rehearsal $(ARGS)

docs: reference pictures ## Write what in docs/ comes from the code

reference: $(VENV)/.installed-dev ## Only docs/scenarios.md
	$(BIN)/python -m fedmomentum.scenario.reference > docs/scenarios.md

pictures: $(VENV)/.installed-dev ## Only the pictures of docs/momentum.md, by running its scenarios (minutes); ARGS='--only spring'
	$(BIN)/python -m fedmomentum.experiments.gallery docs/images $(ARGS)

build: $(VENV)/.installed-dev ## Build the source archive and the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build

clean: ## Remove what builds and checks leave (not the virtual environment, not runs/)
	rm -rf build dist .check .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache ./*.egg-info
	find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA)]'
	@touch $@ $(VENV)/.installed
