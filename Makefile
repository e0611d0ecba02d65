# What the project can be asked to do. `make help` lists it; docs/development.md explains it.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || echo v0.0.0-dev-$$(git describe --always --exclude '*' --dirty))
# Continuous integration looks for data races, too; that needs cgo.
RACE := $(if $(CI),-race)
RACE_ENVIRONMENT := $(if $(CI),CGO_ENABLED=1)
FUZZTIME ?= 60s
# What goes wrong in make e2e-chaos follows from the seed, by default one of chance.
CHAOS_SEED ?=
CHAOS_DURATION ?= 10m
# The release before this one: the newest tag but that of this commit or, as long as there is none, a commit.
KEYFERRY_PREVIOUS ?= $(or $(shell git describe --tags --abbrev=0 --match 'v*' HEAD^ 2>/dev/null),8a58d1a)
# Flags of make check-promises, such as '-run webhook'.
PROMISES ?=
# What make nightly runs.
NIGHTLY ?= e2e-chaos e2e-clients e2e-skew e2e-disruptions fuzz check-promises
# Where make publish pushes to, such as ghcr.io/keyferry, and the private key that cosign signs with; in the release workflow there is none.
REGISTRY ?=
COSIGN_KEY ?=
# Packages to test, and any flag of go test: make test PACKAGES=./injector TESTFLAGS='-run TestInject -v'
PACKAGES ?= ./...
TESTFLAGS ?=
# The oldest Kubernetes that the docs promise.
OLDEST_KUBERNETES := v1.30.14
# Versions of Kubernetes for make e2e-versions, such as 'v1.30.14 v1.37.2/v1.30.14': the second has a target of another version. By
# default those of docs/compatibility.json.
VERSIONS ?=
# Not tools/replay, which is for recordings that are made by hand, and needs all of Istio.
MODULES = $(filter-out tools/replay,$(patsubst %/,%,$(dir $(shell git ls-files -co --exclude-standard go.mod '*/go.mod'))))
# What takes long to make is kept here, each thing under its version.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/keyferry

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##### Building

.PHONY: build
build: ## Build all programs into dist/bin
	tools/build '$(VERSION)' dist/bin ./cmd/...
	@ln -sf keyferry dist/bin/kubectl-keyferry && cp cmd/keyferry/kubectl_complete-keyferry dist/bin/

.PHONY: man
man: ## Write manual pages and completions of keyferry into dist/man and dist/completion
	@cd tools/man && SOURCE_DATE_EPOCH=$${SOURCE_DATE_EPOCH:-$$(git log -1 --format=%ct)} go run . ../../dist

.PHONY: images
images: ## Build the container images as tar files in dist/images, without Docker
	@cd tools/images && go run . -root ../.. -out ../../dist/images -version '$(VERSION)'

.PHONY: release
release: ## Write all of a release into dist/release: programs, images, chart, install.yaml, bills of materials, checksums
	@cd tools/release && go run . -root ../.. -version '$(VERSION)'

.PHONY: publish
publish: ## Push the release in dist/release to REGISTRY, and sign it with COSIGN_KEY or, in a workflow, without a key
	@cd tools/publish && go run . -release ../../dist/release -registry '$(REGISTRY)' -version '$(VERSION)' $(if $(COSIGN_KEY),-key '$(abspath $(COSIGN_KEY))')

