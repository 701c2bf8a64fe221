# The slower gates that are not of the top Makefile: fuzzing the loader fast, and under AFL++.

# What a load touches is instrumented, the engine is not; comparisons are not traced, which costs most of the time. See tests/fuzz/fuzz_load.c for what stands
# in for the address sanitizer.
COVERAGE_load := inline-8bit-counters,pc-table
SANITIZE_load := -fsanitize=undefined -fno-sanitize-recover=all -fsanitize-coverage=$(COVERAGE_load)
.PHONY: fuzz-load fuzz-afl fuzz-afl-now
fuzz-load: ## load mutated model files for FUZZ_SECONDS, many times as fast as `fuzz`
	@FUZZ_FLAGS='-max_len=1024 -reload=0' $(MAKE) --no-print-directory CC=clang EXTRA='$(SANITIZE_load)' ISAS=base HAVE= FUZZ=load \
	    ENGINE_FLAGS='$(ENGINE_FLAGS) -fno-sanitize=all -fno-sanitize-coverage=$(COVERAGE_load)' fuzz-now

# Debian's package afl++; its compiler brings a driver for libFuzzer's entry points.
fuzz-afl: ## the targets under AFL++ for FUZZ_SECONDS each
	@$(MAKE) --no-print-directory CC=afl-clang-fast ISAS=base HAVE= ENGINE_FLAGS='$(subst -O3,-O1,$(ENGINE_FLAGS))' FUZZ='$(FUZZ_ALL)' fuzz-afl-now
fuzz-afl-now: $(FUZZ:%=$(BUILD)/tests/fuzz/fuzz_%)
	@for t in $(FUZZ); do sh scripts/fuzz-afl.sh $$t $(BUILD)/tests/fuzz/fuzz_$$t $(FUZZ_SECONDS) || exit 1; done

# What is refused, and with which words: the tables of docs/refused.md are what the suites met.
REFUSED_SUITES := $(BUILD)/tests/test_safetensors $(BUILD)/tests/test_file
.PHONY: refused check-refused
refused: $(REFUSED_SUITES) ## write docs/refused.md
	@sh scripts/refused.sh $(REFUSED_SUITES) >docs/refused.md
check-refused: $(REFUSED_SUITES)
	@sh scripts/refused.sh $(REFUSED_SUITES) | diff docs/refused.md - || { echo 'docs/refused.md is not what the library says: make refused'; exit 1; }

# The three static analysers, for a gate: two CPU minutes, of which clang-tidy has most.
.PHONY: check-analysers
check-analysers: ## clang-tidy, cppcheck and gcc -fanalyzer, which must be silent but for scripts/analysers.allow
	@sh scripts/deps.sh analysers
	@sh scripts/analyse.sh gcc
	@sh scripts/analyse.sh cppcheck
	@sh scripts/analyse.sh tidy
