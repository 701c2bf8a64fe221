# libnflow. `make help` lists the targets.
#
# Everything is built below build/<compiler>-<key>, where the key follows from the flags, so that builds with different flags do not
# mix. BUILD=dir overrides it.

VERSION := 0.1.0
SOVERSION := 0

CC ?= cc
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
BINDIR ?= $(PREFIX)/bin
PKG_CONFIG ?= pkg-config
INSTALL ?= install

WARNINGS := -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wno-psabi
OPTIMIZE ?= -O2
CFLAGS ?= -g
# EXTRA is for sanitizers and -Werror: it reaches the compiler and the linker, engine included.
EXTRA ?=

TARGET := $(shell $(CC) -dumpmachine 2>/dev/null)
ENGINE_FLAGS := -O3 -fno-math-errno -fno-trapping-math -ffp-contract=off
ISAS := base
ifneq (,$(filter x86_64-%,$(TARGET)))
ISAS += v2 v3 v4
endif
KEY := $(shell printf '%s' '$(CC) $(TARGET) $(OPTIMIZE) $(CFLAGS) $(EXTRA) $(LDFLAGS) $(ENGINE_FLAGS) $(ISAS)' | cksum | cut -d' ' -f1)
BUILD ?= build/$(notdir $(firstword $(CC)))-$(KEY)

BASE_FLAGS = -std=gnu11 $(WARNINGS) $(CFLAGS) $(EXTRA) -fPIC -fvisibility=hidden -ffile-prefix-map='$(CURDIR)'=. -Iinclude -Isrc \
    -MMD -MP
# gcc computes what follows a clamp once for the bound and once for the rest, and blends all of it: a tenth of the time of GELU.
ENGINE_GCC := $(if $(findstring clang,$(shell $(CC) --version 2>/dev/null)),,-fno-tree-pre -fno-thread-jumps)
ENGINE_CFLAGS = $(BASE_FLAGS) $(ENGINE_FLAGS) $(ENGINE_GCC)

# The x87's extra digits would make an expression mean different things in different places.
ifneq (,$(filter i386-% i486-% i586-% i686-%,$(TARGET)))
BASE_FLAGS += -msse2 -mfpmath=sse
endif

FLAGS_base :=
FLAGS_v2 := -march=x86-64-v2
FLAGS_v3 := -march=x86-64-v3
FLAGS_v4 := -march=x86-64-v4 -mprefer-vector-width=512
HAVE := $(patsubst %,-DNF_HAVE_%,$(subst v,V,$(filter-out base,$(ISAS))))
SINGLE_f64 := 0
SINGLE_f32 := 1

ONCE := $(wildcard src/core/*.c src/io/*.c src/api/*.c)
ENGINE := $(wildcard src/engine/*.c src/engine/*/*.c)
ONCE_OBJECTS := $(ONCE:%.c=$(BUILD)/%.o)
ENGINE_OBJECTS :=

JANSSON_CFLAGS := $(shell $(PKG_CONFIG) --cflags jansson 2>/dev/null)
JANSSON_LIBS := $(or $(shell $(PKG_CONFIG) --libs jansson 2>/dev/null),-ljansson)

STATIC := $(BUILD)/libnflow.a
SHARED := $(BUILD)/libnflow.so.$(VERSION)

.PHONY: all help deps deps-check demo check examples tests bench install uninstall checkabi abi-baseline clean \
        check-asan check-tsan check-valgrind check-install check-header fuzz \
        check-openblas check-aarch64 check-base
.DEFAULT_GOAL := all

all: $(STATIC) $(SHARED) $(BUILD)/libnflow.pc ## build the libraries and the nflow command

help: ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

# ---- the library

$(BUILD)/src/%.o: src/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) $(OPTIMIZE) $(HAVE) $(JANSSON_CFLAGS) -c $< -o $@

