# Everything a developer or operator types. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
PORT_BASE ?= 8080
VENV := .venv
BIN := $(VENV)/bin
MEMBERS := libs/mailcore libs/chassis libs/postroom services/api services/inbound-smtp services/outbound services/imap-sync services/webhooks
STAMP := $(VENV)/.installed
BENCH ?= $(filter-out README.md lab.py __pycache__,$(notdir $(wildcard bench/*)))
export PYTHONDONTWRITEBYTECODE ?=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: run
run: $(STAMP) ## start everything on this machine: make run [PORT_BASE=8080] [ARGS="--mode live"]
	@exec $(BIN)/postroom up --port-base $(PORT_BASE) $(ARGS)

.PHONY: dev
dev: $(STAMP) ## run, and start the services again when their source changes
	@exec $(BIN)/postroom up --port-base $(PORT_BASE) --reload $(ARGS)

.PHONY: test
test: $(STAMP) ## every test that needs no long run: make test [ARGS="-k dkim"] [JOBS=2]
	PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(or $(JOBS),2) --dist loadfile $(ARGS)

.PHONY: test-e2e
test-e2e: $(STAMP) ## stories and real clients on the running stack
	$(BIN)/pytest tests/e2e tests/conformance $(ARGS)

.PHONY: test-faults
test-faults: $(STAMP) ## kills and cuts, with counts: nothing may be lost
	$(BIN)/pytest tests/faults --timeout 900 $(ARGS)

.PHONY: test-fuzz
test-fuzz: $(STAMP) ## schemathesis with many examples of every operation, on a running stack: make test-fuzz [EXAMPLES=100]
	POSTROOM_TEST_EXAMPLES=$(or $(EXAMPLES),100) $(BIN)/pytest tests/conformance/test_schemathesis.py -s $(ARGS)

.PHONY: test-browser
test-browser: $(STAMP) ## HTML of thousands of mails in a headless Chromium: make test-browser [DOCUMENTS=3000]
	POSTROOM_TEST_DOCUMENTS=$(or $(DOCUMENTS),3000) POSTROOM_TEST_REQUIRE_PEERS=1 $(BIN)/pytest tests/conformance/test_html_in_chromium.py --timeout 900 $(ARGS)

.PHONY: test-coverage
test-coverage: $(STAMP) ## the tests with line and branch coverage
	$(BIN)/pytest --cov --cov-branch --cov-report=term-missing:skip-covered $(ARGS)

.PHONY: rows
rows: $(STAMP) ## the attack classes of the plan of reliability, and the tests that show each: make rows [ARGS=-v]
	@$(BIN)/python tests/rows.py $(ARGS)

.PHONY: peers
peers: ## install the real mail servers that tests talk to (Debian, as root)
	.ci/peers

.PHONY: lint
lint: $(STAMP) arch ## style of every Python file, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check

.PHONY: arch
arch: $(STAMP) ## who may import whom (the contracts in pyproject.toml)
	$(BIN)/lint-imports

.PHONY: types
types: $(STAMP) ## mypy --strict
	$(BIN)/mypy
	@for script in $(BENCH); do MYPYPATH=bench:tests $(BIN)/mypy --follow-imports=silent bench/$$script || exit 1; done

.PHONY: typecheck
typecheck: types ## the same as types

.PHONY: fmt
fmt: $(STAMP) ## format, and repair what can be repaired
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

.PHONY: build
build: $(STAMP) ## a wheel of every member, in dist/
	@for member in $(MEMBERS); do $(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --no-build-isolation -w dist $$member; done
	@ls dist

.PHONY: bench
bench: $(STAMP) ## side by side with named peers: make bench [BENCH=submit] [ARGS="--runs 1"]
	@set -e; for bench in $(BENCH); do $(BIN)/python bench/$$bench $(ARGS); done

.PHONY: docker
docker: ## check the container images and the compose file
	deploy/check docker

.PHONY: helm-check
helm-check: ## check the Helm chart as a cluster would
	deploy/check helm

.PHONY: docs
docs: ## where to read
	@echo "README.md         five minutes to the first mail"
	@echo "ARCHITECTURE.md   the way of a message, the tables of states"
	@echo "HACKING.md        how to add a vendor, a check, a job"
	@echo "docs/             guides, decisions (docs/adr), RFC by RFC (docs/rfc.md)"

# The virtual environment, from the lock: every version and hash is fixed; no index is named (pip asks the one you use).
$(STAMP): requirements.lock $(MEMBERS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,14))' || { echo "Postroom needs Python 3.11 to 3.13; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing Postroom into $(VENV) (once, about a minute) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(MEMBERS:%=-e %)
	@touch $@

.PHONY: venv
venv: $(STAMP)

.PHONY: lock
lock: ## compile requirements.lock anew (needs uv)
	.ci/lock
