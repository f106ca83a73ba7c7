# `make quickstart` and `make test` need nothing but python3 (>= 3.11): both
# make .venv by themselves.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS ?= .venv-peers
# Extras of the test environment. Add `parity` to compare with PyTorch.
EXTRAS ?= dev,data
# The marker's name holds the extras: adding one to an environment that exists
# installs it.
INSTALLED_DEV := $(VENV)/.installed-$(EXTRAS)
# workers of the test suite; on two cores the third works while a test sleeps
JOBS ?= 3
MARK ?= not slow
SEEDS ?= 0,1,2
# folders or files of tests, all of them where nothing is named
TESTS ?=

export JAX_PLATFORMS ?= cpu
# glibc asks Linux for pages of 2 MB: with pages of 4 kB the page faults of a
# step's temporaries take a tenth of its time and more (docs/performance.md)
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.DEFAULT_GOAL := help
.PHONY: help smoke quickstart quickstart-seeds test test-all lint types bench bench-peers costs install clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

quickstart: $(INSTALLED)  ## the whole loop on a CPU; run again, it continues
	$(BIN)/python -m benchmarks.quickstart

smoke: $(INSTALLED)  ## every command once, on a model that learns nothing
	$(BIN)/python -m benchmarks.smoke

quickstart-seeds: $(INSTALLED)  ## three seeds with all ablations (an hour)
	$(BIN)/python -m benchmarks.quickstart --seeds $(SEEDS) --ablations

test: $(INSTALLED_DEV)  ## the fast tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q -m "$(MARK)" $(TESTS)

test-all: $(INSTALLED_DEV)  ## the slow tests as well
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q -m "slow or not slow"

lint: types  ## format, lint, import layers and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports

types: $(INSTALLED_DEV)  ## types alone
	$(BIN)/basedpyright --level error --pythonpath $(BIN)/python

bench: $(INSTALLED)  ## our step against the plain one
	$(BIN)/python -m benchmarks.step

bench-peers: $(PEERS)/.installed  ## ours and TRL, transformers in the same run
	$(PEERS)/bin/python -m benchmarks.peers

costs: $(INSTALLED)  ## FLOPs, memory and collectives against committed values
	$(BIN)/python -m benchmarks.costs

install: $(INSTALLED_DEV)  ## .venv with the tools of the tests

$(INSTALLED): pyproject.toml requirements.txt
	@echo "making $(VENV) with $(PYTHON) and installing povid_jax (a minute or two)"
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "povid_jax needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; set PYTHON=python3.12 or another one")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(INSTALLED_DEV): $(INSTALLED)
	@echo "installing the tools of the tests"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

$(PEERS)/.installed: benchmarks/requirements-peers.txt pyproject.toml
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -r requirements.txt -r benchmarks/requirements-peers.txt
	@touch $@

clean:  ## remove .venv and .venv-peers
	rm -rf $(VENV) $(PEERS)
