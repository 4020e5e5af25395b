# The two commands of the README are `make run` and `make test`.
GO      ?= go
BIN     := $(CURDIR)/bin
TMP     := $(CURDIR)/tmp
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -X main.version=$(VERSION)
FUZZTIME ?= 5s

export PLAYWRIGHT_DRIVER_PATH ?= $(TMP)/playwright-driver
export CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)

.PHONY: all run run-watch build release assets generate fmt lint check drift tidy deadcode arrows shell tools setup \
	test unit test-pg fuzz e2e bench bench-quick microbench demo-curl demo-check soak cover clean

all: build

## run: everything a fresh machine needs, then the server with the demo
run: build
	$(BIN)/openprivatelink serve --demo --data $(TMP)/data

run-watch: assets
	$(GO) tool templ generate --watch --cmd="$(GO) run . serve --demo --data $(TMP)/data"

build: assets
	$(GO) build -ldflags "$(LDFLAGS)" -o $(BIN)/openprivatelink .

release: assets
	CGO_ENABLED=1 $(GO) build -trimpath -ldflags "-s -w $(LDFLAGS)" -o $(BIN)/openprivatelink .

## assets: front-end files from npm into static/vendor
assets: static/vendor/.stamp
static/vendor/.stamp: package.json package-lock.json $(wildcard static/gen/*.go)
	npm ci --no-audit --no-fund --loglevel=error
	$(GO) run ./static/gen
	touch $@

generate: assets
	$(GO) tool templ generate -log-level error
	$(GO) run ./static/gen

fmt: tools
	$(BIN)/gofumpt -w $$(git ls-files '*.go' | grep -v '_templ\.go$$')
	$(GO) tool templ fmt -log-level error web handlers

## check: the static half of CI
check: tools drift tidy lint deadcode arrows shell
	@echo "check: ok"

drift: generate
	@git diff --exit-code -- '*_templ.go' web/ui/icons_gen.go || { echo "generated files are not up to date: run make generate and commit"; exit 1; }

tidy:
	$(GO) mod tidy -diff

lint: tools
	@test -z "$$($(BIN)/gofumpt -l $$(git ls-files '*.go' | grep -v '_templ\.go$$'))" || { echo "not formatted: run make fmt"; $(BIN)/gofumpt -l $$(git ls-files '*.go' | grep -v '_templ\.go$$'); exit 1; }
	@$(GO) tool templ fmt -fail -log-level error web || { echo "templ files are not formatted: run make fmt"; exit 1; }
	$(BIN)/golangci-lint run ./...
	GOOS=darwin CGO_ENABLED=0 $(GO) vet ./proxy/... ./web/... ./static/...

deadcode: tools
	@out="$$($(BIN)/deadcode -test ./...)"; test -z "$$out" || { echo "$$out"; echo "dead code: delete it"; exit 1; }

arrows:
	$(GO) test -run TestArrows .

shell:
	@for f in .ci/run .ci/setup; do bash -n $$f || exit 1; done

# Tools are built into bin/, each version in a file name of its own.
tools: $(BIN)/golangci-lint-2.15.0 $(BIN)/gofumpt-0.12.0 $(BIN)/deadcode-0.52.0 $(BIN)/gotestsum-1.13.0
$(BIN)/golangci-lint-2.15.0:
	$(call tool,github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0,golangci-lint)
$(BIN)/gofumpt-0.12.0:
	$(call tool,mvdan.cc/gofumpt@v0.12.0,gofumpt)
$(BIN)/deadcode-0.52.0:
	$(call tool,golang.org/x/tools/cmd/deadcode@v0.52.0,deadcode)
$(BIN)/gotestsum-1.13.0:
	$(call tool,gotest.tools/gotestsum@v1.13.0,gotestsum)
define tool
	GOBIN=$(BIN) GOFLAGS= $(GO) install $(1)
	ln -sf $(2) $@
endef

## setup: what the tests need from the machine (Debian packages; the playwright driver)
setup: assets
	.ci/setup

## test: everything, set-up included
test: setup tools unit test-pg fuzz release e2e cover
	@echo "test: ok"

unit: tools assets
	mkdir -p $(TMP)
	$(BIN)/gotestsum --format pkgname-and-test-fails -- -race -shuffle=on -timeout 20m -coverprofile=$(TMP)/cover.out $$($(GO) list ./... | grep -v -e /e2e -e /proxy/vpc$$)
	# Tests that run again as another user, who cannot write where coverage goes.
	$(BIN)/gotestsum --format pkgname-and-test-fails -- -race -shuffle=on -timeout 20m ./proxy/vpc

test-pg: tools
	.ci/with-postgres $(BIN)/gotestsum --format pkgname-and-test-fails -- -timeout 20m ./domain/...

fuzz:
	.ci/fuzz $(FUZZTIME)

e2e: tools
	$(GO) test -c -o $(BIN)/e2e.test ./e2e
	.ci/e2e

cover:
	@test ! -f $(TMP)/cover.out || $(GO) tool cover -func=$(TMP)/cover.out | tail -n 1

## bench: the engine beside HAProxy, nginx and a plain copy loop, as ratios; needs root
bench: assets
	mkdir -p $(TMP)
	$(GO) run ./proxy/bench run -json $(TMP)/bench.json -page docs/performance.md

## bench-quick: the same for use at work, one set and few peers
bench-quick: assets
	$(GO) run ./proxy/bench run -set plain -only crr,rr64,rr1k,bulk1,bulk8 -peers direct,self,haproxy,haproxy-again,nginx -rounds 3 -redos 1 -for 1s

## microbench: the benchmarks of the packages
microbench: assets
	$(GO) test -run '^$$' -bench . -benchtime 1s ./proxy/... ./domain/... ./handlers/... .

## demo-curl: curl from the demo's consumer VPC
demo-curl:
	$(BIN)/openprivatelink exec --data $(TMP)/data shop-client -- curl -sS http://10.0.1.17/

## demo-check: the first-run story; fails if the page's promise is false
demo-check: build
	$(GO) test -count=1 -run TestFirstRun ./e2e

soak:
	$(MAKE) fuzz FUZZTIME=30s

clean:
	rm -rf $(BIN) $(TMP) node_modules static/vendor/*
