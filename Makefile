# Everything that is done with this repository. `make help` lists it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules --no-print-directory

MINUTES ?= 60
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
export PYTHONPATH := $(CURDIR)/sidecar:$(CURDIR)/operator:$(CURDIR)/tests:$(CURDIR)/tools:$(CURDIR)
export PYTHONUNBUFFERED := 1

.PHONY: help install cluster cluster-down rootfs images deploy demo demo-local test check bench soak replay lint format type contracts lock clean

help:  ## List the targets
	@printf 'usage: make TARGET\n\n'
	@sed -n 's/^\([a-z-]*\):.*##  *\(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

install: $(STAMP)  ## Make .venv with everything (Debian packages too, when missing)

$(STAMP): pyproject.toml requirements/dev.txt tools/install
	@tools/install $(VENV)
	@touch $@

demo: $(STAMP)  ## A cluster, a program that writes, a hand-off, the loss of the primary (DEMO_CONTEXT=: on yours)
	@$(BIN)/python -m demo

demo-local: $(STAMP)  ## Two nodes without Kubernetes, real programs, a live table of position and lag
	@$(BIN)/python -m demo.local

cluster: $(STAMP)  ## A real three-node Kubernetes on this machine: .cluster/kubeconfig, .cluster/bin/kubectl
	@tools/install-cluster $(VENV)
	@$(BIN)/python -m localcluster up

cluster-down: $(STAMP)  ## End it: nothing stays but the nodes' image stores
	@$(BIN)/python -m localcluster down

rootfs: $(STAMP)  ## Root trees of the images, for a Containerfile: .build/rootfs
	@$(BIN)/python -m images rootfs

images: $(STAMP)  ## Image archives that every engine can load: .build/images
	@$(BIN)/python -m images archives

deploy: $(STAMP)  ## Images and chart into the cluster of KUBECONFIG (the local one by default); safe to repeat
	@$(BIN)/python -m deploy

test: $(STAMP)  ## All tests: units, then every lane with its budget
	@tools/install-cluster $(VENV) || echo 'no local cluster here; the lanes that need it will say so'
	@$(BIN)/python -m runner

check: $(STAMP)  ## What one runs before a commit: lint, types, contracts, quick units
	@$(BIN)/python -m runner --check

bench: $(STAMP)  ## Speed against plain files in the same run: a table and JSON
	@$(BIN)/python -m bench

soak: $(STAMP)  ## All lanes again and again: make soak MINUTES=60
	@$(BIN)/python -m runner --soak $(MINUTES)

replay: $(STAMP)  ## One run of a lane again, as a violation names it: make replay SEED=nemesis:17
	@$(BIN)/python -m runner --replay $(SEED)

lint: $(STAMP)  ## Ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP)  ## Ruff: bring everything into form
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

type: $(STAMP)  ## mypy, strict
	@$(BIN)/python -m mypy

contracts: $(STAMP)  ## Who may import whom, sizes of modules and functions
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python -m pytest -q tests/unit/project

lock: $(STAMP)  ## Renew requirements/*.txt from pyproject.toml
	@tools/lock $(VENV)

clean:  ## Remove what was built
	rm -rf $(VENV) build .build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info sidecar/*.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
