# The two commands of the README are `make run` and `make test`.  Everything else is for those who work on mailhub.
.DEFAULT_GOAL := help
.PHONY: help run test lint types tests interop bench bench-short soak wheel clean

PYTHON ?= python3
BIN := .venv/bin
CONFIG ?= etc/mailhub.toml

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

# editable_mode=compat: the default editable install of a flat layout hides twisted/plugins from twistd.
# The virtual environment of the stamp that is being made, and the Python that it is made of.
INTERPRETER = $(PYTHON)
INSTALL = $(@D)/bin/python -m pip install --quiet --disable-pip-version-check
EDITABLE := --no-build-isolation --config-settings editable_mode=compat --editable

# mailhub is measured on the system's Python, as docs/how-to/run-under-systemd.md installs it: one that is built by hand
# is often built without the optimizations, and then needs up to a third more CPU time.
BENCH_PYTHON ?= $(or $(wildcard /usr/bin/python3),$(PYTHON))
.venv-bench/.installed: INTERPRETER = $(BENCH_PYTHON)

# Each stamp is made last, so that an installation that failed is tried again.
.venv/.installed .venv-bench/.installed: setup.cfg pyproject.toml
	@$(INTERPRETER) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "mailhub needs Python 3.11 or later; set PYTHON=...")'
	@$(@D)/bin/python -m pip --version >/dev/null 2>&1 || $(INTERPRETER) -m venv --clear $(@D)
	@rm -f $@ $(@D)/.tools
	$(INSTALL) --upgrade pip "setuptools>=66.1" wheel
	$(INSTALL) $(EDITABLE) .
	@touch $@

.venv/.tools: .venv/.installed
	$(INSTALL) $(EDITABLE) ".[test,dev]"
	@touch $@

run: .venv/.installed  ## start the sample hub in the foreground, with two demo accounts
	@$(BIN)/python -m mailhub.app.sample --config $(CONFIG)
	@exec $(BIN)/twistd --nodaemon --pidfile= mailhub --config $(CONFIG)

test: lint types tests  ## lint, types, tests: all that must be green

lint: .venv/.tools
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.tools
	$(BIN)/mypy

tests: .venv/.tools
	$(BIN)/python -m pytest -n auto --dist loadgroup -m "not heavy"
	$(BIN)/python -m pytest -m heavy

interop: .venv/.tools  ## install other people's mail programs from Debian (root), then run the interop tests
	tests/interop/install
	$(BIN)/python -m pytest tests/interop

# Postfix is only unpacked, which needs no root; running it does.  Without it mailhub is measured alone.
bench: .venv-bench/.installed  ## mailhub and Debian's Postfix in turn, all of the table (half an hour or more, as root)
	-tests/interop/install postfix
	.venv-bench/bin/python -m bench compare

bench-short: .venv-bench/.installed  ## the same, the six cells of the goal only (two minutes)
	-tests/interop/install postfix
	.venv-bench/bin/python -m bench compare --short

soak: .venv/.tools  ## hours of crashes, power cuts, faults and abuse; writes docs/reference/reliability.md (SOAK="--help")
	-@tests/crash/install
	$(BIN)/python -m tests.soak $(SOAK)

wheel: .venv/.installed
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .

clean:  ## remove what was built; var/ is left alone
	rm -rf .venv .venv-bench build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
