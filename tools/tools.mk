# The `nflow` command: all of tools/*.c in one program. It is linked with the static library, so that it runs where it is built and wherever it is
# installed; TOOLS_LIBRARY='$(SHARED)' links it with the shared one, as a distribution does. What it shares with the examples (the reader of
# tables, the toy densities, gnuplot) stays with them.

TOOLS := $(wildcard tools/*.c)
TOOL_PARTS := $(patsubst %.c,$(BUILD)/%.o,$(filter-out tools/nflow.c,$(TOOLS))) $(patsubst %,$(BUILD)/examples/%.o,csv toy gnuplot)
TOOLS_LIBRARY ?= $(STATIC)
NFLOW := $(BUILD)/nflow

MANDIR ?= $(PREFIX)/share/man
COMPLETIONDIR ?= $(PREFIX)/share/bash-completion/completions
TOOL_PAGES := $(wildcard tools/man/*.1)

.PHONY: tools install-tools uninstall-tools check-nflow
all: $(NFLOW)
tools: $(NFLOW) ## build the nflow command

$(BUILD)/tools/%.o: tools/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) $(OPTIMIZE) -Iexamples $(JANSSON_CFLAGS) -c $< -o $@

$(NFLOW): $(BUILD)/tools/nflow.o $(TOOL_PARTS) $(TOOLS_LIBRARY)
	$(CC) $(EXTRA) $(LDFLAGS) $^ $(JANSSON_LIBS) -lpthread -lm -o $@

# Its suites, tests/test_tool_*.c, are linked with everything but its main.
$(BUILD)/tests/test_tool_%.o: tests/test_tool_%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) -fno-trapping-math -O1 -Iexamples -Itools $(TEST_CFLAGS) $(JANSSON_CFLAGS) -c $< -o $@

$(BUILD)/tests/test_tool_%: $(BUILD)/tests/test_tool_%.o $(BUILD)/tests/support.o $(TOOL_PARTS) $(STATIC)
	$(CC) $(EXTRA) $(LDFLAGS) $^ $(TEST_LIBS) -o $@

check-nflow: $(NFLOW) ## the built command, used as a user would
	@sh tests/check_nflow.sh '$(abspath $(NFLOW))'

install: install-tools
install-tools: $(NFLOW)
	$(INSTALL) -d $(DESTDIR)$(BINDIR) $(DESTDIR)$(MANDIR)/man1 $(DESTDIR)$(COMPLETIONDIR)
	$(INSTALL) -m 755 $(NFLOW) $(DESTDIR)$(BINDIR)/nflow
	$(INSTALL) -m 644 $(TOOL_PAGES) $(DESTDIR)$(MANDIR)/man1
	$(INSTALL) -m 644 tools/nflow.bash $(DESTDIR)$(COMPLETIONDIR)/nflow

uninstall: uninstall-tools
uninstall-tools:
	rm -f $(DESTDIR)$(BINDIR)/nflow $(TOOL_PAGES:tools/man/%=$(DESTDIR)$(MANDIR)/man1/%) $(DESTDIR)$(COMPLETIONDIR)/nflow

-include $(wildcard $(BUILD)/tools/*.d)
