# All that is set up lands in .cache: remove it to begin anew.
SHELL       := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

CACHE := $(CURDIR)/.cache
WIRE  := handlers/plugin/wire
GO    := $(shell go env GOVERSION)

# Tools are built from their pinned modules, once for each version of theirs
# and of Go's.
version = $(shell sed -n 's|^[[:space:]]*$(1) \(v[^ ]*\).*|\1|p' $(2)/go.mod)
LINT := $(CACHE)/bin/golangci-lint-$(call version,github.com/golangci/golangci-lint/v2,tools/lint)-$(GO)
BUF  := $(CACHE)/bin/buf-$(call version,github.com/bufbuild/buf,tools/buf)-$(GO)

export GOLANGCI_LINT_CACHE := $(CACHE)/golangci-lint

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z\/ -]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

.PHONY: build
build: ## Build ./bin/usher
	CGO_ENABLED=0 go build -trimpath -o bin/usher .

.PHONY: lint
lint: $(LINT) ## Run all linters
	$(LINT) run ./...
	cd tools && $(LINT) run --config ../.golangci.yaml ./...

.PHONY: test
test: ## Set up what the tests need, then run them all with the race detector
	tools/prepare
	go vet ./...
	go -C tools build -o $(CACHE)/bin/ ./suites ./faults
	go -C tools test ./...
	go test -race -timeout 40m -json ./... | $(CACHE)/bin/faults $(PAGE) | $(CACHE)/bin/suites

.PHONY: faults
faults: ## Make every fault happen, and write docs/faults.md
	$(MAKE) test PAGE=docs/faults.md

.PHONY: mutations
mutations: ## Break promises on purpose, and see that the tests find out
	tools/prepare
	go -C tools run ./mutations $(CURDIR)

# How long each fuzz target runs.
fuzz: FUZZ := 30s

.PHONY: fuzz
fuzz: ## Fuzz all that reads what others wrote
	@grep -rl '^func Fuzz' --include='*_test.go' . | grep -v '^./.cache/' | sort | while read -r file; do \
	  for target in $$(sed -n 's/^func \(Fuzz[A-Za-z]*\)(.*/\1/p' "$$file"); do \
	    echo "== $$target for $(FUZZ)"; go test "$$(dirname "$$file")" -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZ) -fuzzminimizetime 3s; \
	  done; \
	done

.PHONY: vulnerabilities
vulnerabilities: ## Look for known vulnerabilities that are called; asks the Go database
	go run golang.org/x/vuln/cmd/govulncheck@v1.1.4 ./...

.PHONY: simulate
simulate: SEEDS := 100000
simulate: ## Run the simulation of the engine over many seeds
	go test ./engine -run TestSimulation -timeout 3h -v -seeds $(SEEDS)

# A look that takes no report: make bench ROUNDS=1 MESSAGES=2000, or ONLY=order.
bench: ROUNDS   := 7
bench: MESSAGES := 20000
bench: ONLY     := .

.PHONY: bench
bench: ## Measure beside others, in rounds, and write docs/performance*.md
	tools/prepare
	go test -run '^$$' -bench '^Benchmark(Numbers|Waiting|Shared)$$/$(ONLY)' -benchtime 1x -timeout 3h ./bench \
	  -rounds $(ROUNDS) -messages $(MESSAGES) -report $(CURDIR)/docs

.PHONY: bench/micro
bench/micro: ## Run the benchmarks of single packages
	go test -run '^$$' -bench . -skip '^Benchmark(Numbers|Waiting|Shared)$$' -benchmem ./...

# Of chaos: how many rounds, what decides them (0: any; it is printed), and how
# often the time until it is back is measured.
chaos: ROUNDS   := 20
chaos: SEED     := 0
chaos: RESTARTS := 20

.PHONY: chaos
chaos: ## Kill engines, plugins, brokers and connections, and close the books: ROUNDS=20 SEED=7 RESTARTS=20
	tools/prepare
	go test ./bench/chaos -v -timeout 60m -rounds $(ROUNDS) -seed $(SEED) -outage 30s -bench . -benchtime $(RESTARTS)x

.PHONY: chaos/long
chaos/long: ## The faults that take long, whole: 10 minutes, 5 minutes, an hour
	tools/prepare
	go test ./bench/chaos -v -timeout 3h -run 'TestAReceiver|TestAnUrgentFlood|TestNothingIsLostOnTables|TestASoak' \
	  -away 10m -flood 5m -outage 5m -soak 60m

.PHONY: image image/check
image: ## Build the production image with Docker: TAG=usher
	docker build --target image --tag $(or $(TAG),usher) .

image/check: ## Build the image without Docker (buildah, as root), and start it
	tools/image check

# Steps of tools/deploy, which says what each does.
.PHONY: deploy/push deploy/plan deploy/apply deploy/check deploy/smoke deploy/rollback
deploy/push deploy/plan deploy/apply deploy/check deploy/smoke deploy/rollback: ## Steps to AWS, in this order: STAGE=dev
	tools/deploy $(STAGE) $(@F)

.PHONY: generate
generate: $(BUF) ## Write generated code anew
	cd $(WIRE) && $(BUF) generate

.PHONY: verify
verify: $(BUF) ## Check generated code, modules, formats, sizes, and what must not be committed
	cd $(WIRE) && $(BUF) lint
	rm -rf $(CACHE)/generated
	cd $(WIRE) && $(BUF) generate --output $(CACHE)/generated
	for new in $(CACHE)/generated/*; do \
	  diff -u $(WIRE)/$$(basename $$new) $$new || { echo 'generated code is stale: run make generate' >&2; exit 1; }; \
	done
	for module in . tools tools/buf tools/lint; do \
	  go -C $$module mod tidy -diff || { echo "$$module/go.mod is not tidy: run go -C $$module mod tidy" >&2; exit 1; }; \
	done
	go -C tools run ./verify ..

$(LINT):
	go -C tools/lint build -trimpath -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint

$(BUF):
	go -C tools/buf build -trimpath -o $@ github.com/bufbuild/buf/cmd/buf
