# The project's words. `make demo` and `make test` set up everything they need by themselves.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
COMPILE := $(BIN)/pip-compile --quiet --strip-extras --allow-unsafe --no-emit-options \
	--no-emit-index-url --no-emit-find-links --no-emit-trusted-host --no-header

export OMP_WAIT_POLICY := PASSIVE

.PHONY: demo up test lint docs bench chaos archive lock clean
.DEFAULT_GOAL := help

help:            ## say what there is
	@grep -E '^[a-z]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 is needed; set PYTHON=/path/to/python3.11"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (once; a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)   ## show the main things on a photograph, pictures in out/
	@$(BIN)/lantern demo

up: $(READY)     ## run the service on http://127.0.0.1:8000 until Ctrl-C
	@exec $(BIN)/lantern up

test: lint       ## lint, unit tests, end-to-end tests on the real stack
	@$(BIN)/python -m pytest -m "not e2e" -n logical --maxprocesses 4 --dist worksteal
	@$(BIN)/python -m pytest -m e2e tests/e2e

lint: $(READY)   ## ruff and mypy --strict
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

docs: $(READY)   ## write docs/techniques from the registry
	@$(BIN)/lantern docs

bench: $(READY)  ## measure against the peers, ratios in one run
	@$(BIN)/python -m benchmarks

chaos: $(READY)  ## kill processes under load, 200 times, and print what came of it
	@$(BIN)/python -m tests.chaos

archive: $(READY) ## build the TorchServe archives
	@$(BIN)/python -m handlers.archive

# what the image needs is a part of the same, with the same pins
lock:            ## write both locks anew from pyproject.toml
	@$(BIN)/pip install --quiet pip-tools
	@$(COMPILE) --extra dev --output-file requirements.lock pyproject.toml
	@$(COMPILE) --no-annotate --constraint requirements.lock \
	  --output-file requirements-run.lock pyproject.toml
	@sed -i 's/+cpu$$//' requirements.lock requirements-run.lock  # any build of torch will do

clean:           ## remove what was built
	rm -rf $(VENV) .run out model_store/*.mar
