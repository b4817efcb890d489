# `make help` lists the targets. Only Python (3.11 or newer, with venv), git and make are needed to start.
SHELL := /bin/sh
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PYTEST_ARGS ?=
# Most tests wait for servers and processes, so more of them run at a time than there are cores; 0: one after the other.
TEST_JOBS ?= 4
# What `make test-cluster` runs: any of cluster, faktory, docker.
PARTS ?= cluster faktory docker

# Everything that a tool would like to keep stays inside the clone.
export PIP_CACHE_DIR ?= $(CURDIR)/.cache/pip
export UV_CACHE_DIR ?= $(CURDIR)/.cache/uv
export HYPOTHESIS_STORAGE_DIRECTORY ?= $(CURDIR)/.cache/hypothesis
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Many tests start processes, and each would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

# What `make bench` runs: a file of tests/bench without bench_ and .py, and what it is to be called with.
BENCH ?= pipeline
# What `make proof` runs on: rq, or faktory, and how; see the head of tests/soak/queue_proof.py.
PROOF ?= rq
# How long `make soak` takes, and its seed; see the head of tests/soak/run_soak.py.
SOAK ?= --minutes 30

# What `make audit-deps` is told besides; --if-possible: a service that can't be asked is no failure.
AUDIT_ARGS ?=

# Where `make simulate` begins, and how many histories it tries.
SEED ?= 1
COUNT ?= 1000
SIMULATE_ARGS ?=

.PHONY: sbom help venv test lint types imports docs-check licences audit-deps unit test-stores test-cluster simulate bench proof soak demo format lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

venv: $(STAMP) ## the one environment, .venv, from the hashed requirements

