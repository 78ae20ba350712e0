# `make run` and `make test` need nothing but Debian 12, root and the package registries: they install what they use.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Big build products live outside the tree, under a key of what they were built from, so that a fresh clone is warm.
export CHRONIK_CACHE ?= $(HOME)/.cache/chronik
BUILD_KEY := $(shell cat rust-toolchain.toml Cargo.lock | sha256sum | cut -c1-16)
export CARGO_TARGET_DIR ?= $(CHRONIK_CACHE)/target-$(BUILD_KEY)
BROKER := $(CARGO_TARGET_DIR)/release/chronik-broker
SEEDS ?= 2000
DATA ?= $(CURDIR)/.cache/local

.PHONY: help build run test lint unit sim mutants opsim e2e chart kube-up kube-down kube-e2e soak fuzz figures deny tools clean

help: ## Show the targets
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

tools: ## Install what building needs (Rust toolchain is expected; says what is missing)
	@tests/tools/need-build.sh

build: tools ## Build the release binaries
	cargo build --release --locked -p chronik-broker -p chronik-operator

run: build ## Start a three-broker cluster on this machine (Ctrl-C stops it; data stays in DATA)
	$(BROKER) local --brokers 3 --data-dir "$(DATA)"

test: tools ## Everything that proves the project on this machine
	@tests/tools/run-all.sh

lint: tools ## Format, clippy with warnings as errors, house style
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	tests/tools/tidy.sh

unit: tools ## Unit and story tests of all crates
	cargo test --workspace --locked

sim: tools ## Whole clusters from seeds: corpus, scenarios and SEEDS fresh seeds (ARGS= for chronik-sim run)
	@tests/tools/sim.sh --seeds $(SEEDS) -- $(ARGS)

mutants: tools ## Each deliberate defect must be noticed by the simulator; prints the table
	@tests/tools/sim.sh --mutants -- $(ARGS)

opsim: tools ## The operator's simulation from SEEDS fresh seeds (ARGS=--mutants: each deliberate defect must be noticed)
	@tests/tools/opsim.sh --seeds $(SEEDS) $(ARGS)

e2e: build ## Real processes, real clients, real network namespaces (ARGS= for pytest), then kube-e2e
	@tests/tools/e2e.sh $(ARGS)
	@tests/tools/kube.sh test

kube-e2e: tools ## The operator on a real Kubernetes: KUBECONFIG's, or one that exists while the tests run (ARGS= for pytest)
	@tests/tools/kube.sh test $(ARGS)

chart: ## Lint the Helm chart and compare what it renders; ARGS=update writes crds' copy, deploy/ and the golden files anew
	@tests/tools/chart.sh $(ARGS)

kube-up: tools ## Start a Kubernetes of two nodes on this machine, with Chronik's images (needs root); says how to use it
	@tests/tools/kube.sh up

kube-down: ## End the Kubernetes of kube-up and prove that nothing of it is left
	@tests/tools/kube.sh down

soak: MINUTES ?= 60
soak: build ## Random faults against real processes for MINUTES, under load, judged (SEED= replays, GENERATION= one cluster of it)
	@tests/tools/soak.sh "$(MINUTES)" "$(SEED)" "$(GENERATION)"

fuzz: tools ## Fuzz all decoders and recovery readers for MINUTES (default 10; ARGS="--target NAME" for one)
	@tests/tools/fuzz.sh --minutes $(or $(MINUTES),10) $(ARGS)

figures: build ## Measure formation, failover, idle cost and produce cost; prints a table
	@tests/tools/figures.sh $(ARGS)

deny: ## Licences, bans, sources and advisories of the dependency tree
	@command -v cargo-deny >/dev/null || { echo "skipped: needs cargo-deny (cargo install cargo-deny)"; exit 1; }
	cargo deny check

clean: ## Remove this tree's local cluster data
	rm -rf .cache