.PHONY: release-draft
release-draft: ## Create a draft of a release on GitHub with the files in dist/release
	@gh release create '$(VERSION)' --draft --verify-tag --title '$(VERSION)' \
	  --notes 'Changes: https://github.com/keyferry/keyferry/blob/$(VERSION)/CHANGELOG.md' dist/release/*

.PHONY: check-reproducible
check-reproducible: ## Build a release twice, and one platform's programs from nothing, in three folders, and compare (minutes)
	@tools/check-reproducible '$(VERSION)'

.PHONY: generate
generate: ## Write generated files: deep copies, CRDs, the chart's copy of them, config/default, docs/api.md, docs/values.md, the table of docs/compatibility.md
	@tools/run controller-gen object paths=./api/...
	@tools/run controller-gen crd paths=./api/... output:crd:dir=config/crd
	@mkdir -p charts/keyferry/files/crd && cp config/crd/keyferry.dev_*.yaml charts/keyferry/files/crd/
	@cd tools/chart && go run . manifests -out ../../config/default
	@cd tools/reference && go run . api ../../config/crd/keyferry.dev_*.yaml >../../docs/api.md
	@cd tools/reference && go run . values ../../charts/keyferry/values.yaml >../../docs/values.md
	@$(MAKE) write-compatibility

.PHONY: write-compatibility
write-compatibility:
	@page=$$(cd tools/reference && go run . compatibility ../../docs/compatibility.json ../../docs/compatibility.md); printf '%s\n' "$$page" >docs/compatibility.md

.PHONY: site
site: ## Write the documentation as a website into dist/site, for the work tree and each release (needs Node.js)
	@tools/site/build dist/site

.PHONY: check-site
check-site: site ## Open each page of the website in Chromium, narrow and wide, and write screenshots into dist/site-screenshots
	@node tools/site/browser.mjs dist/site dist/site-screenshots

##### Testing

.PHONY: test
test: ## Run unit and integration tests (CI=1: with the race detector)
	@$(if $(filter ./... ./docs%,$(PACKAGES)),for tool in helm oras cosign; do tools/run --build $$tool >/dev/null; done)
	@KUBEBUILDER_ASSETS="$$(tools/envtest)" $(RACE_ENVIRONMENT) go test -timeout 20m $(RACE) $(TESTFLAGS) $(PACKAGES) || { echo "make test: failed; each failure stands above, below its '--- FAIL' line" >&2; exit 1; }

.PHONY: test-dashboard
test-dashboard: ## Test the dashboard in Chromium (TESTFLAGS=-update writes the screenshots of docs/dashboard.md)
	@command -v chromium chromium-browser google-chrome >/dev/null || { echo 'chromium is missing: apt install chromium fonts-noto-core' >&2; exit 1; }
	@command -v npm >/dev/null || { echo 'npm is missing, which installs axe-core: apt install npm' >&2; exit 1; }
	@export KUBEBUILDER_ASSETS="$$(tools/envtest)"; cd tools/dashboard && npm ci --ignore-scripts --no-audit --no-fund --silent && \
	  go test -count=1 -timeout 20m $(TESTFLAGS) . || { echo "make test-dashboard: failed; each failure stands above, below its '--- FAIL' line" >&2; exit 1; }

.PHONY: envtest
envtest: ## Download or build the API server that integration tests run against
	@tools/envtest

.PHONY: e2e
e2e: ## Run the end-to-end tests on two clusters (KEYFERRY_E2E_KEEP=1 leaves them up)
	@path="$$PATH:$$(tools/envtest)"; cd e2e && PATH="$$path" go test -count=1 -v -parallel 6 -timeout 40m $(TESTFLAGS) . || { echo "make e2e: failed; logs of the Pods are in e2e/.run/logs" >&2; exit 1; }

.PHONY: e2e-prepare
e2e-prepare: ## Build what make e2e needs: the nodes' image, Keyferry's images, the tests
	@echo 'image of the nodes' && e2e/kind/node-image.sh
	@$(MAKE) images
	@echo 'compiling e2e' && cd e2e && go test -c -o /dev/null .

.PHONY: e2e-clients
e2e-clients: ## Run clients of all kinds through renewals and a rotation of the CA, and write the tables of docs/clients.md
	@path="$$PATH:$$(tools/envtest)"; cd e2e && PATH="$$path" go test -tags long -run '^TestClients$$' -count=1 -v -timeout 40m $(TESTFLAGS) . || { echo "make e2e-clients: failed; logs of the Pods are in e2e/.run/logs" >&2; exit 1; }

.PHONY: e2e-chaos
e2e-chaos: ## Have everything fail for CHAOS_DURATION (10m), by the schedule of CHAOS_SEED (default: of chance)
	@path="$$PATH:$$(tools/envtest)"; cd e2e && PATH="$$path" KEYFERRY_CHAOS_SEED='$(CHAOS_SEED)' KEYFERRY_CHAOS_DURATION='$(CHAOS_DURATION)' \
	  go test -tags long -count=1 -v -timeout 4h -run '^TestChaos$$' . || { echo "make e2e-chaos: failed; logs of the Pods are in e2e/.run/logs" >&2; exit 1; }

.PHONY: e2e-skew
e2e-skew: ## Upgrade from the release before this one (KEYFERRY_PREVIOUS, a revision) and back, with Pods of both
	@path="$$PATH:$$(tools/envtest)"; cd e2e && PATH="$$path" KEYFERRY_PREVIOUS='$(KEYFERRY_PREVIOUS)' \
	  go test -tags long -count=1 -v -timeout 40m -run '^TestSkew$$' . || { echo "make e2e-skew: failed; logs of the Pods are in e2e/.run/logs" >&2; exit 1; }

.PHONY: e2e-disruptions
e2e-disruptions: ## Measure what clients see of disruptions of a target, and write the table of docs/disruptions.md
	@path="$$PATH:$$(tools/envtest)"; cd e2e && PATH="$$path" go test -tags long -run '^TestDisruptions$$' -count=1 -v -timeout 40m $(TESTFLAGS) . || { echo "make e2e-disruptions: failed; logs of the Pods are in e2e/.run/logs" >&2; exit 1; }

.PHONY: e2e-versions
e2e-versions: ## Run the end-to-end tests on VERSIONS of Kubernetes, and write the table of docs/compatibility.md
	@path="$$PATH:$$(tools/envtest)"; status=0; \
	  (cd e2e && go build -o .run/bin/versions ./cmd/versions && PATH="$$path" .run/bin/versions $(VERSIONS)) || status=1; \
	  $(MAKE) write-compatibility; exit $$status

.PHONY: fuzz
fuzz: ## Run each fuzz test for FUZZTIME (60s)
	@for package in $$(go list ./...); do \
	  for name in $$(go test -run '^$$' -list '^Fuzz' "$$package" | grep '^Fuzz' || true); do \
	    echo "$$package $$name"; \
	    go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$package"; \
	  done; \
	done

.PHONY: check-promises
check-promises: ## Remove one protection of the threat model after the other, and check that its test fails
	@export KUBEBUILDER_ASSETS="$$(tools/envtest)"; . tools/goflags; cd tools/promises && go run . $(PROMISES) ../..

.PHONY: nightly
nightly: ## Run what takes too long for each change, one after the other; the logs are in dist/nightly
	@mkdir -p dist/nightly; failed=; for target in $(NIGHTLY); do \
	  echo "=== make $$target"; \
	  time $(MAKE) $$target 2>&1 | tee dist/nightly/$$target.log || failed="$$failed $$target"; \
	done; \
	[ -z "$$failed" ] || { echo "FAIL: make$$failed" >&2; exit 1; }

.PHONY: bench
bench: ## Measure what is in docs/performance.md on this machine, and write it (15 minutes; nothing else should run)
	@tools/measure
	@tools/run benchstat $$(ls dist/bench-before.txt 2>/dev/null) dist/bench.txt >dist/benchstat.txt
	@cd tools/bench && go run . ../../dist/bench.txt ../../docs/performance.md
	@KUBEBUILDER_ASSETS="$$(tools/envtest)" go test ./docs -run '^TestSizes$$' -update

.PHONY: bench-start
bench-start: ## Measure on two clusters how long Pods take to start; the next make bench puts it into the page
	@mkdir -p dist; path="$$PATH:$$(tools/envtest)"; cd e2e && PATH="$$path" go test -count=1 -timeout 40m -run NONE -bench PodStart -benchtime 40x . | tee ../dist/bench-start.txt

.PHONY: bench-dashboard
bench-dashboard: ## Measure the dashboard in Chromium with 10,000 Pods and 200 targets, for docs/dashboard.md
	@export KUBEBUILDER_ASSETS="$$(tools/envtest)"; cd tools/dashboard && go test -count=1 -timeout 20m -run '^$$' -bench '^BenchmarkScale$$' -benchtime 1x $(TESTFLAGS) .

##### Clusters

# Not go run, which passes no signal on but Ctrl-C.
e2e-program = echo 'compiling e2e/cmd/$(1)' >&2; . tools/goflags; cd e2e && go build -o .run/bin/$(1) ./cmd/$(1) && exec .run/bin/$(1)

.PHONY: clusters
clusters: ## Bring up two kind clusters, management and target, for hand work
	@$(call e2e-program,clusters) up

.PHONY: clusters-down
clusters-down: ## Remove the two kind clusters
	@$(call e2e-program,clusters) down

.PHONY: demo
demo: ## Show it: two clusters, Keyferry, and a program that works on the other cluster
	@$(call e2e-program,demo) up

.PHONY: recording
recording: ## Run the demo, and record it for the README: docs/images/demo.svg, and dist/demo.cast for asciinema
	@$(call e2e-program,recording) -title 'make demo' -cast ../dist/demo.cast -svg ../docs/images/demo.svg make demo

.PHONY: demo-down
demo-down: ## Remove the demo and its clusters
	@$(call e2e-program,demo) down

##### Checking

.PHONY: check
check: check-generated check-format check-vet check-lint check-tools check-chart check-oldest check-rules check-scripts check-workflows check-prose check-modules check-vulnerabilities ## Run all checks that need no cluster

.PHONY: check-generated
check-generated: # in a copy: other targets may read the files at the same time
	@echo 'generated files are current'
	@copy=$$(mktemp -d); trap 'rm -rf "$$copy"' EXIT; \
	  git ls-files -co --exclude-standard -z | xargs -0 cp --parents -t "$$copy"; \
	  $(MAKE) -C "$$copy" generate; \
	  for path in config/crd config/default docs/api.md docs/values.md docs/compatibility.md charts/keyferry/files/crd $$(git ls-files -co --exclude-standard '*zz_generated*.go'); do \
	    diff -r "$$path" "$$copy/$$path" || { echo "$$path is not current: run make generate"; exit 1; }; \
	  done

.PHONY: check-format
check-format:
	@echo 'Go files are formatted'
	@unformatted=$$(git ls-files -co --exclude-standard '*.go' | xargs gofmt -l); [ -z "$$unformatted" ] || { echo "gofmt -w $$unformatted"; exit 1; }

.PHONY: check-vet
check-vet:
	@for module in $(MODULES); do \
	  case $$module in tools/bench|tools/cel|tools/chart|tools/dashboard|tools/images|tools/man|tools/monitoring|tools/promises|tools/prose|tools/publish|tools/reference|tools/release|tools/schemas) ;; tools/*) continue ;; esac; \
	  echo "go vet $$module"; (cd "$$module" && go vet -tags long ./...); \
	done

.PHONY: check-lint
check-lint:
	@lint=$$(tools/run --build golangci-lint); config=$$PWD/.golangci.yaml; status=0; for module in . e2e e2e/testdata/client tools/bench tools/cel tools/chart tools/dashboard tools/images tools/man tools/monitoring tools/promises tools/prose tools/publish tools/reference tools/release tools/schemas; do \
	  echo "golangci-lint $$module"; (cd "$$module" && "$$lint" run --config "$$config" ./...) || status=1; \
	done; exit $$status

.PHONY: check-tools
check-tools:
	@for module in tools/bench tools/cel tools/images tools/promises tools/prose tools/publish tools/reference tools/release; do echo "go test $$module"; (cd "$$module" && go test -count=1 ./...); done
	@echo 'go test e2e/...'; cd e2e && go test -count=1 ./audit ./chaos ./cmd/recording ./cmd/versions ./leak

.PHONY: check-chart
check-chart:
	@tools/check-chart

.PHONY: check-oldest
check-oldest:
	@echo 'installation on the API server of the oldest Kubernetes'
	@export KUBERNETES_VERSION=$(OLDEST_KUBERNETES); KUBEBUILDER_ASSETS="$$(tools/envtest)" go test -count=1 ./config ./api/...

.PHONY: check-rules
check-rules:
	@echo 'alerts and dashboard'
	@tools/run promtool check rules charts/keyferry/files/monitoring/rules.yaml
	@tools/run promtool test rules tools/monitoring/rules_test.yaml
	@cd tools/monitoring && go test ./...

.PHONY: check-scripts
check-scripts:
	@echo 'shellcheck'
	@command -v shellcheck >/dev/null || { echo 'shellcheck is missing: apt install shellcheck, or brew install shellcheck' >&2; exit 1; }
	@git ls-files -co --exclude-standard | xargs grep -lE '^#!/usr/bin/env bash|^# shellcheck shell=' | xargs shellcheck --external-sources --source-path=SCRIPTDIR --source-path=SCRIPTDIR/../e2e/kind

.PHONY: check-workflows
check-workflows:
	@echo 'workflows'
	@tools/run actionlint .github/workflows/*.yml

.PHONY: check-prose
check-prose:
	@echo 'words of the docs'
	@cd tools/prose && go run . check ../..

.PHONY: check-modules
check-modules:
	@for module in $(MODULES); do \
	  echo "go mod tidy $$module"; (cd "$$module" && go mod tidy -diff) || { echo "$$module/go.mod is not tidy: run go mod tidy there"; exit 1; }; \
	done
	@echo 'one client-go for all'
	@versions() { go list -C "$$1" -tags remove_all_sd -deps -f '{{with .Module}}{{.Path}}@{{.Version}}{{end}}' k8s.io/client-go/kubernetes | sort -u; }; \
	  for module in e2e e2e/testdata/client tools/chart tools/dashboard tools/helm tools/promtool; do \
	    diff <(versions .) <(versions "$$module") || { echo "$$module/go.mod has other versions than go.mod, so client-go is compiled twice: run go get there"; exit 1; }; \
	  done

# Not a failure where the database of vulnerabilities is out of reach.
.PHONY: check-vulnerabilities
check-vulnerabilities:
	@if curl --silent --fail --max-time 5 --output /dev/null https://vuln.go.dev/index/db.json; then \
	  echo 'govulncheck'; tools/run govulncheck ./...; \
	else \
	  echo 'govulncheck: left out, vuln.go.dev cannot be reached'; \
	fi

##### Cleaning

.PHONY: clean
clean: ## Remove what was built here; the cache in the home folder stays
	@rm -rf dist
