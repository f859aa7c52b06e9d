# make demo | test | check | lowest | docs | bench | claims | gpu | clean. Needs Python ≥ 3.10 with pip, and a package index; everything goes into $(VENV).

PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin/python
INSTALL := $(RUN) -m pip install -qq --disable-pip-version-check -c constraints.txt
# One process for each core, each with one thread; a file's tests stay together.
TEST = OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n auto --dist loadfile --durations=25
PINS := pyproject.toml constraints.txt

.PHONY: demo test check check-format check-lint check-types check-tests lowest docs bench claims gpu clean

demo: $(VENV)/.library
	$(VENV)/bin/registrationnet demo demo-output

test: $(VENV)/.test
	$(TEST)

# What .pre-commit-config.yaml runs is these four.
check: check-format check-lint check-types check-tests

check-format: $(VENV)/.check
	$(RUN) -m ruff format --check --quiet .

check-lint: $(VENV)/.check
	$(RUN) -m ruff check --quiet .

check-types: $(VENV)/.check
	$(RUN) -m mypy

check-tests: $(VENV)/.check
	$(TEST) --cov --cov-report=term

# With the lowest versions that pyproject.toml allows of what the library runs with, in an environment of its own; for Python 3.10. What
# is left out asks for later ones itself: half precision on the CPU, the stand-in for a card, the scene.
LOWEST := .venv-lowest
UV := $(LOWEST)/bin/python -m uv pip
lowest:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10) and "make lowest needs Python 3.10, for which those versions were built; set PYTHON=python3.10")'
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install -qq --disable-pip-version-check uv
	$(UV) compile --quiet --python $(LOWEST) --resolution lowest-direct pyproject.toml -o $(LOWEST)/lowest.txt
	$(UV) install --quiet --python $(LOWEST) --compile-bytecode -c $(LOWEST)/lowest.txt -e ".[test]" matplotlib
	$(UV) install --quiet --python $(LOWEST) --no-deps icon_registration unigradicon
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -q -n auto --dist loadfile Testing/test_imports.py Testing/test_interop.py \
		$(addprefix Testing/,geometry io losses models registration quality training cohort slicer_bridge cli)

# The site, in build/site; a warning ends it.
docs: $(VENV)/.docs
	$(RUN) -m sphinx -q --fresh-env --fail-on-warning --keep-going docs build/site

bench: $(VENV)/.bench
	$(RUN) -m Testing.benchmarks.accuracy $(BENCH)

# About an hour of one core; CLAIMS=--quick shows in minutes that everything runs, CLAIMS=--go-on takes up a run that was cut.
claims: $(VENV)/.test
	$(RUN) -m Testing.claims $(CLAIMS)

# For a machine with a CUDA card and no network: with its own Python and packages; what to bring stands in the script.
gpu:
	PYTHONPATH=. $(PYTHON) -m Testing.benchmarks.gpu $(GPU_OUT)

clean:
	rm -rf $(VENV) $(LOWEST) build dist demo-output gpu-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Each stamp is younger than what it was installed from, so a second call installs nothing.
$(VENV)/.library: $(PINS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "registrationnet needs Python 3.10 or later; set PYTHON=")'
	@echo "installing into $(VENV) (some minutes the first time)"
	@test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	@$(INSTALL) -e .
	@touch $@

# The oracles ask for torchvision and more, which nothing here needs; of what they import only matplotlib is missing.
$(VENV)/.test: $(VENV)/.library
	@$(INSTALL) -e ".[test]"
	@$(INSTALL) matplotlib
	@$(INSTALL) --no-deps icon_registration unigradicon
	@$(INSTALL) -e ".[slicer]" || echo "no slicer-core for this Python: the tests of the scene will be skipped"
	@touch $@

$(VENV)/.check: $(VENV)/.test
	@$(INSTALL) -e ".[dev]"
	@touch $@

$(VENV)/.bench: $(VENV)/.test
	@$(INSTALL) -e ".[bench]"
	@touch $@

$(VENV)/.docs: $(VENV)/.library
	@$(INSTALL) -e ".[docs,cohort,train]"
	@touch $@
