# Two commands are all a newcomer needs: `make demo` and `make test`. `make check` is what a change must pass.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test fast soak check format screenshots clean

demo: $(VENV)/.demo
	$(BIN)/vitals demo $(ARGS)

test: $(VENV)/.test
	sh tests/install-parts.sh
	sh tests/run.sh $(BIN)/pytest $(ARGS)

# Without the parts that need other programs: for the inner loop.
fast: $(VENV)/.test
	$(BIN)/pytest -m "not broker and not browser and not slow" $(ARGS)

# The whole road under minutes of seeded faults: make soak ARGS="--seed 3 --minutes 30 --store influx".
soak: $(VENV)/.test
	sh tests/install-parts.sh
	$(BIN)/python -m bench.chaos $(ARGS)

check: $(VENV)/.check
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.check
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The pictures of docs/, from the running demo in a real Chromium.
screenshots: $(VENV)/.test
	sh tests/install-parts.sh
	$(BIN)/python -m tests.browser.demo_screenshots docs/images

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[demo]'
	@touch $@

$(VENV)/.test: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

$(VENV)/.check: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test,check]'
	@touch $@

clean:
	rm -rf $(VENV) var build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
