# Each verb prepares what it needs by itself; all that must be there is python3 and make.
# Options go through ARGS: make test ARGS='-k wal_push --majors=18'

PYTHON ?= python3
RUN := @$(PYTHON) -B -m tools.environment run --extras

.DEFAULT_GOAL := .verbs
.PHONY: demo test lint format docs bench deb clean .verbs

demo: ## Lose a table and get it back, on a real server, in about a minute
	$(RUN) demo pgkeep demo $(ARGS)

test: ## Run the tests on real servers; ARGS goes to pytest
	$(RUN) demo,test pytest $(ARGS)

lint: ## Style, types and the direction of imports
	$(RUN) demo,test,docs sh -c 'ruff check && ruff format --check && mypy && lint-imports'

format: ## Rewrite the code in the project's style
	$(RUN) test sh -c 'ruff check --fix-only && ruff format'

docs: ## Build the documentation site into site/
	$(RUN) docs env NO_MKDOCS_2_WARNING=1 mkdocs build --strict $(ARGS)

bench: ## Measure against pgBackRest and pg_basebackup; ARGS goes to the benchmark
	$(RUN) demo python -m bench $(ARGS)

deb: ## Build a Debian package into dist/
	@packaging/deb/build

clean: ## Remove the environment and everything that was built
	@$(PYTHON) -B -m tools.environment remove
	@rm -rf site build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

.verbs:
	@sed -n 's/^\([a-z]*\): ## /\1\t/p' Makefile | expand -t 10
