# The README's two commands; one that executes the notebooks and saves them with their outputs; one that builds the
# documentation as a website, where every warning and every broken link is an error; and one that tries an installed wheel.
# All set up .venv first, when it is missing or pyproject.toml is newer.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test notebooks site wheel

demo: .venv/installed
	$(BIN)/headlens demo

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@# mypy has work for one core only, so it runs beside the tests; what it says comes before what they say.
	$(BIN)/mypy & OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile --no-loadscope-reorder && wait $$!

site: .venv/installed
	$(BIN)/python analyses/build_site.py

wheel: .venv/installed
	$(BIN)/python analyses/try_wheel.py

notebooks: .venv/installed
	$(BIN)/python notebooks/execute.py

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev,docs]'
	touch $@
