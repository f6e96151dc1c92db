# `make serve` and `make test` work on a fresh machine with Python 3.11 or 3.12, in either order.
PYTHON ?= $(firstword $(foreach v,3.12 3.11,$(if $(shell python$(v) --version 2>/dev/null),python$(v))) python3)
HOST ?= 127.0.0.1
PORT ?= 8000
CONFIG ?= serve_config.yaml
URL ?= http://127.0.0.1:$(PORT)
SCENARIO ?= steady
BIN = .venv/bin
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check -c requirements.lock

.PHONY: serve demo stop check-config test test-unit test-slow test-catalog test-kubernetes check generate train evaluate bench peers \
	observability fuzz soak slow-clients rollouts node-loss \
	chaos similar many-photos catalog-run loadtest capacity plan compare lock audit licences sbom

serve: .venv/serve
	@exec $(BIN)/python -m launcher start --host $(HOST) --port $(PORT) --config $(CONFIG)

# Draws a shop of 2,000 products, indexes them, and serves similar products.
demo: .venv/serve
	@$(BIN)/python -m samples.shop build/demo
	@$(BIN)/mlc index build/demo catalogue
	@exec $(MAKE) --no-print-directory serve CONFIG=configs/similar.yaml

stop: .venv/serve
	@$(BIN)/python -m launcher stop --port $(PORT)

# Checks the keys of a Serve config, and that the models that it names can be served.
check-config: .venv/serve
	@$(BIN)/python -m deployments.serve_config $(CONFIG)

# Everything that needs no cluster and trains or simulates for no more than a second or two.
test-unit: .venv/dev
	$(BIN)/python -m pytest -n 2 -m 'not slow and not long' --ignore tests/e2e --ignore tests/kubernetes

# One worker runs the tests that start services, one the rest.
test: .venv/dev
	$(BIN)/python -m pytest -n 2

# The benches in small, the steps of the images, roll-outs, Ray's nodes in namespaces: a minute or more each.
test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow

# Catalogue runs that are killed, a nightly run, and their bench in small, in an environment with pandas.
test-catalog: .catalog/ready
	.catalog/bin/python -m pytest tests/offline

# Drains, roll-outs and losses on the cluster of KUBECONFIG, under load: 40 minutes at most.
# SHARED: a directory that all its nodes share, where no storage class serves. ARGS: of pytest
test-kubernetes: .venv/dev
	SHARED=$(SHARED) timeout --signal=INT --kill-after=5m 40m $(BIN)/python -m pytest -m kubernetes -n 0 tests/kubernetes $(ARGS)

check: .venv/dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Writes every file that is generated from another one: manifests, dashboard, pages of docs.
generate: .venv/dev
	$(BIN)/python -m scripts.generate

# Needs wrk, which scripts/install-test-packages installs.
bench: .venv/dev
	$(BIN)/python -m bench $(ARGS)

# This service beside mosec, FastAPI and LitServe, which get their own environment. Needs wrk.
# ARGS: of bench.peer_comparison, as --precision int8
peers: .venv/dev
	$(BIN)/python -m bench.peer_comparison $(ARGS)

# A catalogue of a million products, made of the photos of DATA: times, recall, memory, start.
# ARGS: of bench.similar_index, as --products 100000
similar: .venv/dev
	$(BIN)/python -m bench.similar_index $(DATA) $(ARGS)

# Many photos a call: batch requests beside the Open Inference Protocol. Needs wrk.
# ARGS: of bench.many_photos, as --rounds 10
many-photos: .venv/dev
	$(BIN)/python -m bench.many_photos $(ARGS)

# `mlc catalog` on 50,000 drawn photos, beside a loop that decodes and infers.
# ARGS: of bench.catalog_run, as --photos 10000
catalog-run: .catalog/ready
	.catalog/bin/python -m bench.catalog_run $(ARGS)

# Kills one process after another under load, and gives a verdict. Needs wrk.
# ARGS: of bench.chaos, as --replicas 1 --seconds 100
chaos: .venv/dev
	$(BIN)/python -m bench.chaos $(ARGS)

# Other args, other code, another model and two that fail, each under load, and a verdict.
# ARGS: of bench.rollouts, as --replicas 1
rollouts: .venv/dev
	$(BIN)/python -m bench.rollouts $(ARGS)

# 20,000 requests that no honest client sends, and a verdict on what they do to others.
# ARGS: of bench.fuzz, as --requests 2000
fuzz: .venv/dev
	$(BIN)/python -m bench.fuzz $(ARGS)

