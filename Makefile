# `make serve` and `make test` work on a fresh machine with Python 3.11 or 3.12, in either order.
PYTHON ?= $(firstword $(foreach v,3.12 3.11,$(if $(shell python$(v) --version 2>/dev/null),python$(v))) python3)
HOST ?= 127.0.0.1
PORT ?= 8000
CONFIG ?= serve_config.yaml
URL ?= http://127.0.0.1:$(PORT)
SCENARIO ?= steady
BIN = .venv/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock

.PHONY: serve stop test test-slow check train evaluate bench observability loadtest capacity plan compare lock

serve: .venv/serve
	@exec $(BIN)/python -m launcher.service start --host $(HOST) --port $(PORT) --config $(CONFIG)

stop: .venv/serve
	@$(BIN)/python -m launcher.service stop --port $(PORT)

test: .venv/dev
	$(BIN)/python -m pytest

# The benches in small, the steps of the images, pods without Kubernetes: minutes each.
test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow

check: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Needs wrk, which scripts/install-test-packages installs.
bench: .venv/dev
	$(BIN)/python -m bench

# What metrics, logs and ids cost, and the pictures of the dashboard. Needs wrk and prometheus.
observability: .venv/dev
	$(BIN)/python -m bench.observability

# SCENARIO: a file of loadtest/, URL: of the service, ARGS: more options of locust's and ours
loadtest: .venv/dev
	@mkdir -p loadtest-report
	$(BIN)/locust -f loadtest/$(SCENARIO).py --host $(URL) --headless --html loadtest-report/locust.html $(ARGS)

# The highest rate that keeps p99, by replicas and batch limits, and the values it recommends.
# Needs wrk. ARGS: of capacity.search, as --target 300
capacity: .venv/dev
	$(BIN)/python -m capacity.search --config $(CONFIG) $(ARGS)

# RATE: photos/s, several if you like; from what `make capacity` measured
plan: .venv/dev
	$(BIN)/python -m capacity.planner --rate $(RATE) $(ARGS)

# DATA: a Fashion Product Images data set, directory or zip
train: .venv/dev
	$(BIN)/mlc train $(DATA)

evaluate: .venv/dev
	$(BIN)/mlc evaluate $(DATA)

# One model against four: trains all five where they are missing, some hours, then measures.
compare: .venv/dev
	$(BIN)/python -m bench.one_or_four $(DATA)

# Pins every dependency anew; uv is needed, and named nowhere else.
lock:
	uv pip compile pyproject.toml --universal --all-extras --no-annotate --no-header --upgrade -o requirements.lock

.venv/bin/python:
	@echo "making a virtual environment with $(PYTHON) …"
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else f"Python 3.11 or 3.12 is needed, {sys.executable} is {sys.version.split()[0]}; name one: make PYTHON=/path/to/python3.12")'
	@$(PYTHON) -m venv .venv

# What serving on a CPU needs, nothing else.
.venv/serve: pyproject.toml requirements.lock | .venv/bin/python
	@echo "installing what serving needs (a minute or two, once) …"
	@$(PIP) -e .
	@touch $@

.venv/dev: .venv/serve
	@echo "installing what tests and training need (a few minutes, once) …"
	@$(PIP) -e '.[dev]'
	@touch $@
