# From Python ≥ 3.11 and pip alone: `make quickstart`, `make test`, `make docs`.

PYTHON ?= python3
VENV ?= .venv
# A version known to work, installed first because the others would pull in the newest; a torch that is there stays. Set
# the build for your GPU here.
TORCH ?= torch==2.13.0
# All tests take one thread of the CPU. Files stay in their order: sorted by the number of tests, the files with few and
# long ones (distributed, jobs) would be the last.
PARALLEL ?= --numprocesses auto --maxprocesses 8 --no-loadscope-reorder

.PHONY: quickstart test test-slow test-lowest docs

quickstart: $(VENV)/quickstart
	$(VENV)/bin/accelerate launch scripts/distill.py configs/quickstart.yaml

test: $(VENV)/test
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/mypy
	$(VENV)/bin/pytest $(PARALLEL)

# Longer tests, the notebook among them, and variants of the others.
test-slow: $(VENV)/test
	$(VENV)/bin/pytest $(PARALLEL) -m slow

# The tests with the oldest libraries of Hugging Face that pyproject.toml admits.
test-lowest: $(VENV)-lowest/test
	$(VENV)-lowest/bin/pip install transformers==5.17.0 accelerate==1.12.0 datasets==4.0.0 huggingface_hub==1.31.0
	$(VENV)-lowest/bin/pytest $(PARALLEL)

# The pages, in docs/_build/html/index.html; a warning is an error.
docs: $(VENV)/docs
	$(VENV)/bin/sphinx-build -W --keep-going -q docs docs/_build/html

# An environment with the extra of this name; the file itself only marks that it is complete.
$(VENV)/quickstart $(VENV)/test $(VENV)/docs $(VENV)-lowest/test: pyproject.toml
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/python -c "import torch" 2>/dev/null || $(@D)/bin/pip install "$(TORCH)"
	$(@D)/bin/pip install --editable ".[$(@F)]"
	touch $@
