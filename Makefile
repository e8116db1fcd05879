# One lab on this machine: `make up`, `make destroy`. Everything here is a command of `python -m toolchain`.

STACK ?= dev
export STACK

PYTHON := .venv/bin/python
TOOL := $(PYTHON) -m toolchain
LIVE := $(PYTHON) -m live

# As it was typed: make would expand the $ of a jsonpath, or of a variable that a machine's shell is to expand.
override ARGS := $(value ARGS)
export ARGS

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup up preview destroy trust free kubectl ssh status snapshot restore replace drill cis env test test-long lint test-hosts compare bench .venv .venv-dev

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo '  STACK=name        another lab than dev: one for each Pulumi.<name>.yaml'
	@echo '  TOOLCHAIN=source  build everything from package registries; =upstream: official releases only'
	@echo '  HARDWAY_CACHE=dir where downloads and builds are kept (default ~/.cache/hardway)'

# Quick where it is there already: the script compares a checksum.
.venv:
	@toolchain/bootstrap.sh

# With what lint and tests need besides.
.venv-dev:
	@toolchain/bootstrap.sh dev

setup: .venv  ## prepare this machine and nothing else: then plain `pulumi up -s dev` works, see `make env`
	@$(TOOL) setup

# What would lose etcd's quorum is refused without it.
export INSIST

up: .venv  ## make the lab, or bring it up to date; ends with its nodes, endpoint and kubeconfig
	@$(TOOL) up

preview: .venv  ## what `make up` would change
	@$(TOOL) preview

destroy: .venv  ## take the lab away
	@$(TOOL) destroy

trust: .venv  ## existing machines: show their host keys, and pin them: no others are connected to
	@$(TOOL) trust

free: .venv  ## existing machines: take a lab off one that destroy cannot take back: make free MACHINE=node-0 [KEY=...]
	@$(TOOL) free "$(MACHINE)" $(KEY)

kubectl: .venv  ## the lab's kubectl: make kubectl ARGS="get nodes -o wide"
	@$(TOOL) kubectl "$$ARGS"

ssh: .venv  ## a shell on a machine: make ssh MACHINE=worker-1 [ARGS="uptime"]
	@$(TOOL) ssh "$(MACHINE)" "$$ARGS"

status: .venv  ## how the lab is: etcd, leaders, API servers, balancers, nodes, certificates [ARGS=--json]
	@$(LIVE) status $$ARGS

snapshot: .venv  ## save the cluster's whole content on this host: [ARGS=FILE]
	@$(LIVE) snapshot $$ARGS

restore: .venv  ## make the cluster what a snapshot says: make restore SNAPSHOT=FILE
	@$(LIVE) restore "$(SNAPSHOT)"

replace: .venv  ## make machines anew, dead ones too: make replace MACHINE="controller-1" [INSIST=yes]
	@$(LIVE) replace $(MACHINE)

drill: .venv  ## break parts of the lab, and measure what that costs: [DRILL=name,...] [SEED=number] [ARGS="--json FILE"]
	@$(LIVE) drill "$(DRILL)" $(if $(SEED),--seed "$(SEED)") $$ARGS

cis: .venv  ## the CIS Kubernetes Benchmark by kube-bench: make cis KUBE_BENCH=CHECKOUT (one with cfg/cis-1.12)
	@$(LIVE) cis "$(KUBE_BENCH)"

env: .venv  ## variables for plain pulumi: eval "$(make -s env)"
	@$(TOOL) env

lint: .venv-dev  ## ruff and mypy
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

PYTEST := $(PYTHON) -m pytest --verbose --durations=60 -p tests.side_by_side --numprocesses 2 --no-loadscope-reorder

# One run of pytest in two processes (see tests/side_by_side.py), the labs on this host's network first: they take longest.
# What only some labs have takes minutes where it is built: here it says how far it is.
test: lint  ## lint, then the tests: unit, tool chain, live, engine, and real labs of each kind
	@$(TOOL) --stack lab-four-test setup
	@variables=$$($(TOOL) env) && eval "$$variables" && $(PYTEST) -m "not long" tests/machines tests/droplets tests/lab tests/kubeadm tests/calico tests/ha tests/upstream tests/docker tests/debian13 tests/engine tests/toolchain tests/live tests/unit

# What takes minutes: kubeadm with Calico, recovery, drills, 100 faults by chance (HARDWAY_SEED, HARDWAY_FAULTS).
test-long: .venv-dev  ## further labs, for a run by hand before a release
	@$(TOOL) --stack lab-four-test setup
	@variables=$$($(TOOL) env) && eval "$$variables" && $(PYTHON) -m pytest --verbose tests/lab_four
	@variables=$$($(TOOL) env) && eval "$$variables" && $(PYTHON) -m pytest --verbose -m long tests/kubeadm tests/ha
	@variables=$$($(TOOL) env) && eval "$$variables" && $(PYTHON) -m pytest --verbose -m long --capture=no tests/upstream/test_first_run.py

# Emulated: about an hour. The disk stays below HARDWAY_CACHE, or in HARDWAY_HOSTS.
test-hosts: .venv  ## labs on a virtual machine with Debian 13: cgroup v2, AppArmor, reboot; podman, then Docker
	@variables=$$($(TOOL) env) && eval "$$variables" && PYTHONPATH=tests $(PYTHON) -m debian13

compare: .venv  ## the hard way and kubeadm on the same machines: seconds, memory, processes, files [ARGS=--files]
	@variables=$$($(TOOL) env) && eval "$$variables" && $(PYTHON) -m benchmarks.compare $$ARGS

bench: .venv  ## measure the lab against plain shell, side by side: [ARGS="--lab ha --rounds 5 --json FILE"]
	@variables=$$($(TOOL) env) && eval "$$variables" && $(PYTHON) -m benchmarks $$ARGS