# Three of Ray's nodes in networks of their own, two of which are lost under load. Needs root and ip.
node-loss: .venv/dev
	$(BIN)/python -m pytest -n0 -s -m slow tests/e2e/test_node_loss.py

# 2,000 connections that send a byte a second, and a verdict on what others notice.
# ARGS: of bench.slow_clients, as --clients 500
slow-clients: .venv/dev
	$(BIN)/python -m bench.slow_clients $(ARGS)

# Half an hour of mixed traffic, and a verdict on memory, files, logs and latency.
# ARGS: of bench.soak, as --minutes 240
soak: .venv/dev
	$(BIN)/python -m bench.soak $(ARGS)

# What metrics and the request log cost, and the pictures of the dashboard. Needs wrk and prometheus.
observability: .venv/dev
	$(BIN)/python -m bench.observability $(ARGS)

# SCENARIO: a file of loadtest/. URL: of the service. ARGS: more options of Locust's and ours
loadtest: .venv/dev
	@mkdir -p loadtest-report
	$(BIN)/locust -f loadtest/$(SCENARIO).py --host $(URL) --headless --html loadtest-report/locust.html $(ARGS)

# The highest rate that keeps p99, by replicas and batch limits, and the values it recommends.
# Needs wrk. ARGS: of capacity.search, as --target 300
capacity: .venv/dev
	$(BIN)/python -m capacity.search --config $(CONFIG) $(ARGS)

# RATE: photos/s, one or several. Plans with the costs that `make capacity` measured.
plan: .venv/dev
	$(BIN)/python -m capacity.planner --rate $(RATE) $(ARGS)

# DATA: a Fashion Product Images data set, directory or zip. ARGS: of mlc train, as --epochs 10
train: .venv/dev
	$(BIN)/mlc train $(DATA) $(ARGS)

# DATA: any labelled data set of that layout. ARGS: of mlc evaluate, as --model models/fashion/3
evaluate: .venv/dev
	$(BIN)/mlc evaluate $(DATA) $(ARGS)

# One model against four: trains those of the five models that are missing (hours), then measures.
# ARGS: of bench.one_or_four, as --epochs 10
compare: .venv/dev
	$(BIN)/python -m bench.one_or_four $(DATA) $(ARGS)

# Updates every pinned dependency, and the hashes of those that serving needs. Needs uv, which nothing else needs.
lock:
	uv pip compile pyproject.toml --universal --all-extras --no-annotate --no-header --upgrade -o requirements.lock
	uv pip compile pyproject.toml --extra postgres --universal --no-annotate --no-header -c requirements.lock \
		--generate-hashes -o requirements.serve.lock

# Known vulnerabilities of what serving installs; it asks PyPI.
audit: .audit/ready
	.audit/bin/pip-audit -r requirements.serve.lock --require-hashes --disable-pip

# The licence of every package in .venv.
licences: .venv/serve .audit/ready
	@.audit/bin/pip-licenses --python $(BIN)/python --format=markdown

# The packages that serving installs, as CycloneDX JSON.
sbom: .audit/ready
	@.audit/bin/cyclonedx-py requirements requirements.serve.lock

.audit/ready: | .venv/bin/python
	@$(BIN)/python -m venv .audit
	@.audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit pip-licenses cyclonedx-bom
	@touch $@

# Apart from .venv, since Serve would import pandas there in every process.
.catalog/ready: pyproject.toml requirements.lock
	@echo "installing what catalogue runs and their tests need (a few minutes, once) …"
	@$(PYTHON) -m venv .catalog
	@.catalog/bin/python -m pip install --quiet --disable-pip-version-check -c requirements.lock -e '.[dev,catalog]'
	@touch $@

.venv/bin/python:
	@echo "creating a virtual environment with $(PYTHON) …"
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info < (3, 13) else f"Python 3.11 or 3.12 is needed, {sys.executable} is {sys.version.split()[0]}; name one: make PYTHON=/path/to/python3.12")'
	@$(PYTHON) -m venv .venv

# What serving on a CPU needs, and nothing else.
.venv/serve: pyproject.toml requirements.lock | .venv/bin/python
	@echo "installing what serving needs (a minute or two, once) …"
	@$(PIP) -e .
	@touch $@

.venv/dev: .venv/serve
	@echo "installing what tests and training need (a few minutes, once) …"
	@$(PIP) -e '.[dev]'
	@touch $@
