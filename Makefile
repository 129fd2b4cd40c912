# Everything here starts from a bare `python3 >= 3.11`, make and a package index. A target makes the environment that it needs;
# the second time it finds it made. PYTHON=/path/to/python chooses the interpreter (after `make clean`).
.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
SHELL := /bin/sh
# Hundreds of processes start in the tests. Empty is unset: what one of them has compiled the next one need not.
export PYTHONDONTWRITEBYTECODE :=

VENV := .venv
BIN := $(VENV)/bin
# The Pythons of this machine newer than the main one, such as "3.12 3.13"; looked for only when asked.
NEWER = $(shell main=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	tools/find_python | awk -v main="$$main" '$$1 > main { print $$1 }')
CHECKED := $(wildcard src tests examples benchmarks)
INSTALLS := pyproject.toml tools/venv requirements/installer.lock
FAST := not slow and not engine and not example
# What these start and speak to is the same for every Python; what they call has tests of its own.
OUTSIDE := tests/chaos tests/cli tests/service tests/steps
# The tests of engines in two halves that take about as long: Ray, and what is not named here.
HALF := tests/engines/test_ray*.py
# The other tests in two halves: those that start processes of our own, and what is not named here.
PROCESSES := tests/chaos tests/cli tests/fleet tests/service tests/soak

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: run
run: $(VENV)/.run ## build the mosaic of the example; the pictures and run.html go to out/mosaic/
	$(BIN)/python -m examples.mosaic

.PHONY: search
search: $(VENV)/.run ## search the settings of a classifier in two rounds, as the second example
	$(BIN)/python -m examples.search --profile

.PHONY: warehouse
warehouse: $(VENV)/.run ## the TPC-H warehouse, a workflow in YAML; the page goes to out/warehouse/report.html
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/dagrid start examples/warehouse/warehouse.yaml

# Engines mostly wait, so more goes on at a time than there are cores. The longest come first, the shortest last.
.PHONY: test
test: $(VENV)/.dev ## all checks, all tests, the fast tests on each newer Python, the wheel; several at a time
	@tools/servers
	@$(BIN)/python tools/side_by_side.py 3 test-rest-2 test-engines-2 test-engines-1 test-rest-1 $(addprefix test-on-,$(NEWER)) check test-wheel

.PHONY: check
check: $(VENV)/.dev ## formatting, lint, types, the floors between packages
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy $(CHECKED)
	$(BIN)/lint-imports --no-cache --no-logo
	tools/stubs --check

.PHONY: test-main
test-main: $(VENV)/.dev ## all tests on the main Python
	@tools/servers
	$(BIN)/python -m pytest -q

.PHONY: test-engines-1
test-engines-1: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m engine $(HALF)

.PHONY: test-engines-2
test-engines-2: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m engine $(HALF:%=--ignore-glob='%')

.PHONY: test-rest-1
test-rest-1: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m 'not engine' $(PROCESSES)

.PHONY: test-rest-2
test-rest-2: $(VENV)/.dev
	$(BIN)/python -m pytest -q -m 'not engine' $(PROCESSES:%=--ignore=%)

.PHONY: test-newer
test-newer: $(VENV)/.dev ## the fast tests on each newer Python that this machine has
	@$(BIN)/python tools/side_by_side.py 1 $(addprefix test-on-,$(NEWER))

test-on-%: .venvs/%/.dev
	.venvs/$*/bin/python -m pytest -q -m '$(FAST)' -p no:cacheprovider --hypothesis-profile=again $(OUTSIDE:%=--ignore=%)

