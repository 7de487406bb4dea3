# Thin names for the project's commands. Each is safe to run again.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup test lint fuzz image demo demo-down bench-addresses bench-announcing generate bundle fmt

LB_CACHE ?= $(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME),$(HOME)/.cache)/lb-operator
export LB_CACHE
export PATH := $(LB_CACHE)/bin:$(HOME)/.cargo/bin:/usr/local/go/bin:$(PATH)

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
TARGET := $(shell uname -m)-unknown-linux-gnu
IMAGES := target/images

help: ## list the commands
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## install and build everything that the lab needs
	@tests/tools/setup.sh

test: setup image lint ## set up everything and run every test, unit to end-to-end
	cargo test --workspace --locked

lint: ## formatting, clippy without a warning
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo fmt --manifest-path dataplane/fuzz/runner/Cargo.toml --check

fuzz: ## every decoder and the speakers' machine, each for FUZZ_SECONDS (60)
	@dataplane/fuzz/run.sh

image: ## build the images, and those of the releases to upgrade between, into target/images
	@tests/tools/build-images.sh

demo: setup image ## a cluster, the guide's steps 1 to 4.8, and the cluster left up
	cargo run --quiet --locked -p lb-e2e --bin demo

demo-down: ## remove what demo made
	cargo run --quiet --locked -p lb-lab --bin lab -- down --name demo

# The janitor of a lab is the program lab, which has to be beside the one that starts it.
bench-addresses: setup image ## how fast addresses are given and kept, beside MetalLB; BENCH="--skip-peer" and others
	cargo build --quiet --release --locked -p lb-lab --bin lab
	cargo run --quiet --release --locked -p lb-bench --bin bench-addresses -- $(BENCH)

bench-announcing: setup image ## what a client notices of failures, restarts and drains, beside MetalLB; BENCH as above
	cargo build --quiet --release --locked -p lb-lab --bin lab
	cargo run --quiet --release --locked -p lb-bench --bin bench-announcing -- $(BENCH)

generate: ## write the CRDs from their types, and the OLM bundle from them and the chart
	cargo run --quiet --locked -p lb-crds --bin crdgen -- crds
	cargo run --quiet --locked -p lb-olm --bin bundlegen -- --out olm

bundle: image ## a release's OLM bundle and catalog in target/olm, with the digests of the images
	rm -rf target/olm
	cargo run --quiet --locked -p lb-olm --bin bundlegen -- --out target/olm --created-at "$$(git log -1 --format=%cI)" \
	  $$(for program in operator controller speaker; do \
	    echo "--digest $$program=$$(target/debug/image digest $(IMAGES)/$$program.tar)"; done) $(BUNDLE)

fmt: ## format the code
	cargo fmt --all
