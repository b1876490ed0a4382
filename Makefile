# `make up` and `make test` are all that a fresh machine needs, besides make and python3 (3.11 or later, with venv).
#   make up ARGS="192.0.2.10 --board 0.0.0.0:8080"
#   make test PYTEST="tests/unit -k lines"

VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
PYTEST ?=
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help up test check bench fleet soak chaos faults fuzz docs packages clean
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

up: $(VENV)/installed ## measure, store and show, all in one process; ARGS="TARGET... --board HOST:PORT"
	@$(BIN)/coloprobe up $(ARGS)

test: packages check ## style, types and every test; as root on Debian installs the servers they need
	@$(BIN)/python -m pytest $(PYTEST)

check: $(VENV)/installed-dev ## style and types
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

bench: packages $(VENV)/installed-dev ## every figure that the README claims; ARGS="--quick --only PART --json FILE"
	@$(BIN)/python -m benchmarks.run $(ARGS)

fleet: packages $(VENV)/installed-dev ## a thousand simulated agents: what the fan-in takes; ARGS="--quick --only PART --json FILE --write"
	@$(BIN)/python -m benchmarks.fleet $(ARGS)

soak: packages $(VENV)/installed-dev ## an agent and a collector for an hour: is their memory flat? ARGS="--hours 8 --json FILE"
	@$(BIN)/python -m benchmarks.soak $(ARGS)

chaos: packages $(VENV)/installed-dev ## break everything for 5 minutes, is anything lost? ARGS="--seed 7 --for 5m --json FILE"
	@$(BIN)/python -m tests.chaos $(ARGS)

faults: packages $(VENV)/installed-dev ## sixteen faults in a lab: does diagnose name them? ARGS="--only ID --show --pairs 12 --json FILE"
	@$(BIN)/python -m tests.faults $(ARGS)

fuzz: packages $(VENV)/installed-dev ## every decoder with hostile input; ARGS="--seconds 60 --only NAME --write"
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet --group fuzz || true
	@$(BIN)/python -m tests.fuzz $(ARGS)

docs: $(VENV)/installed-dev ## write the pages that are made from code
	@$(BIN)/python -m docs.generate

packages:
	@.ci/debian-packages

clean: ## forget the virtual environment and every cache
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist

# A stamp file is newer than pyproject.toml when nothing is to be installed.
$(VENV)/installed: pyproject.toml
	@.ci/make-venv $(VENV)
	@echo "installing coloprobe and what it needs into $(VENV)"
	@$(BIN)/python -m pip install --quiet --upgrade pip
	@$(BIN)/python -m pip install --quiet --editable '.[all]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "installing what the tests need into $(VENV)"
	@$(BIN)/python -m pip install --quiet --group dev
	@touch $@
