# Targets for those who are used to make: each is a command of `./hardway`, which has more (`./hardway --help`).

STACK ?= dev
export STACK

HARDWAY := ./hardway
PYTHON := .venv/bin/python

# As it was typed: make would expand the $ of a jsonpath, or of a variable that a machine's shell is to expand.
override ARGS := $(value ARGS)
export ARGS

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup up preview destroy trust free kubectl ssh status snapshot restore replace drill cis conformance env test test-long docs lint check test-hosts compare bench .venv .venv-dev

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

setup:  ## prepare the Pulumi host and nothing else: then plain `pulumi up -s dev` works, see `make env`
	@$(HARDWAY) setup

# Without it a change is refused by which etcd would lose its quorum.
export INSIST

up:  ## make the lab, or bring it up to date; ends with its nodes, endpoint and kubeconfig
	@$(HARDWAY) up

preview:  ## what `make up` would change
	@$(HARDWAY) preview

destroy:  ## take the lab away
	@$(HARDWAY) destroy

trust:  ## existing hosts: show their host keys, and pin them: no others are connected to
	@$(HARDWAY) trust

free:  ## existing hosts: take a lab off one where destroy cannot: make free MACHINE=node-0 [KEY=...]
	@$(HARDWAY) free "$(MACHINE)" $(KEY)

kubectl:  ## the lab's kubectl: make kubectl ARGS="get nodes -o wide"
	@$(HARDWAY) kubectl-line -- "$$ARGS"

ssh:  ## a shell on a machine: make ssh MACHINE=worker-1 [ARGS="uptime"]
	@$(HARDWAY) ssh "$(MACHINE)" -- "$$ARGS"

status:  ## whether the lab is healthy: etcd, leaders, API servers, balancers, nodes, certificates [ARGS=--json]
	@$(HARDWAY) status $$ARGS

snapshot:  ## save the content of the cluster on the Pulumi host: [ARGS=FILE]
	@$(HARDWAY) snapshot $$ARGS

restore:  ## restore the cluster from a snapshot: make restore SNAPSHOT=FILE
	@$(HARDWAY) restore $(if $(SNAPSHOT),"$(SNAPSHOT)")

replace:  ## create machines again, also dead ones: make replace MACHINE="controller-1" [INSIST=yes]
	@$(HARDWAY) replace $(MACHINE)

drill:  ## inject faults, and measure their effect: [DRILL=name,...] [SEED=number] [ARGS="--json FILE"]
	@$(HARDWAY) $(if $(SEED),search --seed "$(SEED)",drill) $(if $(DRILL),"$(DRILL)") $$ARGS

cis:  ## the CIS Kubernetes Benchmark by kube-bench: make cis KUBE_BENCH=CHECKOUT (one with cfg/cis-1.12)
	@$(HARDWAY) cis $(if $(KUBE_BENCH),"$(KUBE_BENCH)")

conformance:  ## Kubernetes' conformance tests on the lab; continues an earlier run: [ARGS="sig-apps --processes 4"]
	@$(HARDWAY) conformance $$ARGS

env:  ## variables for plain pulumi: eval "$(make -s env)"
	@$(HARDWAY) env

lint: static  ## ruff, mypy, and the rule which layer imports which
	$(PYTHON) -m pytest --quiet tests/unit/test_layers.py

static: .venv-dev
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy

# mypy takes one processor for half of the time: beside the tests, which take turns on both.
check: .venv-dev  ## lint and the unit tests, in about a minute
	@$(MAKE) --no-print-directory static & lint=$$!; \
	variables=$$($(HARDWAY) --stack test env) && eval "$$variables" && \
	$(PYTHON) -m pytest --quiet -p tests.side_by_side --numprocesses 2 --no-loadscope-reorder tests/unit; \
	tests=$$?; wait $$lint && exit $$tests

PYTEST := $(PYTHON) -m pytest --verbose --durations=60 -p tests.side_by_side -p tests.first_failures --numprocesses 3 --no-loadscope-reorder

# One run of pytest in three processes, which tests/side_by_side.py describes; each has its labs in this order.
# What only some labs have takes minutes where it is built: here it says how far it is.
test: lint  ## lint, then the tests: unit, scripts, tool chain, live, engine, and real labs of each kind
	@$(HARDWAY) --stack kubeadm-calico-test setup
	@variables=$$($(HARDWAY) env) && eval "$$variables" && $(PYTEST) -m "not long" tests/labs/machines tests/labs/droplets tests/labs/dev tests/labs/calico tests/labs/new_substrate tests/labs/upstream tests/labs/docker tests/labs/debian13 tests/labs/kubeadm tests/labs/ha tests/engine tests/toolchain tests/live tests/scripts tests/unit

# What takes minutes: kubeadm with Calico, recovery, drills, 100 faults by chance (HARDWAY_SEED, HARDWAY_FAULTS).
test-long: .venv-dev  ## further labs, for a run by hand before a release
	@$(HARDWAY) --stack kubeadm-calico-test setup
	@variables=$$($(HARDWAY) env) && eval "$$variables" && $(PYTHON) -m pytest --verbose tests/labs/kubeadm_calico
	@variables=$$($(HARDWAY) env) && eval "$$variables" && $(PYTHON) -m pytest --verbose -m long tests/labs/machines tests/labs/dev tests/labs/calico tests/labs/by_hand tests/labs/new_substrate tests/labs/docker tests/labs/kubeadm tests/labs/ha tests/engine
	@variables=$$($(HARDWAY) env) && eval "$$variables" && $(PYTHON) -m pytest --verbose -m long --capture=no tests/labs/upstream/test_first_run.py

# On the running labs that the pages name: `./hardway up` first. docs/testing.md describes the syntax.
docs: .venv-dev  ## run the commands on the pages, record what they print now, draw the pictures: [ARGS="--on STACK PAGE..."]
	@variables=$$($(HARDWAY) env) && eval "$$variables" && PYTHONPATH=.:tests $(PYTHON) -m lab.record_documents $$ARGS && PYTHONPATH=.:tests $(PYTHON) -m lab.pictures

# Emulated: about an hour. The disk stays below HARDWAY_CACHE, or in HARDWAY_HOSTS.
test-hosts: .venv  ## labs on a virtual machine with Debian 13: cgroup v2, AppArmor, reboot; podman, then Docker
	@variables=$$($(HARDWAY) env) && eval "$$variables" && PYTHONPATH=tests $(PYTHON) -m labs.debian13

compare:  ## the hard way and kubeadm on the same machines: seconds, memory, processes, files [ARGS=--files]
	@$(HARDWAY) compare $$ARGS

bench:  ## measure the lab against plain shell, side by side: [ARGS="--lab ha --rounds 5 --json FILE"]
	@$(HARDWAY) bench $$ARGS
