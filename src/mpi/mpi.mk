# libnflow_mpi, a companion that nothing else needs: one library for each MPI of MPIS, with the flags of that MPI's pkg-config module.

MPIS ?= openmpi mpich
MODULE_openmpi ?= ompi-c
MODULE_mpich ?= mpich

MPI_SOURCES := $(wildcard src/mpi/*.c)
mpi_shared = $(BUILD)/libnflow_mpi_$(1).so.$(VERSION)
mpi_static = $(BUILD)/libnflow_mpi_$(1).a
mpi_pc = sed -e 's|@MPI@|$(1)|g' -e 's|@MODULE@|$(MODULE_$(1))|' -e 's|@PREFIX@|$(2)|' -e 's|@LIBDIR@|$(3)|' -e 's|@INCLUDEDIR@|$(4)|' \
    -e 's|@VERSION@|$(VERSION)|' src/mpi/nflow-mpi.pc.in

.PHONY: mpi install-mpi uninstall-mpi check-mpi bench-scale

mpi: all $(foreach m,$(MPIS),$(call mpi_shared,$(m)) $(call mpi_static,$(m))) ## build libnflow_mpi for each MPI of MPIS (openmpi mpich)

# The headers of an MPI are not held to this library's warnings.
define mpi_rule
$$(BUILD)/mpi-$(1)/%.o: src/mpi/%.c
	@mkdir -p $$(@D)
	$$(CC) $$(BASE_FLAGS) $$(OPTIMIZE) $$$$($$(PKG_CONFIG) --cflags $$(MODULE_$(1)) | sed 's/-I/-isystem /g') -c $$< -o $$@

$(call mpi_static,$(1)): $$(MPI_SOURCES:src/mpi/%.c=$$(BUILD)/mpi-$(1)/%.o)
	@rm -f $$@
	@$$(AR) rcs $$@ $$^

$(call mpi_shared,$(1)): $$(MPI_SOURCES:src/mpi/%.c=$$(BUILD)/mpi-$(1)/%.o) src/mpi/libnflow_mpi.map $$(SHARED)
	$$(CC) -shared $$(EXTRA) $$(LDFLAGS) -Wl,-soname,libnflow_mpi_$(1).so.$$(SOVERSION) -Wl,--version-script=src/mpi/libnflow_mpi.map -Wl,-z,defs \
	    $$(filter %.o,$$^) $$(SHARED) $$$$($$(PKG_CONFIG) --libs $$(MODULE_$(1))) -o $$@
	@ln -sf $$(notdir $$@) $$(BUILD)/libnflow_mpi_$(1).so.$$(SOVERSION)
	@ln -sf libnflow_mpi_$(1).so.$$(SOVERSION) $$(BUILD)/libnflow_mpi_$(1).so
endef
$(foreach m,$(MPIS),$(eval $(call mpi_rule,$(m))))

install-mpi: install mpi ## libnflow and libnflow_mpi into PREFIX
	$(INSTALL) -m 644 include/nflow_mpi.h $(DESTDIR)$(INCLUDEDIR)/nflow_mpi.h
	@set -e; $(foreach m,$(MPIS),\
	    $(INSTALL) -m 644 $(call mpi_static,$(m)) $(DESTDIR)$(LIBDIR); \
	    $(INSTALL) -m 755 $(call mpi_shared,$(m)) $(DESTDIR)$(LIBDIR); \
	    ln -sf libnflow_mpi_$(m).so.$(VERSION) $(DESTDIR)$(LIBDIR)/libnflow_mpi_$(m).so.$(SOVERSION); \
	    ln -sf libnflow_mpi_$(m).so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libnflow_mpi_$(m).so; \
	    rm -f $(BUILD)/nflow-mpi-$(m).pc; \
	    $(call mpi_pc,$(m),$(PREFIX),$(LIBDIR),$(INCLUDEDIR)) > $(BUILD)/nflow-mpi-$(m).pc; \
	    $(INSTALL) -m 644 $(BUILD)/nflow-mpi-$(m).pc $(DESTDIR)$(LIBDIR)/pkgconfig;)

uninstall-mpi: uninstall ## remove what install-mpi put there
	rm -f $(DESTDIR)$(INCLUDEDIR)/nflow_mpi.h $(DESTDIR)$(LIBDIR)/libnflow_mpi_* $(DESTDIR)$(LIBDIR)/pkgconfig/nflow-mpi-*.pc

check-mpi: ## install OpenMPI and MPICH where they are missing, and run the tests of libnflow_mpi with 1 to 4 processes of each
	@sh scripts/deps.sh build $(MPIS)
	@$(MAKE) --no-print-directory mpi
	@CC='$(CC)' sh scripts/check-mpi.sh $(BUILD) $(MPIS)

-include $(wildcard $(BUILD)/mpi-*/*.d)

# The cost of sums in a fixed order: ranks as threads, by the processor time of each; processes, by the clock. And what a cluster would make of it.
bench-scale: $(BUILD)/bench/scale ## efficiency on a cluster by a calibrated model: docs/figures/scale.svg; NETWORK="latency_us overhead_us GB/s"
	@mkdir -p build
	$< $(NETWORK) >build/scale.txt
	gnuplot -e 'data="build/scale.txt"; output="docs/figures/scale.svg"' bench/scale.gp

.PHONY: bench-ranks bench-mpi
bench-ranks: $(BUILD)/bench/ranks ## processor time of a fit's step on ranks that are threads, in both modes
	$<

$(BUILD)/bench/ranks: bench/ranks.c bench/measure.c $(BUILD)/tests/ranks.o $(STATIC)
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) $(ENGINE_FLAGS) -Itests bench/ranks.c bench/measure.c $(BUILD)/tests/ranks.o $(STATIC) $(TEST_LIBS) -o $@

bench-mpi: mpi ## seconds and memory of a fit's step on 1, 2 and 4 processes of each MPI
	@CC='$(CC)' sh scripts/bench-mpi.sh $(BUILD) $(MPIS)
