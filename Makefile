# make demo    a clip is rendered, tracked and scored; VIDEO=film.mp4 LABELS=first.png for your own
# make test    the test suite, from nothing
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
OUT    ?= demo

.PHONY: demo test test-slow bench results lint clean

demo: $(READY)
	$(BIN)/pixeltrail demo --out $(OUT) $(if $(VIDEO),--video "$(VIDEO)") $(if $(LABELS),--labels "$(LABELS)")

test: $(READY) lint
	$(BIN)/python -m pytest -m "not slow" -q

test-slow: $(READY)
	$(BIN)/python -m pytest -m slow -q

bench: $(READY)
	$(BIN)/python benchmarks/affinity.py
	$(BIN)/python benchmarks/training.py

results: $(READY)
	$(BIN)/python benchmarks/results.py $(DAVIS) $(if $(SQUEEZENET),--squeezenet $(SQUEEZENET))

lint: $(READY)
	$(BIN)/ruff check src tests benchmarks examples
	$(BIN)/ruff format --check src tests benchmarks examples
	$(BIN)/mypy

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) demo build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