define engine_rule
ENGINE_OBJECTS += $$(ENGINE:src/engine/%.c=$$(BUILD)/engine-$(1)-$(2)/%.o)
$$(BUILD)/engine-$(1)-$(2)/%.o: src/engine/%.c
	@mkdir -p $$(@D)
	$$(CC) $$(ENGINE_CFLAGS) $$(FLAGS_$(2)) -DNF_SINGLE_BUILD=$$(SINGLE_$(1)) -DNF_ISA=$(2) -c $$< -o $$@
endef
$(foreach p,f64 f32,$(foreach i,$(ISAS),$(eval $(call engine_rule,$(p),$(i)))))

OBJECTS = $(ONCE_OBJECTS) $(ENGINE_OBJECTS)

$(STATIC): $(OBJECTS)
	@rm -f $@
	@$(AR) rcs $@ $^

# Its calls of its own functions stay within it, whatever the host or another guest calls by the same names.
$(SHARED): $(OBJECTS) src/libnflow.map
	$(CC) -shared $(EXTRA) $(LDFLAGS) -Wl,-soname,libnflow.so.$(SOVERSION) -Wl,--version-script=src/libnflow.map -Wl,-z,defs -Wl,-Bsymbolic-functions \
	    $(OBJECTS) $(JANSSON_LIBS) -lpthread -lm -o $@
	@ln -sf libnflow.so.$(VERSION) $(BUILD)/libnflow.so.$(SOVERSION)
	@ln -sf libnflow.so.$(SOVERSION) $(BUILD)/libnflow.so

# The .pc file for building against the tree, as the examples do, and the one that is installed.
pc = sed -e 's|@PREFIX@|$(1)|' -e 's|@LIBDIR@|$(2)|' -e 's|@INCLUDEDIR@|$(3)|' -e 's|@VERSION@|$(VERSION)|' libnflow.pc.in

$(BUILD)/libnflow.pc: libnflow.pc.in Makefile
	@mkdir -p $(@D)
	@$(call pc,$(CURDIR),$(abspath $(BUILD)),$(CURDIR)/include) > $@

# ---- tests: plain ones once, those of engine internals for each precision and instruction set that this machine runs