$(STAMP): requirements/dev.txt pyproject.toml
	@set -eu; \
	fit() { "$$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }; \
	python=; bare=; \
	for candidate in "$(PYTHON)" python3 python3.13 python3.12 python3.11; do \
	  fit "$$candidate" || continue; \
	  if "$$candidate" -c 'import ensurepip, venv' >/dev/null 2>&1; then python=$$candidate; break; fi; \
	  bare=$${bare:-$$candidate}; \
	done; \
	if [ -z "$$python" ] && [ -n "$$bare" ]; then \
	  echo "$$bare is new enough but has no venv and ensurepip, so it can't make an environment." >&2; \
	  echo "On Debian and Ubuntu they are in the package python3-venv." >&2; exit 1; \
	fi; \
	if [ -z "$$python" ]; then \
	  echo "longshore needs Python 3.11 or newer; $(PYTHON) is: $$("$(PYTHON)" --version 2>&1 | head -n 1)" >&2; \
	  echo "Install one, or name it: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; \
	fi; \
	if ! fit $(BIN)/python || ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	  echo "making $(VENV) with $$("$$python" --version)"; \
	  "$$python" -m venv --clear $(VENV); \
	fi
	@echo "installing the requirements"
	@$(BIN)/python -m pip install --quiet --no-compile --no-deps --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --no-index -e .
	@touch $@

test: lint types imports docs-check licences unit ## all that needs no server but the one it starts itself

lint: $(STAMP) ## ruff
	$(BIN)/ruff check

types: $(STAMP) ## mypy, strict
	$(BIN)/mypy

imports: $(STAMP) ## the import rules
	$(BIN)/lint-imports --cache-dir .cache/import-linter

docs-check: $(STAMP) ## the generated schemas are those of the code
	@if [ -f enqueue/schema.py ]; then echo "$(BIN)/python -m enqueue.schema --check"; $(BIN)/python -m enqueue.schema --check; fi

# What we and our tests may build on: permissive licences, and the MPL, which binds its own files alone.
LICENCES := MIT;MIT-0;MIT License;BSD;Apache;ISC;PSF;Python Software Foundation;MPL-2.0;Mozilla Public License 2.0;Unlicense;0BSD

licences: $(STAMP) ## the licences of all that is installed are among those that we may build on
	@echo "$(BIN)/pip-licenses --allow-only ..."
	@$(BIN)/pip-licenses --python $(BIN)/python --from=mixed --partial-match --allow-only "$(LICENCES)" \
	  --ignore-packages promql-parser >/dev/null  # MIT, which its metadata doesn't say

audit-deps: $(STAMP) ## known vulnerabilities in the locked requirements, by pip-audit; says so if it can't ask
	@$(BIN)/python -m pip install --quiet uv
	@$(BIN)/python requirements/audit.py $(AUDIT_ARGS) $(BIN)/uv tool run --quiet pip-audit@2.10.1

# What is in the image, as the lock has it: CycloneDX, by a tool of its own that nothing else depends on.
sbom: $(STAMP) ## a bill of materials of the locked requirements, dist/sbom.json
	@$(BIN)/python -m pip install --quiet uv
	@mkdir -p dist
	@$(BIN)/uv tool run --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py requirements requirements/consumer.txt \
	  --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.json
	@echo "wrote dist/sbom.json"

unit: $(STAMP) ## the plain test suite alone
	$(BIN)/pytest -n $(TEST_JOBS) --dist worksteal -m "not cluster and not faktory and not docker" $(PYTEST_ARGS)

# What speaks Redis, on each server that is installed: requirements/dev.txt brings some, PATH may bring more.
STORE_TESTS := tests/contracts/test_rq*.py tests/contracts/test_producer*.py tests/contracts/test_standing.py \
	tests/faults/test_redis_faults.py tests/faults/test_crash_points.py tests/faults/test_takeover_in_trouble.py

test-stores: $(STAMP) ## the tests of what speaks Redis, on every kind of Redis and Valkey that is installed
	@set -eu; PYTHONPATH=tests $(BIN)/python -m support.redis_server | while read -r name binary; do \
	  echo "== $$name ($$binary)"; \
	  LONGSHORE_TEST_REDIS_SERVER=$$binary $(BIN)/pytest -q -n $(TEST_JOBS) --dist worksteal \
	    -m "not cluster and not faktory and not docker" $(STORE_TESTS) $(PYTEST_ARGS) </dev/null; \
	done

test-cluster: $(STAMP) ## tests on real servers: KUBECONFIG, FAKTORY_URL, DOCKER_HOST, else kind and docker
	@PARTS="$(PARTS)" tests/cluster-up.sh $(BIN)/pytest $(PYTEST_ARGS)

simulate: $(STAMP) ## histories on virtual time with faults drawn from a seed: SEED=123 COUNT=1 replays one
	@exec $(BIN)/python tests/simulate --seed $(SEED) --count $(COUNT) $(SIMULATE_ARGS)

bench: $(STAMP) ## a benchmark: BENCH="pipeline", "start takeover", "scale inflight 5000", "kubernetes fake" ...
	@set -- $(BENCH); name=$$1; shift; \
	if [ ! -f "tests/bench/bench_$$name.py" ]; then \
	  echo "There is no benchmark '$$name'; BENCH names one of:" $$(ls tests/bench | sed -n 's/^bench_\(.*\)\.py$$/\1/p') >&2; exit 2; \
	fi; \
	exec $(BIN)/python "tests/bench/bench_$$name.py" "$$@"

proof: $(STAMP) ## 20,000 jobs while consumers and Redis are killed: PROOF="rq --seed 7", "faktory --jobs 5000" ...
	@exec $(BIN)/python tests/soak/queue_proof.py $(PROOF)

soak: $(STAMP) ## half an hour of jobs on both queues while servers and consumers die, on a cluster: SOAK="--minutes 30 --seed 7"
	@exec $(BIN)/python tests/soak/run_soak.py $(SOAK)

demo: $(STAMP) ## a server, a consumer and some jobs, on this machine, in a minute
	@$(BIN)/longshore demo

format: $(STAMP) ## ruff's fixes and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

COMPILE = $(BIN)/uv pip compile --quiet pyproject.toml --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --no-annotate --custom-compile-command "make lock" $(UPGRADE)

lock: $(STAMP) ## requirements/*.txt from pyproject.toml; UPGRADE=--upgrade for newer versions
	@$(BIN)/python -m pip install --quiet uv
	$(COMPILE) --output-file requirements/producer.txt
	$(COMPILE) --extra consumer --extra s3 --extra seal --extra sentry --output-file requirements/consumer.txt
	$(COMPILE) --all-extras --group dev --output-file requirements/dev.txt

clean: ## remove all that these targets made
	rm -rf $(VENV) .cache build dist longshore.egg-info .longshore
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
