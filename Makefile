# Leeward. `make help` lists the targets. On a fresh Debian machine with Go, as
# root: `make demo` shows the whole thing, `make test` tests it. What is longer
# than a line or two is a script in deploy/ci.
GO      ?= go
VERSION ?=
FUZZTIME ?= 20s
RACE    ?= ./streams/... ./producers/... ./agent/... ./consumers/... ./control/... ./embed/...
export PATH := $(PATH):/usr/sbin:/sbin
# Stamp the commit where git can be asked; in a tarball, give VERSION=v1.2.3.
VCS     := $(shell git status >/dev/null 2>&1 && echo auto || echo false)
BUILD    = CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=$(VCS) -ldflags '$(if $(VERSION),-X main.Version=$(VERSION)) $(LDFLAGS)'
export GO FUZZTIME VERSION
.PHONY: help build demo test race fuzz bench profile soak lint package newcomer clean
help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 10
build: ## bin/leeward and bin/leeward-agent, static
	$(BUILD) -o bin/leeward .
	$(BUILD) -o bin/leeward-agent ./agent/leeward-agent
demo: ## replicate a database under load, lose it, bring it up again (DISK=/path.img: your own image)
	@deploy/ci/need.sh demo && $(MAKE) --no-print-directory build
	DISK='$(DISK)' deploy/demo/demo.sh
test: ## everything CI runs; as root nothing is skipped
	deploy/ci/need.sh test
	$(GO) vet ./...
	LEEWARD_PICTURES=$(CURDIR)/dist/console timeout --signal=QUIT --kill-after=60 45m $(GO) test -vet=off -timeout=10m ./...
race: ## the concurrent packages under the race detector (RACE=./agent/...)
	deploy/ci/need.sh test race
	CGO_ENABLED=1 $(GO) test -race -vet=off -timeout=30m $(RACE)
fuzz: ## every fuzz target for FUZZTIME each
	deploy/ci/fuzz.sh
bench: build ## ratios against restic, borg and QEMU on the same image (FULL=1: 4 GiB and everything; ARGS=...)
	deploy/ci/need.sh bench && $(GO) run ./bench $(ARGS)
profile: ## CPU, memory, block and mutex profiles in bench/results/profile (SCENARIO=pipe,initial,delta,scan,restore,first-read ARGS=...)
	deploy/ci/need.sh bench && $(GO) run ./bench profile -scenario '$(or $(SCENARIO),all)' $(ARGS)
soak: build ## half an hour of small faults: nothing grows, nothing is lost (ARGS=...)
	deploy/ci/need.sh bench && $(GO) run ./bench soak $(ARGS)
lint: ## gofmt, vet, staticcheck; shellcheck and systemd-analyze if installed
	deploy/ci/lint.sh
package: ## tarballs, deb and rpm for amd64 and arm64 in dist/, with checksums; as root they are tried (ARCHES=amd64: only that); the Helm chart and other samples are checked
	deploy/ci/need.sh package && deploy/ci/samples.sh && deploy/ci/package.sh && deploy/ci/try-packages.sh
newcomer: ## the first day on two fresh Debian hosts, with what make package has built (ROOT=/: views of this machine instead)
	deploy/ci/need.sh package && ROOT='$(ROOT)' deploy/ci/newcomer.sh
clean: ## remove what was built
	rm -rf bin dist
