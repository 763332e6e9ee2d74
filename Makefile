# Everything that is done to this repository, each by one word. CI runs what `make check` and `make test` run (.ci/run).

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.PHONY: help setup dev test try check format lints docs dependencies clients fix sqlx openapi advisories bench

help: ## List the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

setup: ## Install what is missing: Postgres, NATS, an ACME server, age (apt, as root or by sudo); a current NATS (PyPI, in target/tools).
	@scripts/setup

dev: setup ## Run everything on this machine. ARGS="--port 8090 --data-dir DIR" for another one beside it.
	cargo build --locked --workspace --bins
	@exec target/debug/fulexo dev $(ARGS)

test: setup ## Run every test against a real Postgres and NATS that the tests start themselves.
	@scripts/test

try: setup ## Run one suite, or a part of it: SUITE=walk, SUITE="api lockdown::".
	@scripts/test $(or $(SUITE),$(error SUITE is missing: make try SUITE=walk))

check: setup format lints docs dependencies ## Format, lints, docs, dependencies, queries, generated clients, Go's reader of the log, the trail in OCSF, the backups' encryption, the bill of materials, the reports in SARIF, the shell scripts and the runbooks, the log's readers at length, hostile input (EXAMPLES=200 for more of it).
	@scripts/part build cargo build --locked --workspace --bins
	@scripts/part clients scripts/clients
	@scripts/part go-reader scripts/go-reader
	@scripts/part ocsf scripts/ocsf
	@scripts/part age scripts/age
	@scripts/part sbom scripts/sbom
	@scripts/part sarif scripts/sarif
	@scripts/part shellcheck scripts/shellcheck
	@PROPTEST_CASES=100000 scripts/part readers cargo test --locked --quiet -p fulexo-tlog --test tlog readers
	@PROPTEST_CASES=100000 scripts/part leaves cargo test --locked --quiet -p fulexo-domain --lib leaf::
	@scripts/part schemathesis scripts/schemathesis

format:
	@scripts/part format cargo fmt --all --check

lints: setup
	@scripts/part lints scripts/sqlx check

docs:
	@RUSTDOCFLAGS='-D warnings' scripts/part docs cargo doc --locked --workspace --no-deps --quiet

# What a build of the product may not depend on is in deny.toml.
dependencies: setup
	@scripts/part dependencies scripts/deny --log-level error --all-features check bans licenses sources

clients: setup ## Make clients of the API in TypeScript, Python, Rust and Go, and use them.
	cargo build --locked --workspace --bins
	scripts/clients
	scripts/clients-rust
	scripts/clients-go

fix: setup sqlx openapi ## Write what is generated (.sqlx, openapi.json), apply clippy's suggestions, and format.
	cargo clippy --locked --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all

sqlx: setup ## Write the queries' offline data (.sqlx) anew.
	scripts/sqlx prepare

openapi: ## Write the OpenAPI document (openapi.json) anew.
	cargo run --locked --quiet --package fulexo-api -- openapi > openapi.json.new
	mv openapi.json.new openapi.json

advisories: ## Look for known vulnerabilities of dependencies; fetches the advisory database.
	scripts/deny check advisories

bench: setup ## Measure every figure that the project claims, each beside its reference. FIGURES="appends logins" for some.
	cargo build --locked --release --package fulexo-api
	cargo bench --locked --package fulexo-tests --bench figures -- $(FIGURES)
