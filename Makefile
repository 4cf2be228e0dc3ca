# The book's commands; `make` or `make help` lists them. They need python3 (3.10 or newer), make and a package registry.
SHELL := /bin/sh
PYTHON ?= python3
PORT ?= 8000
CONSTRAINTS ?= constraints.txt
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.PHONY: help book serve test sync lint sweep clean
.DEFAULT_GOAL := help

help: ## list the commands
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "make %-6s %s\n", $$1, $$2}' Makefile

# Made again when what it is made from changes. A failed install leaves no mark, so the next command tries again.
$(READY): requirements.txt constraints.txt pyproject.toml
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "setup: $(PYTHON) was not found; python 3.10 or newer is needed" >&2; exit 1; }
	@$(PYTHON) tools/setup.py $(VENV) $(CONSTRAINTS)
	@touch $(READY)

book: $(READY) ## run the chapters that changed and build the HTML book
	@echo "make book: running the chapters that changed, then building _build/html"
	@$(PY) tools/book.py

serve: ## serve the built book on this machine only (PORT=8000)
	@test -f _build/html/index.html || { echo "make serve: there is no book yet, run make book first" >&2; exit 1; }
	@echo "make serve: http://127.0.0.1:$(PORT) (Ctrl-C stops it)"
	@python=$(PY); test -x $$python || python=$(PYTHON); $$python -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

# First every chapter and everything that needs no built book, in parallel; the chapters that pass are kept, so that the
# book which the second half looks at need not run them again.
test: $(READY) ## run all tests, every chapter among them
	@echo "make test: every chapter and the tests of the package, then the tests of the built book"
	@status=0; \
	OMP_NUM_THREADS=1 $(PY) -m pytest -n logical --maxprocesses=4 --dist=loadfile --no-loadscope-reorder \
		-m "not built" --durations=10 --nbmake --nbmake-kernel=python3 --nbmake-timeout=600 book tests || status=$$?; \
	$(PY) -m pytest -m built tests || status=$$?; \
	exit $$status

sync: $(READY) ## bring each chapter's .py and .ipynb together
	@echo "make sync: writing the half of each pair that is out of date"
	@$(PY) tools/pairs.py

lint: $(READY) ## check style with ruff
	@echo "make lint: ruff"
	@$(PY) -m ruff check .

sweep: $(READY) ## run what the book's tables are built from, into the ledger (about six hours on 2 cores)
	@echo "make sweep: the models that do not ship, then every run that runs/*.yaml asks for and the ledger lacks"
	@for name in glyph-50 glyph-90; do $(PY) -m clipbook.pretrain --name $$name || exit 1; done
	@for seed in 0 1 2; do for name in glyph-plain glyph-negatives glyph-twins; do \
		$(PY) -m clipbook.pretrain --name $$name --seed $$seed --out build/$$name-$$seed || exit 1; done; done
	@for seed in 0 1 2; do $(PY) -m clipbook.pretrain --name glyph-negatives --steps 800 --seed $$seed --out build/short-$$seed || exit 1; done
	@$(PY) -m clipbook.pretrain --name glyph-negatives --steps 800 --pairs 1 --batch_size 128 --out build/no-replay-0
	@$(PY) -m clipbook.pretrain --name glyph-negatives --steps 800 --pair_correlation 0.75 --out build/correlated-0
	@$(PY) -m clipbook.pretrain --name glyph-negatives --steps 800 --learning_rate 1e-4 --out build/slow-0
	@$(PY) -m clipbook.pretrain --name glyph-negatives --steps 800 --pairs 1 --batch_size 128 --learning_rate 1e-4 --out build/gentle-0
	@$(PY) -m clipbook.pretrain --name glyph-both --out build/both-0
	@$(PY) -m clipbook.pretrain --name glyph-twins --twinned 0.05 --out build/rare-0
	@for spec in runs/*.yaml; do $(PY) -m clipbook.runs $$spec || exit 1; done

clean: ## remove the built book and everything it cached
	@echo "make clean: removing _build"
	@rm -rf _build
