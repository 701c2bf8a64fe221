# The `nflow` command: everything in tools/*.c is linked into one program, against the static library, so that it runs where it is built. What it shares with the examples
# (the reader of tables, the toy densities, gnuplot) stays with them.

TOOLS := $(wildcard tools/*.c)
TOOL_PARTS := $(patsubst %.c,$(BUILD)/%.o,$(filter-out tools/nflow.c,$(TOOLS))) $(patsubst %,$(BUILD)/examples/%.o,csv toy gnuplot)
NFLOW := $(BUILD)/nflow

.PHONY: tools
all: $(NFLOW)
tools: $(NFLOW) ## build the nflow command

$(BUILD)/tools/%.o: tools/%.c
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) $(OPTIMIZE) -Iexamples $(JANSSON_CFLAGS) -c $< -o $@

$(NFLOW): $(BUILD)/tools/nflow.o $(TOOL_PARTS) $(STATIC)
	$(CC) $(EXTRA) $(LDFLAGS) $^ $(JANSSON_LIBS) -lpthread -lm -o $@

-include $(wildcard $(BUILD)/tools/*.d)
