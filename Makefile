PYTHON ?= python3
BIN := .venv/bin

.PHONY: venv demo accuracy test test-real test-others test-again lint bench leftovers clean

venv: .venv/.done
.venv/.done: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

demo: venv
	$(BIN)/zebra campaign owl

# What campaigns find against what the specifications of Owl and LAD say: whole campaigns, one table.
accuracy: venv
	$(BIN)/python benchmarks/accuracy.py

# Two streams of about the same length, as tests of real processes mostly wait. The second is shown when it is over.
# What fails of real processes is tried once more when all others are over, and has failed if it fails by itself too;
# simulated tests have no second try, nor has a session that ended otherwise than with a list of tests that failed.
PYTEST := $(BIN)/python -m pytest -q -rsf --tb=short --durations=15
TRIES := .pytest_cache/tries
TRIED = -o cache_dir=$(TRIES)/$(1)
LISTED = [ $$? = 1 -a -e $(TRIES)/$(1)/v/cache/lastfailed ]
SIMULATED := tests/unit tests/sim tests/quality
OTHERS := $(SIMULATED) tests/repo
test: venv
	@rm -rf $(TRIES)
	@$(MAKE) --no-print-directory -j2 test-real test-others
	@$(MAKE) --no-print-directory test-again

test-real: venv
	@$(PYTEST) $(call TRIED,real) -m "not docker" $(OTHERS:%=--ignore=%) || $(call LISTED,real)

test-others: venv
	@log=$$(mktemp); failed=0; \
	{ $(PYTEST) -m "not docker" $(SIMULATED) || failed=1; \
	  $(PYTEST) $(call TRIED,repo) -m "not docker" tests/repo || $(call LISTED,repo) || failed=1; \
	  $(PYTEST) $(call TRIED,docker) -m docker || $(call LISTED,docker) || failed=1; } >"$$log" 2>&1; \
	echo; cat "$$log"; rm "$$log"; exit $$failed

test-again: venv
	@for stream in real repo docker; do \
	    if [ -e $(TRIES)/$$stream/v/cache/lastfailed ]; then \
	        echo "Failed beside others, now by itself:"; \
	        $(PYTEST) -rp --last-failed $(call TRIED,$$stream) || exit 1; \
	    fi; \
	done

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Every kind of effect on every real substrate that this machine has, killed KILLS times each way, together and alone;
# every fault, random triples, every end of a session. The table goes into the docs. It takes an hour and a half.
KILLS ?= 20
leftovers: venv
	$(BIN)/python -m tests.leftovers.table --kills $(KILLS) --write docs/leftovers.md

bench: venv
	$(BIN)/python benchmarks/sim.py
	$(BIN)/python benchmarks/process.py
	$(BIN)/python benchmarks/proxy.py
	$(BIN)/python benchmarks/trials.py
	$(BIN)/python benchmarks/pools.py --quick
	$(BIN)/python benchmarks/owl.py --quick
	$(BIN)/python benchmarks/lad.py --quick

clean:
	rm -rf .venv build dist *.egg-info zebra-report
