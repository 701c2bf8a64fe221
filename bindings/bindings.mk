# Ways into the library from CMake, C++, Fortran and Python: what is installed, and the check that builds and runs each.

DATADIR ?= $(PREFIX)/share
CMAKEDIR ?= $(LIBDIR)/cmake/nflow
CXX ?= g++
POINTER_8 := $(filter x86_64-% aarch64-% s390x-% powerpc64% riscv64-% loongarch64-% mips64%,$(TARGET))

# The header as seen from the folder of the config file: a path that survives a move of the whole tree.
config = sed -e 's|@VERSION@|$(VERSION)|g' -e 's|@SOVERSION@|$(SOVERSION)|g' -e 's|@POINTER@|$(if $(POINTER_8),8,4)|g' \
    -e "s|@INCLUDEDIR@|$$(realpath -m -s --relative-to='$(CMAKEDIR)' '$(INCLUDEDIR)')|g" bindings/cmake/$(1).in

.PHONY: install-bindings uninstall-bindings check-bindings
install: install-bindings
uninstall: uninstall-bindings

install-bindings:
	$(INSTALL) -d $(DESTDIR)$(INCLUDEDIR) $(DESTDIR)$(CMAKEDIR) $(DESTDIR)$(DATADIR)/nflow
	$(INSTALL) -m 644 bindings/cpp/nflow.hpp $(DESTDIR)$(INCLUDEDIR)/nflow.hpp
	$(INSTALL) -m 644 bindings/fortran/nflow.f90 bindings/python/nflow.py tools/import/export_torch.py $(DESTDIR)$(DATADIR)/nflow
	@rm -f $(BUILD)/nflow-config.cmake $(BUILD)/nflow-config-version.cmake # which may be root's
	$(call config,nflow-config.cmake) > $(BUILD)/nflow-config.cmake
	$(call config,nflow-config-version.cmake) > $(BUILD)/nflow-config-version.cmake
	$(INSTALL) -m 644 $(BUILD)/nflow-config.cmake $(BUILD)/nflow-config-version.cmake $(DESTDIR)$(CMAKEDIR)

uninstall-bindings:
	rm -f $(DESTDIR)$(INCLUDEDIR)/nflow.hpp $(DESTDIR)$(CMAKEDIR)/nflow-config.cmake $(DESTDIR)$(CMAKEDIR)/nflow-config-version.cmake \
	    $(DESTDIR)$(DATADIR)/nflow/nflow.f90 $(DESTDIR)$(DATADIR)/nflow/nflow.py $(DESTDIR)$(DATADIR)/nflow/export_torch.py
	rmdir $(DESTDIR)$(CMAKEDIR) $(DESTDIR)$(DATADIR)/nflow 2>/dev/null || true

check-bindings: ## install what is missing; CMake, C++, Fortran and Python against the library and docs/bindings.md
	@CC='$(CC)' sh scripts/deps.sh build bindings
	@$(MAKE) --no-print-directory all
	@CC='$(CC)' sh bindings/check.sh $(BUILD)
