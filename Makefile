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
	$(BIN)/python -m pytest -q -rs --durations=15

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy tests/toxiproxy_api/conftest.py

bench: venv
	$(BIN)/python benchmarks/sim.py
	$(BIN)/python benchmarks/process.py
	$(BIN)/python benchmarks/proxy.py
	$(BIN)/python benchmarks/pools.py --quick
	$(BIN)/python benchmarks/owl.py --quick
	$(BIN)/python benchmarks/lad.py --quick

clean:
	rm -rf .venv build dist *.egg-info zebra-report
