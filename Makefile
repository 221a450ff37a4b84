# Everything a developer types. `make demo` and `make test` set up what they need; nothing but Python 3.11+ is assumed.
# ARGS goes to the program behind a target: make test ARGS="tests/unit -k planner", make demo ARGS=--exit

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(firstword $(foreach name,python3 python3.13 python3.12 python3.11,\
	$(shell $(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $(name))))
TORCH := torch==2.13.0
INSTALLED := $(VENV)/.installed
WEIGHTS := $(VENV)/.weights
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off

# Benchmarks that need nothing but this repository; the others want wrk, nginx, npm or minutes.
ALONE := $(filter $(patsubst benchmarks/%.py,%,$(wildcard benchmarks/*.py)),decision recording redaction registry_loading)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-vllm test-gpu lint format bench bench-gpu lock clean

help: ## Show this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(INSTALLED) $(WEIGHTS) ## Make .venv with everything in it, and the small model's weights

demo: setup ## Routed answers from a gateway on this machine
	$(BIN)/journeyman demo $(ARGS)

test: setup ## Run the tests
	$(BIN)/pytest $(ARGS)

test-vllm: setup ## Run the tests against the real vLLM server on this CPU (3.5 GB, once)
	$(BIN)/python .ci/vllm_environment.py $(BIN)/pytest tests/vllm -m vllm $(ARGS)

test-gpu: setup ## Run the tests that need a CUDA device (they skip without one)
	$(BIN)/pytest tests/gpu $(ARGS)

lint: $(INSTALLED) ## Style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED) ## Put the code in the house's format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(addprefix bench-,$(ALONE)) ## Run the benchmarks that need nothing else

bench-gpu: $(INSTALLED) ## Training and generation on one GPU (ARGS=--quick)
	$(BIN)/python -m benchmarks.gpu $(ARGS)

bench-%: $(INSTALLED) ## Run one benchmark: bench-gateway, bench-memory, bench-asgi_servers, ...
	@echo "== $*"
	$(BIN)/python -m benchmarks.$* $(ARGS)

lock: $(INSTALLED) ## Write requirements.lock from pyproject.toml
	$(BIN)/python .ci/lock.py

clean: ## Remove the environment and the caches; state in .journeyman stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -not -path './.*' -prune -exec rm -rf {} +

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Journeyman needs Python 3.11 or newer on the PATH (or: make PYTHON=/path/to/python)."; exit 1; }
	@echo "setup 1/4: $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "On Debian and Ubuntu: apt-get install python3-venv"; exit 1; }

# torch has a line of its own: which build of it fits (CPU or CUDA) is the machine's affair, so no lock can name its file.
$(INSTALLED): requirements.lock pyproject.toml | $(BIN)/python
	@echo "setup 2/4: $(TORCH) (about 200 MB for CPUs; the CUDA build is several GB)"
	$(PIP) -c requirements.lock "$(TORCH)"
	@echo "setup 3/4: $$(grep -c '==' requirements.lock) packages"
	$(PIP) -r requirements.lock
	$(PIP) -qq --no-deps -e .
	@touch $@

$(WEIGHTS): | $(INSTALLED)
	@echo "setup 4/4: the small model's weights (100 MB; about half a minute, once)"
	$(BIN)/python -m specialists.engine prepare
	@touch $@
