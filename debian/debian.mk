# Debian's packages.

# What a build of the package tests: the suites that need Check and jansson alone, the command, and one program. Less than a minute.
PACKAGE_SUITES := $(CROSS_SUITES) rows random
.PHONY: check-package deb check-deb
check-package:
	@$(MAKE) --no-print-directory TEST_CFLAGS= TEST_LIBS='$(CROSS_LIBS)' check-package-now
.PHONY: check-package-now
check-package-now: $(PACKAGE_SUITES:%=$(BUILD)/tests/test_%) $(NFLOW) $(BUILD)/examples/fit_and_sample
	@sh scripts/run-tests.sh $(PACKAGE_SUITES:%=$(BUILD)/tests/test_%)
	$(BUILD)/examples/fit_and_sample
	@LD_LIBRARY_PATH='$(abspath $(BUILD))' $(NFLOW) --version

deb: ## Debian packages into build/deb
	@sh scripts/check-deb.sh build

# Three minutes on two cores.
check-deb: ## build Debian's packages from a clean clone, lint, install, try and remove them
	@sh scripts/check-deb.sh
