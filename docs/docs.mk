# The documentation: the reference, the pictures, and the test of what the pages say.

MANDIR ?= $(PREFIX)/share/man
DOCS_PAGES := $(wildcard docs/man/*.3)
FIGURES ?= docs/figures

.PHONY: docs check-docs check-house gallery install-docs uninstall-docs

docs: ## the reference of the headers, with Doxygen; a warning is an error
	@sh scripts/deps.sh docs
	@mkdir -p $(BUILD)/docs
	@(cat docs/Doxyfile; echo "OUTPUT_DIRECTORY=$(BUILD)/docs"; echo "PROJECT_NUMBER=$(VERSION)") | doxygen -
	@sh scripts/check-reference.sh
	@echo "$(BUILD)/docs/html/index.html"

check-house: all ## the drawing of the architecture against what src/ includes and links
	@sh scripts/check-house.sh '$(abspath $(BUILD))'

# About a minute once the library is built.
check-docs: docs check-house ## run every code block of README and docs/, check links, targets, the drawn house, man pages and the reference
	@CC='$(CC)' sh scripts/deps.sh demo
	@CC='$(CC)' sh scripts/check-docs.sh '$(abspath $(BUILD))'

$(BUILD)/docs/gallery: docs/gallery/gallery.c $(BUILD)/examples/toy.o $(BUILD)/examples/energies.o $(STATIC)
	@mkdir -p $(@D)
	$(CC) $(BASE_FLAGS) $(OPTIMIZE) -Iexamples $^ $(JANSSON_LIBS) -lpthread -lm -o $@

# Two minutes: twenty-four fits, of which the continuous flows take most.
gallery: $(BUILD)/docs/gallery ## train and draw the pictures of docs/gallery.md into FIGURES (docs/figures)
	@CC='$(CC)' sh scripts/deps.sh demo
	@mkdir -p $(BUILD)/gallery $(FIGURES)
	@for part in fits energies paths; do $< $$part $(BUILD)/gallery || exit 1; done
	@$(MAKE) --no-print-directory gallery-draw

.PHONY: gallery-draw
gallery-draw:
	@for picture in fits energies routes cnf_path; do \
	    gnuplot -e "folder='$(BUILD)/gallery'; output='$(FIGURES)/$$picture.png'" docs/gallery/$$picture.gp || exit 1; done

install: install-docs
install-docs:
	$(INSTALL) -d $(DESTDIR)$(MANDIR)/man3
	$(INSTALL) -m 644 $(DOCS_PAGES) $(DESTDIR)$(MANDIR)/man3

uninstall: uninstall-docs
uninstall-docs:
	rm -f $(DOCS_PAGES:docs/man/%=$(DESTDIR)$(MANDIR)/man3/%)
