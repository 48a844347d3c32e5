# Every task of the repository; `make` alone lists them. ARGS goes to the program behind demo, test, bench and lock:
#   make demo ARGS="--short"        make test ARGS="tests/laws -k split"

PYTHON ?= python3
ARGS ?=
MINUTES ?= 30
RATE ?= 50000
SEED ?= 1

VENV := .venv
READY := $(VENV)/.ready
JARS := .cache/kafka/.ready
PIP := $(VENV)/bin/pip --disable-pip-version-check -q

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo test check servers bench soak lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(READY) ## .venv with exactly what requirements.lock pins, and portwatch itself, editable
	@:

demo: $(READY) ## a broker, simulated traffic and the detectors at work, on this machine alone
	@$(VENV)/bin/portwatch demo $(ARGS)

test: $(READY) ## all tests; those of a server that is not installed are skipped, with the command that installs it
	@if command -v java >/dev/null && command -v mvn >/dev/null; then $(MAKE) -s --no-print-directory $(JARS) || echo "test: going on without Apache Kafka"; fi
	@$(VENV)/bin/python -m pytest $(ARGS)

check: $(READY) ## format, lint, types and house rules (the lock file's too); changes nothing
	@$(VENV)/bin/ruff format --check --quiet .
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --explicit-package-bases detectors streams tests
	@$(VENV)/bin/python -m pytest --quiet tests/test_house.py

servers: ## fetch Apache Kafka for the tests, and say which other servers are installed
	@if command -v java >/dev/null && command -v mvn >/dev/null; then $(MAKE) -s --no-print-directory $(JARS); fi
	@missing=; \
	row() { if command -v "$$2" >/dev/null; then s=installed; else s="missing: apt-get install $$3"; missing="$$missing $$3"; fi; \
	        printf '  %-26s %s\n' "$$1" "$$s"; }; \
	row 'Java (Apache Kafka)' java openjdk-17-jre-headless; \
	row 'Maven (fetches Kafka)' mvn maven; \
	row 'Prometheus' prometheus prometheus; \
	row 'promtool' promtool prometheus; \
	row 'Alertmanager' prometheus-alertmanager prometheus-alertmanager; \
	row 'Kannel' /usr/sbin/bearerbox kannel; \
	row 'Kannel fake SMSC' /usr/lib/kannel/test/fakesmsc kannel-extras; \
	if [ -n "$$missing" ]; then echo "all of them: apt-get install --no-install-recommends$$missing"; fi

bench: $(READY) ## rows per second of decode, detectors and the whole worker, with the machine they ran on
	@$(VENV)/bin/python -m tests.bench.run $(ARGS)

soak: $(READY) ## workers killed under RATE submits a second for MINUTES, and everything they said judged
	@$(VENV)/bin/python -m tests.soak.run --minutes $(MINUTES) --rate $(RATE) --seed $(SEED)

# Without the machine's own extra places: what the lock names must come from the index alone.
lock: ## write requirements.lock anew from pyproject.toml, keeping pins that still fit (ARGS=--upgrade: the newest)
	@[ -x $(VENV)/bin/pip-compile ] || $(MAKE) -s --no-print-directory setup
	@env -u PIP_FIND_LINKS -u PIP_EXTRA_INDEX_URL $(VENV)/bin/pip-compile -q --extra dev --generate-hashes --strip-extras \
	    --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-options $(ARGS) \
	    --output-file=requirements.lock pyproject.toml

clean: ## remove everything that make made, .venv and Apache Kafka included
	@rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis
	@find detectors streams tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "portwatch needs Python 3.11 or newer: make setup PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	    if [ "$$(id -u)" = 0 ]; then \
	        echo "setup: installing python3-venv"; \
	        { apt-get update && DEBIAN_FRONTEND=noninteractive apt-get install -y python3-venv; } >/dev/null; \
	    else echo "$(PYTHON) can't make a virtual environment; first: sudo apt-get install python3-venv" >&2; exit 1; fi
	@echo "setup: filling $(VENV) from requirements.lock; a minute or two, this once"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(JARS): deploy/kafka/pom.xml
	@echo "servers: fetching Apache Kafka into .cache/kafka"
	@rm -rf .cache/kafka/libs
	@mvn -q -B -Dstyle.color=never -f $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/.cache/kafka/libs
	@touch $@
