# The first interpreter that runs: a version manager's shim may exist for one that isn't installed.
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
STORE ?= embedded
# What protos may not break: the last commit.
AGAINST ?= HEAD
# Where generated code goes; lint generates apart and compares.
GENERATED ?= .
GENERATED_CHECK := .venv-codegen/check
# Processes that the tests are shared out to; most of them wait most of the time.
WORKERS ?= 3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help setup demo test lint format generate clean bench-paper bench-forecast bench-planner bench-simulator \
	bench-catalog bench-fidelity bench-dataplane bench-overload bench-soak bench-attack

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

setup: $(VENV)/.ready  ## Check the machine, install into .venv, fetch the sample models

$(VENV)/.ready: pyproject.toml constraints.txt paldia/cli/preflight.py
	@$(PYTHON) paldia/cli/preflight.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[triton,etcd,demo,dev]'
	$(BIN)/paldia samples prepare
	@touch $@

demo: setup  ## Serve two real models and an emulated one on a mixed cluster and replay a trace (STORE=etcd for etcd)
	@$(BIN)/paldia demo --store $(STORE) --out out/demo

test: setup  ## Run all tests (WORKERS=1 for a machine that does much else)
	@$(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup  ## Check style, types, layers and protos
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/buf breaking --against '.git#ref=$(AGAINST)'
	@$(MAKE) --no-print-directory generate GENERATED=$(GENERATED_CHECK)
	@diff -r -x __pycache__ -x __init__.py $(GENERATED_CHECK)/paldia/api/v1 paldia/api/v1 \
		|| { echo 'paldia/api/v1 is not what protos/ gives; run: make generate'; exit 1; }

format: setup  ## Rewrite code and protos in the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/buf format --write

# grpcio-tools pins protobuf, so it gets an environment of its own.
.venv-codegen/.ready:
	$(PYTHON) -m venv .venv-codegen
	.venv-codegen/bin/python -m pip install --quiet --disable-pip-version-check grpcio-tools==1.80.0 mypy-protobuf==5.1.0
	@touch $@

generate: .venv-codegen/.ready  ## Generate paldia/api/v1 from protos/
	@mkdir -p $(GENERATED)
	@PATH=.venv-codegen/bin:$$PATH .venv-codegen/bin/python -m grpc_tools.protoc --proto_path=protos \
		--python_out=$(GENERATED) --grpc_python_out=$(GENERATED) \
		--mypy_out=quiet:$(GENERATED) --mypy_grpc_out=quiet:$(GENERATED) protos/paldia/api/v1/*.proto

clean:  ## Remove what was built and measured
	rm -rf out dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

bench-paper: setup  ## Evaluate all policies in the simulator; it can be stopped and goes on
	$(BIN)/python -m bench.compiled bench.paper

bench-forecast: setup  ## Score the forecasters on the traces
	$(BIN)/python -m bench.forecast

bench-planner: setup  ## Time the planner, and compare its placements with an optimiser's
	$(BIN)/python -m bench.planner

bench-simulator: setup  ## Time the simulator, and show that memory does not grow with a trace
	$(BIN)/python -m bench.simulator

bench-catalog: setup  ## Show how far off the catalog's rules are
	$(BIN)/python -m bench.catalog

bench-fidelity: setup  ## Play the same requests live and in the simulator, in 40 minutes on a quiet machine
	$(BIN)/python -m bench.fidelity

bench-dataplane: setup  ## Compare what serving through PALDIA costs with proxies and other servers, in 2.5 hours
	$(BIN)/python -m bench.dataplane

bench-overload: setup  ## Send up to three times what can be served, in 15 minutes
	$(BIN)/python -m bench.overload

bench-soak: setup  ## Load a cluster for 30 minutes and watch its memory
	$(BIN)/python -m bench.soak

bench-attack: setup  ## Treat a frontend badly in every way, and show how others fare, in 10 minutes on a quiet machine
	$(BIN)/python -m bench.attack
