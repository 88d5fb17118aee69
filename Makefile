# Leasehold. `make help` lists what can be made; nothing needs to be set up before.
#
#   .venv/   Python packages, exactly those of uv.lock
#   var/     everything that the commands write: data, caches, logs

# Debian's own, as in production, whatever else is on the path.
PYTHON  ?= $(or $(wildcard /usr/bin/python3),python3)
PORT    ?= 8000
SUITE   ?=
BIN     := .venv/bin
SOURCES  = $(wildcard manage.py portal leasing hosts appliance lab tools benchmarks tests static/*.py)
MESSAGES = $(patsubst %.po,%.mo,$(wildcard locale/*/LC_MESSAGES/*.po))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup demo lab test check fresh release slow roles lint docs messages lock format clean debian-build debian-demo debian-test debian-slow debian-account lab-image
.NOTPARALLEL:

help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: debian-build .venv/ready $(MESSAGES)  ## Install what the other commands need

demo: debian-demo setup  ## Run everything on this machine, with real machines and simulated GPUs (PORT=8000)
	@exec $(BIN)/python manage.py demo --port $(PORT)

lab: debian-test setup lab-image  ## Run the virtual hypervisor and its control plane, with real VFIO, until Ctrl-C
	@exec $(BIN)/python -m lab up

test: debian-test setup $(if $(filter-out lab,$(SUITE)),,lab-image)  ## Check, then run every suite (SUITE=name for one)
	@$(BIN)/python -m tools.suites $(SUITE)

check: setup  ## Check style, types, imports, migrations, templates, translations, API description
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(SOURCES)
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python -m tools.check_templates
	$(BIN)/ansible-playbook --syntax-check --inventory deploy/inventory.example.yml deploy/hypervisors.yml deploy/portal.yml deploy/after-restore.yml
	$(BIN)/python -m tools.translations check
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null

fresh: debian-test  ## Try `make demo` and `make test` in a new Debian root, from a clean clone
	$(PYTHON) tools/fresh.py

release: setup  ## Put into dist/ what the roles of deploy/ install
	@$(BIN)/python -m tools.release

slow: debian-slow setup lab-image  ## Prove what takes too long for `make test`, that of `make roles` included (root, cgroup2)
	@$(BIN)/pytest -q --slow -m slow tests/agent tests/demo tests/lab tests/deployment

roles: debian-test setup  ## Try both roles, each on a Debian of its own, with backup and restore (root, cgroup2)
	@$(BIN)/pytest -q --slow tests/deployment

lint: setup  ## Look the roles over with ansible-lint
	@cd deploy && ../$(BIN)/uv tool run --quiet --with ansible-core==2.19.14 ansible-lint==26.10.1 --offline -q hypervisors.yml portal.yml after-restore.yml

docs: setup  ## Draw docs/lifecycles.md from the state tables
	$(BIN)/python manage.py diagrams docs

messages: setup  ## Collect the texts to translate into locale/
	$(BIN)/python -m tools.translations collect

lock: .venv/bin/uv  ## Resolve the Python packages again, within pyproject.toml's ranges
	$(BIN)/uv lock
	$(BIN)/uv export --quiet --locked --no-header --only-group bootstrap --output-file tools/uv.txt

format: setup  ## Format the code and sort the imports
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove everything that was made, the demo's data included
	rm -rf .venv var dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find locale -name '*.mo' -delete 2>/dev/null || true

lab-image:
	@$(BIN)/python -m lab.hypervisor.image
debian-build:
	@tools/debian-packages build
debian-demo: debian-account
	@tools/debian-packages build demo portal
debian-test: debian-account
	@tools/debian-packages build demo portal test lab
debian-slow: debian-test
	@tools/debian-packages workstation

# libvirt's QEMU driver does not start without this account, though the demo's machines run as another.
debian-account:
	@[ $$(id -u) != 0 ] || getent passwd libvirt-qemu >/dev/null \
	    || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin libvirt-qemu

.venv/ready: uv.lock pyproject.toml .venv/bin/uv
	@echo "Installing Python packages into .venv"
	@UV_PYTHON=$(BIN)/python $(BIN)/uv sync --locked
	@touch $@

# By itself, so that `lock` works while the lock file is older than pyproject.toml.
.venv/bin/uv: tools/uv.txt | debian-build
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@$(BIN)/pip install --quiet --require-hashes --requirement tools/uv.txt
	@touch $@

%.mo: %.po
	msgfmt --check --output-file=$@ $<
