# Two commands matter: `make demo` and `make test`. Both install what they need (as root or with sudo).
SHELL := /bin/bash
.DEFAULT_GOAL := help

PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
RELEASE := build/release

.PHONY: help deps configure build demo test test-asan test-tsan fuzz lint format install bench clean

help:
	@echo "make demo       install what is needed, build, and run three jobs on encrypted data"
	@echo "make test       install what is needed, build, and run every test"
	@echo "make build      programs land in $(RELEASE)/bin"
	@echo "make test-asan  the whole suite under AddressSanitizer and UBSan"
	@echo "make test-tsan  the bus tests under ThreadSanitizer"
	@echo "make fuzz       every fuzz target for FUZZ_SECONDS (60) each"
	@echo "make lint       clang-format, warnings as errors with gcc and clang, clang-tidy, rules"
	@echo "make bench      every benchmark"
	@echo "make install    into PREFIX ($(PREFIX)); DESTDIR is honoured"

deps:
	@scripts/install-deps.sh

build: deps
	@cmake --preset release -Wno-dev >/dev/null
	@cmake --build --preset release -j $(JOBS)

demo: build
	@scripts/demo.sh

test: build
	@scripts/test.sh release

test-asan: deps
	@cmake --preset asan -Wno-dev >/dev/null
	@cmake --build --preset asan -j $(JOBS)
	@scripts/test.sh asan

test-tsan: deps
	@cmake --preset tsan -Wno-dev >/dev/null
	@cmake --build --preset tsan -j $(JOBS)
	@scripts/test.sh tsan

fuzz: deps
	@scripts/fuzz.sh

lint: deps
	@scripts/lint.sh

format: deps
	@git ls-files '*.c' '*.h' | xargs clang-format -i

bench: build
	@scripts/bench.sh

install: build
	@DESTDIR="$(DESTDIR)" cmake --install $(RELEASE) --prefix $(PREFIX)

clean:
	rm -rf build
