# What to do with peervip. `make lab` and `make test` need root, and install the
# Debian packages that they miss.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

# Go is the one that toolchain/fetch has fetched, or where its makers put it, which
# sudo leaves out of the path. No other is fetched: GOTOOLCHAIN.
export PATH := $(CURDIR)/.cache/go/bin:/usr/local/go/bin:$(PATH):/usr/lib/go/bin
export GOTOOLCHAIN := local
unexport GOROOT
GO := go

# A version of the source is stamped into the program only where git can tell it:
# a clone that belongs to another user would otherwise not build.
STAMP := $(shell git rev-parse HEAD >/dev/null 2>&1 && echo true || echo false)
export GOFLAGS := $(GOFLAGS) -buildvcs=$(STAMP)

# Every test runs anew: the kernel is not among the things that go test caches by.
# One package at a time: tests with real time in them want both cores.
TEST := $(GO) test -v -count=1 -p 1 -timeout 10m
SHOW := 2>&1 | .ci/closing

# What `make test` runs, one after the other, each whatever became of those before.
STAGES := check unit race sim kernel e2e systemd

# The packages whose tests need root and a kernel; all others are quick.
KERNEL := ./nft/... ./node/link/... ./gossip/... ./e2e/lab/...
# Seeds of the simulator for each of six kinds of trouble (four more get a share):
# about 2,500 runs; the race detector makes it slow.
SEEDS ?= 250
RACESEEDS ?= 10
# The core starts no goroutine: what the race detector could find is what cores share.
RACETESTS := Mishaps$$|PlannedChanges$$|Crashes|ColdStarts|OneSeed|Replays|Beacon|Message|Fuzz
MUTANTSEEDS ?= 200

# Commands that the tests call, and the Debian packages that have them.
TOOLS := nft:nftables ip:iproute2 ping:iputils-ping socat:socat sysctl:procps gcc:gcc /usr/include/stdlib.h:libc6-dev

.PHONY: help build lab test mutants bench fmt toolchain clean root go tools $(STAGES)

help: ## show this
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: go ## make bin/peervip
	$(GO) build -o bin/peervip ./cmd/peervip

lab: root build ## show everything on this machine, as root: nodes, clients, faults, figures
	./bin/peervip lab $(LAB)

test: root go tools ## pass all tests, as root: check, unit, race, sim, kernel, e2e, systemd
	@.ci/stages $(STAGES)

check: go
	@echo "== formatting, go.mod, vet, staticcheck"
	@.ci/each 'gofmt -d $$(find . -path "./.*" -prune -o -name "*.go" -print)' \
		'toolchain/fetch check' \
		'$(GO) mod tidy -diff' \
		'$(GO) mod verify' \
		'$(GO) vet ./...' \
		'$(GO) tool staticcheck ./...'

unit: root go tools
	@echo "== unit tests and fuzz seeds, on a young machine, with the race detector"
	@packages=$$($(GO) list ./... | grep -v -x -F -f <($(GO) list $(KERNEL) ./e2e/... ./node)); .ci/young $(TEST) -race -parallel 4 $$packages $(SHOW)

race: go
	@echo "== the core and its simulator, $(RACESEEDS) seeds, with the race detector"
	@$(TEST) -race -run '$(RACETESTS)' ./node -sim.seeds=$(RACESEEDS) $(SHOW)

sim: go ## run the simulator: make sim SEEDS=20000
	@echo "== the simulator, $(SEEDS) seeds of each kind of trouble"
	@$(TEST) -timeout 2h ./node -sim.seeds=$(SEEDS) $(SHOW)

kernel: root go tools
	@echo "== tests in network namespaces, on a young machine, with the race detector"
	@.ci/young $(TEST) -race $(KERNEL) $(SHOW)

e2e: root go tools
	@echo "== scenarios with agents, clients and faults, with the race detector"
	@$(TEST) -race -timeout 30m ./e2e $(SHOW)

systemd: root go tools
	@echo "== machines with a real systemd that run the unit"
	@$(MAKE) tools TOOLS="debootstrap:debootstrap debootstrap:debian-archive-keyring systemd-nspawn:systemd-container" || echo "the packages for the machines cannot be installed"
	@$(TEST) ./e2e/systemd $(SHOW)

mutants: go ## take rules out of the protocol, one by one: do the tests see it? make mutants ONLY=M6
	@$(GO) run ./mutants -seeds $(MUTANTSEEDS) -only '$(ONLY)'

bench: root go tools ## measure: the packages, then what clients see, in one table at the end
	@$(MAKE) tools TOOLS=keepalived:keepalived || echo "keepalived cannot be installed: its figures are left out"
	@$(GO) test -run '^$$' -bench . -p 1 -timeout 20m $$($(GO) list ./... | grep -vE '/e2e(/systemd)?$$')
	@echo "== what the lab's clients see"
	@$(GO) test -run '^$$' -bench . -timeout 20m ./e2e

fmt: go ## format the source
	gofmt -w $$(find . -path "./.*" -prune -o -name "*.go" -print)

toolchain: ## pin the Go that go.mod asks for anew, in toolchain/pin
	toolchain/fetch refresh

clean: ## remove what was built and fetched
	rm -rf bin .cache

root:
	@[ "$$(id -u)" = 0 ] || { echo "this needs root, for network namespaces: sudo make $(MAKECMDGOALS)"; exit 1; }

go:
	@toolchain/fetch

tools: root
	@missing=""; for t in $(TOOLS); do [ -e $${t%%:*} ] || command -v $${t%%:*} >/dev/null || missing+=" $${t#*:}"; done; \
	[ -n "$$missing" ] || exit 0; \
	command -v apt-get >/dev/null || { echo "commands are missing; install what your system calls$$missing"; exit 1; }; \
	echo "installing$$missing"; \
	export DEBIAN_FRONTEND=noninteractive; \
	apt-get update -qq; apt-get install -qq -y --no-install-recommends $$missing >/dev/null