.PHONY: test-wheel
test-wheel: $(VENV)/.dev ## build the wheel and use it in an environment that holds nothing else
	@rm -rf dist
	$(BIN)/python -m hatchling build
	@tools/venv .venvs/wheel requirements/base.lock dist/*.whl
	cd dist && ../.venvs/wheel/bin/python -I ../tools/smoke.py

.PHONY: chaos
chaos: $(VENV)/.dev ## whatever can go wrong with a fleet, in full measure (DAGRID_CHAOS_SEEDS=...)
	@tools/servers
	DAGRID_CHAOS_SCHEDULES=$${DAGRID_CHAOS_SCHEDULES:-10000} $(BIN)/python -m pytest -q tests/fleet/test_simulation.py
	DAGRID_FLEET_BURST=5000 $(BIN)/python -m pytest -q tests/fleet/test_listener.py -k burst
	DAGRID_CHAOS_SEEDS=$${DAGRID_CHAOS_SEEDS:-200} DAGRID_CHAOS_CANCELS=$${DAGRID_CHAOS_CANCELS:-500} $(BIN)/python -m pytest -q tests/chaos

.PHONY: soak
soak: $(VENV)/.dev ## random runs on every backend for ten minutes (DAGRID_SOAK_SECONDS=...)
	DAGRID_SOAK_SECONDS=$${DAGRID_SOAK_SECONDS:-600} $(BIN)/python -m pytest -q -s tests/soak

.PHONY: bench
bench: $(VENV)/.dev ## measure dagrid and its neighbours
	$(BIN)/python -m benchmarks

.PHONY: bench-engines
bench-engines: $(VENV)/.dev ## start Ray, Dask, Celery and ipyparallel, and measure dagrid on them beside code written by hand
	@tools/servers || true
	$(BIN)/python -m benchmarks engines parts partition partition-makespan

.PHONY: bench-workflows
bench-workflows: $(VENV)/.dev ## measure workflows in YAML beside doit, make and bare processes
	$(BIN)/python -m benchmarks workflows workflow-load

.PHONY: bench-fleet
bench-fleet: $(VENV)/.dev ## measure a coordinator and its workers beside HyperQueue
	$(BIN)/python -m benchmarks fleet-steps fleet-calls fleet-runs fleet-logs fleet-values fleet-idle

.PHONY: stubs
stubs: $(VENV)/.dev ## write what protoc makes of the words of the fleet
	tools/stubs

.PHONY: format
format: $(VENV)/.dev ## put the code into its one format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

# The locks hold versions and hashes, and no address. They agree with each other, because the large one constrains the rest.
COMPILE = tools/uv $(VENV) pip compile pyproject.toml --quiet --upgrade --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-annotate --no-header

.PHONY: lock
lock: ## choose the newest versions that fit together and write them to requirements/
	@test -x $(BIN)/uv || { PYTHON="$$(tools/find_python --main)" && "$$PYTHON" -m venv $(VENV) && $(BIN)/pip install --quiet uv; }
	$(COMPILE) --extra archive --extra celery --extra cli --extra cluster --extra dask --extra duckdb --extra ipyparallel --extra jq --extra mosaic --extra otel --extra postgres --extra ray --extra search --extra service --extra warehouse --extra workflow --group build --group test --group check --group bench -o requirements/dev.lock >/dev/null
	$(COMPILE) -c requirements/dev.lock --extra cli --extra mosaic --extra search --extra warehouse --group build -o requirements/run.lock >/dev/null
	$(COMPILE) -c requirements/dev.lock -o requirements/base.lock >/dev/null
	$(subst pip compile pyproject.toml,pip compile,$(COMPILE)) --group installer -o requirements/installer.lock >/dev/null
	@! grep -n '://' requirements/*.lock

.PHONY: clean
clean: ## remove all that these targets have made
	rm -rf $(VENV) .venvs dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.run: requirements/run.lock $(INSTALLS)
	@tools/venv $(VENV) $<
	@touch $@

$(VENV)/.dev: requirements/dev.lock $(INSTALLS)
	@tools/venv $(VENV) $<
	@touch $@ $(VENV)/.run

.venvs/%/.dev: requirements/dev.lock $(INSTALLS)
	@PYTHON="$$(tools/find_python | sed -n 's/^$* //p')" tools/venv .venvs/$* $<
	@touch $@
