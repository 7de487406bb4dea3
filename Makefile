# Thin names for the project's commands. Each is safe to run again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup test lint fuzz image cli release push demo demo-down bench-addresses bench-announcing generate docs fmt

LB_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/lb-operator
export LB_CACHE
export PATH := $(LB_CACHE)/bin:$(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH)

PROGRAMS := $(or $(CARGO_TARGET_DIR),target)/debug

help: ## list the commands
	@awk -F ':.*## ' '/^##@ / { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Try it

demo: ## start a cluster, run the guide's steps 1 to 4.8, and leave the cluster up
	@tests/tools/setup.sh lab images
	@tests/tools/target-cache.sh save demo
	@$(PROGRAMS)/demo

demo-down: ## remove the demo's cluster
	@$(PROGRAMS)/lab down --name demo

##@ Release

cli: ## build kubectl-lb for this machine, with completion scripts, into target/cli
	@tests/tools/build-cli.sh copy release target/cli

release: ## everything that somebody installs from REGISTRY=registry.example.com/path, into target/dist
	@tests/tools/setup.sh images
	@REGISTRY='$(REGISTRY)' ARCHITECTURES='$(ARCHITECTURES)' tests/tools/release.sh

push: ## push the images and the chart package in target/dist to REGISTRY
	@REGISTRY='$(REGISTRY)' tests/tools/push.sh

##@ Develop

fmt: ## format the code
	cargo fmt --all

lint: ## formatting, clippy without a warning, documents without a broken link
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo fmt --manifest-path dataplane/fuzz/runner/Cargo.toml --check
	@tests/tools/docs-lint.sh

docs: ## build the documentation as a site with search, in target/site; at first mdBook, about 5 minutes
	@tests/tools/docs-site.sh

generate: ## write the CRDs, the chart's README and dashboards, the pages of permissions and fields, and the OLM bundle
	cargo run --quiet --locked -p lb-crds --bin crdgen -- crds
	cargo run --quiet --locked -p lb-tools --bin dashboards -- charts/lb-operator/files/dashboards
	tests/tools/chart-readme.sh
	tests/tools/rbac-page.sh
	tests/tools/api-page.sh
	cargo run --quiet --locked -p lb-olm --bin bundlegen -- --out olm

##@ Test

setup: ## install and build everything that the lab and the tests need
	@tests/tools/setup.sh lab checkers metallb releases

image: ## build the images for the lab and the tests into target/images
	@tests/tools/setup.sh images

test: ## set up everything and run every test, unit to end-to-end
	@tests/tools/setup.sh lab checkers metallb images releases tests
	@$(MAKE) --no-print-directory lint
	@tests/tools/target-cache.sh save test
	cargo test --workspace --locked --exclude lb-e2e
	@tests/tools/run-scenarios.sh

fuzz: ## fuzz every decoder and the speaker's state machine, each for FUZZ_SECONDS (60)
	@dataplane/fuzz/run.sh

##@ Measure

# A lab is taken down by the program lab, which has to be beside the program that starts it.
bench-addresses bench-announcing:
	@tests/tools/setup.sh lab metallb images
	cargo build --quiet --release --locked -p lb-lab -p lb-bench --bin lab --bin $@
	$(or $(CARGO_TARGET_DIR),target)/release/$@ $(BENCH)

bench-addresses: ## measure address assignment, compared with MetalLB; BENCH="--skip-metallb" and others
bench-announcing: ## measure failures, restarts and drains as a client sees them, compared with MetalLB
