# `make quickstart` and `make test` need nothing but python3 (>= 3.11): both
# make .venv by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# extras of the test environment; add `parity` to compare with PyTorch
EXTRAS ?= dev,data
# by its extras: adding some to an environment that is there installs them
INSTALLED_DEV := $(VENV)/.installed-$(EXTRAS)
# workers of the test suite
JOBS ?= 2
MARK ?= not slow
SEEDS ?= 0,1,2

export JAX_PLATFORMS ?= cpu

.PHONY: quickstart quickstart-seeds test test-all retest lint types bench install clean

quickstart: $(INSTALLED)  ## the whole loop on a CPU; run again, it continues
	$(BIN)/python -m benchmarks.quickstart

quickstart-seeds: $(INSTALLED)  ## three seeds with all ablations (an hour)
	$(BIN)/python -m benchmarks.quickstart --seeds $(SEEDS) --ablations

test: $(INSTALLED_DEV)  ## the fast tests
	$(BIN)/python -m pytest -n $(JOBS) -q -m "$(MARK)"

retest: $(INSTALLED_DEV)  ## once more what failed last time
	$(BIN)/python -m pytest -q -m "$(MARK)" --last-failed --last-failed-no-failures none

test-all: $(INSTALLED_DEV)  ## the slow ones as well
	$(BIN)/python -m pytest -n $(JOBS) -q -m "slow or not slow"

lint: types  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(INSTALLED_DEV)
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python

bench: $(INSTALLED)  ## our step against the plain one
	$(BIN)/python -m benchmarks.step

install: $(INSTALLED_DEV)

$(INSTALLED): pyproject.toml requirements.txt
	@echo "making $(VENV) with $(PYTHON) and installing povid_jax (a minute or two)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "want python >= 3.11, got " + sys.version.split()[0] + "; say PYTHON=python3.12")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "installing the tools of the tests"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

clean:
	rm -rf $(VENV)