TESTS_ALL := $(wildcard tests/test_*.c)
TESTS_ENGINE := $(foreach t,$(TESTS_ALL),$(if $(shell head -n 1 $(t) | grep engine-test),$(t)))
TESTS_PLAIN := $(filter-out $(TESTS_ENGINE),$(TESTS_ALL))
TEST_CFLAGS = $(shell $(PKG_CONFIG) --cflags check mpfr openblas 2>/dev/null)
TEST_LIBS = $(shell $(PKG_CONFIG) --libs check mpfr openblas 2>/dev/null) $(JANSSON_LIBS) -lpthread -lm
RUNS := $(shell sh scripts/isas.sh 2>/dev/null || echo base)
TEST_ISAS := $(filter $(RUNS),$(ISAS))
TEST_SUPPORT := $(filter-out $(TESTS_ALL),$(wildcard tests/*.c examples/toy.c examples/csv.c))
SUPPORT_OBJECTS := $(patsubst %.c,$(BUILD)/%.o,$(TEST_SUPPORT))

TEST_PROGRAMS := $(TESTS_PLAIN:tests/%.c=$(BUILD)/tests/%)
# Those that parse and allocate, the long ones first; arithmetic alone is left to the sanitizers, which are ten times as fast.
VALGRIND_PROGRAMS := $(patsubst %,$(BUILD)/tests/test_%,model limits safetensors schema file optimizer config api abi ode)

$(BUILD)/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) $(HAVE) -fno-trapping-math -O1 -Iexamples $(TEST_CFLAGS) -c $< -o $@

$(BUILD)/examples/%.o: examples/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) $(OPTIMIZE) -c $< -o $@

$(BUILD)/tests/test_%: $(BUILD)/tests/test_%.o $(SUPPORT_OBJECTS) $(STATIC)
	$(CC) $(EXTRA) $(LDFLAGS) $< $(SUPPORT_OBJECTS) $(STATIC) $(TEST_LIBS) -o $@

define engine_test_rule
TEST_PROGRAMS += $$(TESTS_ENGINE:tests/%.c=$$(BUILD)/tests/%-$(1)-$(2))
$$(BUILD)/tests/test_%-$(1)-$(2): tests/test_%.c $$(STATIC)
	@mkdir -p $$(@D)
	$$(CC) $$(ENGINE_CFLAGS) $$(FLAGS_$(2)) -DNF_SINGLE_BUILD=$$(SINGLE_$(1)) -DNF_ISA=$(2) $$(TEST_CFLAGS) $$(LDFLAGS) \
	    $$< $$(STATIC) $$(TEST_LIBS) -o $$@
endef
$(foreach p,f64 f32,$(foreach i,$(TEST_ISAS),$(eval $(call engine_test_rule,$(p),$(i)))))

# Run again with each lesser instruction set, by NFLOW_ISA.
ISA_PROGRAMS := $(patsubst %,$(BUILD)/tests/test_%,$(filter $(TESTS_PLAIN:tests/test_%.c=%),conformance golden rows bad_rows far_rows isa))
# A host with a pool of OpenMP's, where the compiler brings it.
ifneq (,$(findstring gcc,$(notdir $(CC)))$(filter cc,$(CC)))
$(BUILD)/tests/test_embedding $(BUILD)/tests/test_embedding.o: EXTRA += -fopenmp
endif
# It has the library in itself, too, and shows it to what it loads.
$(BUILD)/tests/test_embedding: LDFLAGS += -rdynamic

# The shared library, for the suite that loads it, and the command, for those that run it.
export NFLOW_LIBRARY = $(abspath $(SHARED))
export NFLOW_PROGRAM = $(abspath $(BUILD))/nflow

# Targets for fuzzing, whose seeds and findings run in every check: prerequisites are read where they stand, so these come first.
FUZZ := model csv calls npy checkpoint beside
FUZZ_ALL := $(FUZZ) load
FUZZ_SECONDS ?= 60
FUZZ_FILES := $(FUZZ_ALL:%=$(BUILD)/tests/fuzz/files_%)

tests: $(TEST_PROGRAMS)
$(BUILD)/tests/test_import: | $(BUILD)/nflow

deps: ## install what is missing to build, show the demo and run the tests
	@CC='$(CC)' sh scripts/deps.sh demo check

check: ## install what is missing, build, run every test
	@CC='$(CC)' sh scripts/deps.sh demo check
	@$(MAKE) --no-print-directory check-now

.PHONY: check-now check-once
check-now: check-once
	@for isa in $(filter-out $(lastword $(TEST_ISAS)),$(TEST_ISAS)); do echo "with NFLOW_ISA=$$isa"; \
	    NFLOW_ISA=$$isa sh scripts/run-tests.sh $(ISA_PROGRAMS) || exit 1; done
	@$(MAKE) --no-print-directory check-refused

# Every test and example, on the best instruction set only but for the engine's own suites.
check-once: all tests examples $(FUZZ_FILES)
	@sh scripts/run-tests.sh $(TEST_PROGRAMS)
	@for t in $(FUZZ_ALL); do $(BUILD)/tests/fuzz/files_$$t tests/fuzz/seeds/$$t tests/fuzz/findings/$$t || exit 1; done
	@sh scripts/run-examples.sh '$(abspath $(BUILD))/examples'
	@$(MAKE) --no-print-directory check-nflow

# ---- examples

EXAMPLE_SHARED := arguments toy csv plot gnuplot energies
EXAMPLES := $(filter-out $(EXAMPLE_SHARED),$(basename $(notdir $(wildcard examples/*.c))))
EXAMPLE_PARTS := $(patsubst %,$(BUILD)/examples/%.o,$(filter $(EXAMPLE_SHARED),$(basename $(notdir $(wildcard examples/*.c)))))
examples: $(EXAMPLES:%=$(BUILD)/examples/%) ## build the example programs

$(BUILD)/examples/%: $(BUILD)/examples/%.o $(EXAMPLE_PARTS) $(STATIC)
	$(CC) $(EXTRA) $(LDFLAGS) $< $(EXAMPLE_PARTS) $(STATIC) $(JANSSON_LIBS) -lpthread -lm -o $@

demo: ## install what is missing, build, train, draw; DATA=file.csv for data of your own
	@CC='$(CC)' sh scripts/deps.sh demo
	@$(MAKE) --no-print-directory $(BUILD)/examples/demo
	$(BUILD)/examples/demo $(if $(DATA),--data "$(DATA)") --output demo

# ---- fuzzing: the targets run their seeds and all findings in every check; with clang's libFuzzer they look for more

$(BUILD)/tests/fuzz/%.o: tests/fuzz/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) $(OPTIMIZE) -Iexamples -Itools -c $< -o $@

$(BUILD)/tests/fuzz/files_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/tests/fuzz/run_files.o $(BUILD)/examples/csv.o $(BUILD)/tools/npy.o $(STATIC)
	$(CC) $(EXTRA) $(LDFLAGS) $^ $(JANSSON_LIBS) -lpthread -lm -o $@

# Everything is instrumented, jansson is not. `fuzzer-no-link` instruments; only the link of a target brings libFuzzer's main. In the engine sums of int are not
# checked: they are the counters of unrolled loops, which clang then leaves as they are and compiles ten times as long; check-asan checks them.
SANITIZE_fuzz := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer

fuzz: ## look for new inputs for FUZZ_SECONDS a target (60), with clang and libFuzzer; FUZZ chooses targets
	@$(MAKE) --no-print-directory CC=clang EXTRA='$(SANITIZE_fuzz)' ISAS='base' HAVE= \
	    ENGINE_FLAGS='$(subst -O3,-O1,$(ENGINE_FLAGS)) -fno-sanitize=signed-integer-overflow' fuzz-now

.PHONY: fuzz-now
fuzz-now: $(FUZZ:%=$(BUILD)/tests/fuzz/fuzz_%)
	@printf '%s\n' $(FUZZ) | xargs -P "$$(nproc 2>/dev/null || echo 1)" -I{} sh scripts/fuzz.sh {} $(BUILD)/tests/fuzz/fuzz_{} $(FUZZ_SECONDS)

$(BUILD)/tests/fuzz/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/examples/csv.o $(BUILD)/tools/npy.o $(STATIC)
	$(CC) $(EXTRA) -fsanitize=fuzzer $(LDFLAGS) $^ $(JANSSON_LIBS) -lpthread -lm -o $@

# ---- slower gates

SANITIZE_asan := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
SANITIZE_tsan := -fsanitize=thread
SANITIZED_ISAS := $(sort base $(lastword $(TEST_ISAS)))

# The engine in two builds, the plain one and this machine's best; at -O2, which takes half of -O3's time to build and runs as fast under the sanitizers.
check-asan: ## the tests under the address and undefined-behaviour sanitizers
	@NFLOW_TEST_BRIEF=1 $(MAKE) --no-print-directory EXTRA='$(SANITIZE_asan)' OPTIMIZE=-O1 ENGINE_FLAGS='$(subst -O3,-O2,$(ENGINE_FLAGS))' \
	    ISAS='$(SANITIZED_ISAS)' TEST_ISAS='$(SANITIZED_ISAS)' check-once

check-tsan: ## the tests with threads under the thread sanitizer
	@NFLOW_TEST_BRIEF=1 $(MAKE) --no-print-directory EXTRA='$(SANITIZE_tsan)' OPTIMIZE=-O1 ENGINE_FLAGS='$(subst -O3,-O2,$(ENGINE_FLAGS))' \
	    ISAS='$(SANITIZED_ISAS)' check-threads

# Those that start threads; OpenBLAS and OpenMP, which are not instrumented and have threads of their own, are in none of them (as they are in `embedding`).
THREAD_PROGRAMS := $(patsubst %,$(BUILD)/tests/test_%,$(filter $(TESTS_PLAIN:tests/test_%.c=%),rows bad_rows far_rows fit fit_settings fit_failures checkpoint ranks rank_failures rank_reverse_kl))
.PHONY: check-threads
check-threads: $(SHARED) $(THREAD_PROGRAMS) $(BUILD)/examples/embed
	@sh scripts/run-tests.sh $(THREAD_PROGRAMS)
	$(BUILD)/examples/embed

check-valgrind: all tests ## the suites that parse and allocate under valgrind
	@NFLOW_TEST_BRIEF=1 WRAP='valgrind -q --error-exitcode=99 --leak-check=full' CK_FORK=no NFLOW_ISA=v3 sh scripts/run-tests.sh $(VALGRIND_PROGRAMS)

$(BUILD)/tests/openblas-host: tests/openblas/host.c $(STATIC)
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) -O1 $(TEST_CFLAGS) $(LDFLAGS) $< $(STATIC) $(TEST_LIBS) -o $@

check-openblas: $(BUILD)/tests/openblas-host ## flows in a host that uses OpenBLAS: each of Debian's three builds of it
	@sh scripts/check-openblas.sh $<

check-base: ## the tests with the plain build of the engine alone
	@$(MAKE) --no-print-directory ISAS=base BUILD='$(BUILD)-base' check-now

# With Debian's packages gcc-aarch64-linux-gnu, qemu-user and, of the architecture arm64, libjansson-dev, check, libmpfr-dev and libopenblas-serial-dev.
# Suites that only spend time, and those that read /proc or confine themselves, are left to the machine's own processor.
AARCH64 := CC=aarch64-linux-gnu-gcc PKG_CONFIG_LIBDIR=/usr/lib/aarch64-linux-gnu/pkgconfig:/usr/share/pkgconfig
AARCH64_SLOW := quiet random toy

check-aarch64: ## cross-build for aarch64 and run the tests under qemu-user
	@env $(AARCH64) $(MAKE) --no-print-directory CC=aarch64-linux-gnu-gcc check-emulated

.PHONY: check-emulated
EMULATED := $(foreach t,$(TEST_PROGRAMS),$(if $(filter $(AARCH64_SLOW:%=test_%),$(notdir $(t))),,$(t)))
check-emulated: all $(EMULATED)
	@WRAP=qemu-aarch64 CK_TIMEOUT_MULTIPLIER=20 sh scripts/run-tests.sh $(EMULATED)
check-tidy: ## clang-tidy
	@sh scripts/analyse.sh tidy
check-cppcheck: ## cppcheck
	@sh scripts/analyse.sh cppcheck
check-analyzer: ## gcc -fanalyzer
	@sh scripts/analyse.sh gcc
.PHONY: check-tidy check-cppcheck check-analyzer coverage coverage-now

# Which lines and branches the tests reach; the engine in its two builds for this machine's baseline. Counted with atomic updates, because of threads.
COVERAGE := --coverage -fprofile-update=atomic
coverage: ## line coverage of the library (97 % asked) and branch coverage of src/io, with gcovr
	@NFLOW_TEST_BRIEF=1 NFLOW_ISA=base $(MAKE) --no-print-directory EXTRA='$(COVERAGE)' ISAS=base HAVE= TEST_ISAS=base OPTIMIZE=-O0 ENGINE_FLAGS='$(subst -O3,-O1,$(ENGINE_FLAGS))' \
	    CK_TIMEOUT_MULTIPLIER=10 coverage-now
coverage-now: all tests $(FUZZ_FILES)
	@find $(BUILD) -name '*.gcda' -delete
	@sh scripts/run-tests.sh $(TEST_PROGRAMS) >$(BUILD)/coverage-tests.log || { tail -n 40 $(BUILD)/coverage-tests.log; exit 1; }
	@for t in $(FUZZ_ALL); do $(BUILD)/tests/fuzz/files_$$t tests/fuzz/seeds/$$t tests/fuzz/findings/$$t; done
	@sh scripts/coverage.sh $(BUILD)

# 32 bits and big-endian, with Debian's cross compilers, its libraries for those processors, and qemu's user mode. Files and what stands on them: the
# suites that need Check and jansson alone.
CROSS_SUITES := file safetensors limits golden checkpoint forged model philox
CROSS_LIBS := -lcheck -lsubunit $(JANSSON_LIBS) -lrt -lpthread -lm
check-cross: check-i386 check-s390x ## the suites of files on a 32-bit and on a big-endian processor

check-i386:
	@$(MAKE) --no-print-directory CC=i686-linux-gnu-gcc TEST_CFLAGS= TEST_LIBS='$(CROSS_LIBS)' check-suites

# In brief, as under valgrind: the emulator takes a hundred times as long. Strings are compared by calls, which the suite of limits counts; gcc has
# an instruction for it there.
check-s390x:
	@NFLOW_TEST_BRIEF=1 WRAP='qemu-s390x' CK_TIMEOUT_MULTIPLIER=30 $(MAKE) --no-print-directory CC=s390x-linux-gnu-gcc \
	    CFLAGS='$(CFLAGS) -fno-builtin-strcmp -fno-builtin-strncmp' TEST_CFLAGS= TEST_LIBS='$(CROSS_LIBS)' check-suites

.PHONY: check-cross check-i386 check-s390x check-suites
check-suites: $(CROSS_SUITES:%=$(BUILD)/tests/test_%)
	@sh scripts/run-tests.sh $^

check-header: $(SHARED) ## the header alone as C99, C11 and C++17; the exported symbols against it
	@CC='$(CC)' sh tests/check_header.sh $(SHARED)

check-install: all ## install into an empty prefix and build an outside program against it
	@CC='$(CC)' sh tests/check_install.sh $(BUILD)

checkabi: $(SHARED) ## compare the library's ABI with the committed baseline, and test that comparison
	@sh scripts/abi.sh check $(SHARED)
	@CC='$(CC)' sh tests/check_abi.sh $(SHARED)

abi-baseline: $(SHARED) ## write the baseline anew
	@sh scripts/abi.sh write $(SHARED)

# ---- installing

install: all ## into PREFIX (DESTDIR is put before it)
	$(INSTALL) -d $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(LIBDIR)/pkgconfig
	$(INSTALL) -m 644 include/nflow.h $(DESTDIR)$(INCLUDEDIR)/nflow.h
	$(INSTALL) -m 644 $(STATIC) $(DESTDIR)$(LIBDIR)/libnflow.a
	$(INSTALL) -m 755 $(SHARED) $(DESTDIR)$(LIBDIR)/libnflow.so.$(VERSION)
	ln -sf libnflow.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libnflow.so.$(SOVERSION)
	ln -sf libnflow.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libnflow.so
	@rm -f $(BUILD)/installed.pc # it may be root's
	$(call pc,$(PREFIX),$(LIBDIR),$(INCLUDEDIR)) > $(BUILD)/installed.pc
	$(INSTALL) -m 644 $(BUILD)/installed.pc $(DESTDIR)$(LIBDIR)/pkgconfig/libnflow.pc

uninstall: ## remove what install put there
	rm -f $(DESTDIR)$(INCLUDEDIR)/nflow.h $(DESTDIR)$(LIBDIR)/libnflow.a $(DESTDIR)$(LIBDIR)/libnflow.so* \
	    $(DESTDIR)$(LIBDIR)/pkgconfig/libnflow.pc

PYTHON ?= python3
bench: ## time the library, and PyTorch beside it where PYTHON has it: build/bench.jsonl and a table
	@$(MAKE) --no-print-directory $(BENCH_KERNELS) $(BENCHES:%=$(BUILD)/bench/%)
	@mkdir -p build
	@PYTHON='$(PYTHON)' sh bench/run.sh $(BUILD)/bench build/bench.jsonl

# bench_*.c are written against nflow.h; engine_*.c time the engine's inside, in each precision on the best instruction set of this machine.
BENCHES := $(basename $(notdir $(wildcard bench/bench_*.c)))
BENCHES_ENGINE := $(basename $(notdir $(wildcard bench/engine_*.c)))
BEST_ISA := $(lastword $(TEST_ISAS))
BENCH_KERNELS := $(BENCHES_ENGINE:%=$(BUILD)/bench/%-f32) $(BENCHES_ENGINE:%=$(BUILD)/bench/%-f64)
.PHONY: bench-kernels bench-growth
bench-kernels: $(BENCH_KERNELS) ## time the dense kernels beside OpenBLAS, the elementary functions and the planar root: build/kernels.jsonl
	@mkdir -p build
	@for b in $^; do $$b || exit 1; done >build/kernels.jsonl; awk -f bench/table.awk build/kernels.jsonl

bench-growth: $(BUILD)/bench/bench_growth ## how the cost grows: docs/figures/cost.svg
	@mkdir -p build
	$< >build/growth.txt
	gnuplot -e 'data="build/growth.txt"; output="docs/figures/cost.svg"' bench/growth.gp

define engine_bench_rule
$$(BUILD)/bench/engine_%-$(1): bench/engine_%.c bench/measure.c bench/measure.h $$(STATIC)
	@mkdir -p $$(@D)
	$$(CC) $$(ENGINE_CFLAGS) $$(FLAGS_$$(BEST_ISA)) -DNF_SINGLE_BUILD=$$(SINGLE_$(1)) -DNF_ISA=$$(BEST_ISA) -DBENCH_ISA='"$$(BEST_ISA)"' \
	    -DBENCH_BLAS $$(TEST_CFLAGS) $$< bench/measure.c $$(STATIC) $$(TEST_LIBS) -o $$@
endef
$(foreach p,f64 f32,$(eval $(call engine_bench_rule,$(p))))

# These measure how good a fit is, not how long a call takes; they run for minutes, and only when asked.
BENCH_QUALITY := $(BUILD)/bench/nll $(BUILD)/bench/matching $(BUILD)/bench/reverse_kl $(BUILD)/bench/gaussian
.PHONY: bench-quality
bench-quality: $(BENCH_QUALITY) ## held-out likelihoods on the CSV files in DATA=folder, reverse KL, a Gaussian
	$(BUILD)/bench/nll "$(DATA)"
	$(BUILD)/bench/matching "$(DATA)"
	$(BUILD)/bench/reverse_kl
	$(BUILD)/bench/gaussian

$(BENCH_QUALITY): $(BUILD)/bench/%: bench/%.c bench/held_out.c bench/held_out.h $(BUILD)/examples/csv.o $(BUILD)/examples/energies.o $(STATIC)
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) $(OPTIMIZE) -Iexamples $(filter-out %.h,$^) $(JANSSON_LIBS) -lpthread -lm -o $@

$(BUILD)/bench/%: bench/%.c bench/measure.c bench/measure.h $(BUILD)/examples/toy.o $(STATIC)
	@mkdir -p $(@D)
	$(CC) $(ENGINE_CFLAGS) -Iexamples $(TEST_CFLAGS) $< bench/measure.c $(BUILD)/examples/toy.o $(STATIC) $(TEST_LIBS) -o $@

include bindings/bindings.mk

include tools/tools.mk

include docs/docs.mk

include src/mpi/mpi.mk

include debian/debian.mk

# Recipes take folders as words: of a name with a blank they would make two, and uninstall would remove what others put into the first.
FOLDERS = $(DESTDIR)$(PREFIX)$(LIBDIR)$(INCLUDEDIR)$(BINDIR)$(MANDIR)$(DATADIR)$(CMAKEDIR)$(COMPLETIONDIR)
ifneq ($(filter install% uninstall%,$(MAKECMDGOALS)),)
ifneq ($(words $(FOLDERS)),1)
$(error a folder to install into has a blank in its name, in DESTDIR, PREFIX, LIBDIR or another; make takes none)
endif
endif

clean: ## remove build/, where all builds are unless BUILD says otherwise
	rm -rf build

include tests/gates.mk

.SECONDARY:
-include $(wildcard $(BUILD)/src/*/*.d $(BUILD)/engine-*/*.d $(BUILD)/engine-*/*/*.d $(BUILD)/tests/*.d $(BUILD)/tests/*/*.d $(BUILD)/examples/*.d)
