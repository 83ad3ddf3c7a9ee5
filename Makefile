# Everything a developer or operator types. `make help` lists it.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
PORT_BASE ?= 8080
VENV := .venv
BIN := $(VENV)/bin
MEMBERS := libs/mailcore libs/chassis libs/postroom services/api services/inbound-smtp services/outbound services/imap-sync services/webhooks
STAMP := $(VENV)/.installed
export PYTHONDONTWRITEBYTECODE ?=

.PHONY: help
help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# The virtual environment, from the lock: every version and hash is fixed; no index is named (pip asks the one you use).
$(STAMP): requirements.lock pyproject.toml $(MEMBERS:%=%/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(not (3,11) <= sys.version_info < (3,15))' || { echo "Postroom needs Python 3.11 to 3.14; $(PYTHON) is $$($(PYTHON) -V). Try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing Postroom into $(VENV) (once, about half a minute) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation $(MEMBERS:%=-e %)
	@touch $@

.PHONY: venv
venv: $(STAMP)

.PHONY: lock
lock: ## compile requirements.lock anew (needs uv)
	.ci/lock
