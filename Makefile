# Two commands matter: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
PY := .venv/bin/python
ARGS ?=
JOBS ?= 2
# Tests share the cores as processes; threads beside them would only get in their way.
PYTEST := OMP_NUM_THREADS=1 $(PY) -m pytest -n $(JOBS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help run test quick lab bench golden train clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: .venv/ready ## execute every notebook; results and an overview land in results/
	$(PY) -m camhelpers run all --profile quick --jobs $(JOBS) $(ARGS)

test: .venv/ready-dev ## lint, unit tests, doctests, comparisons with peers, and nbval over the notebooks
	$(PY) -m ruff check .
	$(PYTEST) -p tests.nbval_tolerance --nbval --nbval-current-env --nbval-cell-timeout 600 \
		--doctest-modules camhelpers tests notebooks $(ARGS)

quick: .venv/ready-dev ## lint and unit tests, within a minute: no notebook, no browser, nothing slow
	$(PY) -m ruff check .
	$(PYTEST) -q -m "not slow and not browser" tests $(ARGS)

lab: .venv/ready ## open JupyterLab on the notebooks
	$(PY) -m jupyterlab notebooks $(ARGS)

bench: .venv/ready-bench ## time the engine, the evaluation and the volumes beside their peers
	$(PY) -m benchmarks.explain $(ARGS)
	$(PY) -m benchmarks.evaluate $(ARGS)
	$(PY) -m benchmarks.robustness $(ARGS)
	$(PY) -m benchmarks.geometry
	$(PY) -m benchmarks.volumes $(ARGS)

golden: .venv/ready ## re-execute the committed notebooks in place and normalise them (ARGS="03 05" for some)
	$(PY) -m camhelpers golden $(ARGS)

train: .venv/ready ## train the shipped model anew
	$(PY) -m camhelpers train scenes $(ARGS)

clean: ## remove results and caches; the environment and the data stay
	rm -rf results .pytest_cache .ruff_cache .hypothesis
	find camhelpers tests benchmarks notebooks -name __pycache__ -prune -exec rm -rf {} +

# A stamp is written only after pip has succeeded, so an interrupted installation is taken up again.
.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed; name one with make PYTHON=python3.11")'
	test -x $(PY) || $(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt
	$(PY) -m pip install --disable-pip-version-check --no-deps -e .
	@touch $@

.venv/ready-dev: .venv/ready requirements-dev.txt
	$(PY) -m pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

.venv/ready-bench: .venv/ready-dev requirements-bench.txt
	$(PY) -m pip install --disable-pip-version-check -r requirements-bench.txt
	@touch $@
