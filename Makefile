# All jobs are in make.py, which needs nothing but Python 3.11 or newer.
PYTHON ?= python3
.PHONY: help run test lab bench lint wheelhouse lock clean
help run test lab bench lint wheelhouse lock clean:
	@$(PYTHON) make.py $@
