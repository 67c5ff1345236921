PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo test lint bench clean

venv: .venv/.done
.venv/.done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: venv
	$(BIN)/zebra campaign owl

test: venv
	$(BIN)/python -m pytest -q -rs

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: venv
	$(BIN)/python benchmarks/sim.py

clean:
	rm -rf .venv build dist *.egg-info zebra-report
