# Everything that is done to this repository, each by one word. CI runs `make check` and `make test`.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help dev test check clients bench sqlx openapi advisories setup

# What a build of the product may not depend on is said in deny.toml.
DENY := $(shell command -v cargo-deny || echo target/tools/bin/cargo-deny)

help: ## List the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 20

setup: ## Install what is missing: Postgres, NATS, an ACME server (apt, as root or by sudo); a current NATS (PyPI, in target/tools).
	@scripts/setup

dev: setup ## Run everything on this machine. ARGS="--port 8090 --data-dir DIR" for another one beside it.
	cargo build --locked --package fulexo-api
	@exec target/debug/fulexo dev $(ARGS)

test: setup ## Run every test, four at a time, against a real Postgres and NATS that the tests start themselves.
	cargo build --locked --package fulexo-api
	RUST_TEST_THREADS=$${RUST_TEST_THREADS:-4} cargo test --locked --workspace

check: setup ## Format, lints, docs, dependencies, queries, generated clients, hostile input (EXAMPLES=200 for more of it).
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --locked --workspace --no-deps --quiet
	@test -x "$(DENY)" || cargo install cargo-deny --locked --debug --quiet --root target/tools
	$(DENY) --log-level error --all-features check bans licenses sources
	scripts/sqlx check
	cargo build --locked --package fulexo-api
	scripts/clients
	scripts/schemathesis

clients: setup ## Make clients of the API in TypeScript, Python, Rust and Go, and use them.
	cargo build --locked --package fulexo-api
	scripts/clients
	scripts/clients-rust
	scripts/clients-go

advisories: ## Look for known vulnerabilities of dependencies; fetches the advisory database.
	@test -x "$(DENY)" || cargo install cargo-deny --locked --debug --quiet --root target/tools
	$(DENY) check advisories

bench: setup ## Measure every figure that the project claims, each beside its reference. FIGURES="appends logins" for some.
	cargo bench --locked --package fulexo-tests --bench figures -- $(FIGURES)

sqlx: setup ## Write the queries' offline data (.sqlx) anew.
	scripts/sqlx prepare

openapi: ## Write the OpenAPI document (openapi.json) anew.
	cargo run --locked --quiet --package fulexo-api -- openapi > openapi.json.new
	mv openapi.json.new openapi.json
