# The documentation: the reference.

.PHONY: docs

docs: ## the reference of the header, with Doxygen; a warning is an error
	@sh scripts/deps.sh docs
	@mkdir -p $(BUILD)/docs
	@(cat docs/Doxyfile; echo "OUTPUT_DIRECTORY=$(BUILD)/docs"; echo "PROJECT_NUMBER=$(VERSION)") | doxygen -
	@sh scripts/check-reference.sh
	@echo "$(BUILD)/docs/html/index.html"

.PHONY: check-house
check-house: all ## the drawing of the architecture against what src/ includes and links
	@sh scripts/check-house.sh $(CURDIR)/$(BUILD)
