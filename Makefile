# `make help` lists the targets. Everything is installed into .venv from requirements/*.txt, each file by its hash.

VENV := .venv
PY := $(VENV)/bin/python
RUN_STAMP := $(VENV)/.run-installed
DEV_STAMP := $(VENV)/.dev-installed
BENCH_PY := .venv-bench/bin/python
BENCH_STAMP := .venv-bench/.bench-installed
UV := .venv-tools/bin/uv
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check --no-input

# The first interpreter that is new enough; `make PYTHON=/path/to/python3 …` picks another.
PYTHON ?= $(shell for name in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	"$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo "$$name"; break; }; done)

UP_TESTS := tests/local/up tests/local/acceptance
CLUSTER_TESTS ?= tests/cluster
NO_STREAMS_TESTS := $(addprefix tests/cluster/test_,client.py objectstore.py informer_faults.py control_loop.py)
FAST_TESTS := $(wildcard tests/unit tests/golden tests/contract tests/property tests/walks)
PYTEST_ARGS ?=
# The Kubernetes line that the cluster tests run on, if not the newest; hack/cluster-tools/ has what there is.
LINE ?=
# The image of docker-build, docker-push and deploy.
VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' src/flexinfer/__init__.py)
IMG ?= ghcr.io/flexinfer/flexinfer:$(VERSION)
MARK ?= not soak
# A choice of tests (PYTEST_ARGS) may have none in one of the runs: pytest's status 5.
NONE_CHOSEN_IS_FINE = $(if $(strip $(PYTEST_ARGS)),$$((code == 5 ? 0 : code)),$$code)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup setup-dev check lint test test-fast test-local test-up test-cluster test-no-streams test-oldest cluster-tools test-engines demo generate golden bench \
	soak build manifests install uninstall run deploy undeploy docker-build docker-push helm-package lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(RUN_STAMP) ## Install what running needs into .venv
	@:

setup-dev: $(DEV_STAMP) ## Install what testing needs too
	@:

demo: setup ## The main job, start to end: a model wakes, answers, sleeps, wakes again
	@test -f hack/demo.py || { echo "make demo: hack/demo.py is missing from this checkout" >&2; exit 1; }
	@$(PY) hack/demo.py

# Tests mostly wait, so they run side by side; output in .venv/test-output.
test: setup-dev ## Everything: the quick gate, then all tests, in runs side by side; as root, no GPU needed
	@hack/system-packages.sh hack/apt-packages.txt
	@hack/cluster-namespace.sh true
	@$(MAKE) --no-print-directory lint cluster-tools
	@$(PY) hack/side_by_side.py "$(MAKE)" $(VENV)/test-output test-fast test-local test-up test-cluster test-no-streams

# Whoever measures time goes first.
test-fast: setup-dev ## The tests that need no process, and those of other folders than tests/local and tests/cluster
	@nice -n 10 $(PY) -m pytest -q -m "not soak" --ignore tests/cluster --ignore tests/local $(PYTEST_ARGS); \
	code=$$?; exit $(NONE_CHOSEN_IS_FINE)

test-local: setup-dev ## The tests of the parts that run on one machine, with real processes
	@$(PY) -m pytest -q -m "not soak" tests/local $(UP_TESTS:%=--ignore %) $(PYTEST_ARGS); \
	code=$$?; exit $(NONE_CHOSEN_IS_FINE)

test-up: setup-dev ## The tests of a whole `up`
	@$(PY) -m pytest -q -m "not soak" $(UP_TESTS) $(PYTEST_ARGS); code=$$?; exit $(NONE_CHOSEN_IS_FINE)

test-cluster: setup-dev ## The tests on a real Kubernetes control plane; PYTEST_ARGS="-k NAME" picks, also CLUSTER_TESTS=FILE; LINE=1.34 the line
	@hack/system-packages.sh hack/apt-packages.txt
	@hack/cluster-namespace.sh true
	@tools=$$(PYTHON="$(PYTHON)" hack/cluster-tools.sh $(LINE)) || exit 1; \
	echo "==> cluster tests on $$($$tools/kube-apiserver --version)"; \
	helm=$$(PYTHON="$(PYTHON)" hack/helm.sh) || exit 1; \
	FLEXINFER_HELM=$$helm KUBEBUILDER_ASSETS=$$tools hack/cluster-namespace.sh $(PY) -m pytest -q -m "$(MARK)" $(CLUSTER_TESTS) $(PYTEST_ARGS); \
	code=$$?; exit $(NONE_CHOSEN_IS_FINE)

test-no-streams: ## The cluster tests of client and caches on an API server without streaming lists
	@FLEXINFER_TEST_FEATURES=WatchList=false $(MAKE) --no-print-directory test-cluster \
		CLUSTER_TESTS="$(NO_STREAMS_TESTS)"

# The oldest line, on the oldest etcd at hand: it has no streaming lists.
test-oldest: ## The cluster tests on Kubernetes 1.34 and Debian's etcd 3.4
	@FLEXINFER_TEST_ETCD=$$(hack/debian-etcd.sh) $(MAKE) --no-print-directory test-cluster LINE=1.34

cluster-tools: ## Build helm and the control plane that the cluster tests run on (LINE=1.34 too); prints where they are
	@hack/system-packages.sh hack/apt-packages.txt
	@PYTHON="$(PYTHON)" hack/helm.sh
	@PYTHON="$(PYTHON)" hack/cluster-tools.sh $(LINE)

# By hand: it installs 2 GB of a vLLM for CPUs into an environment of its own.
test-engines: setup-dev ## A real vLLM on this machine's CPU through FlexInfer's plans; ARGS="--parse-only" or "--record"
	@$(PY) hack/test_engines.py $(ARGS)
	@test -z "$(ARGS)" || exit 0; hack/system-packages.sh hack/apt-packages.txt; tools=$$(PYTHON="$(PYTHON)" hack/cluster-tools.sh) || exit 1; \
	echo "==> a Model with backend vllm in the test cluster"; \
	KUBEBUILDER_ASSETS=$$tools hack/cluster-namespace.sh $(PY) -m pytest -q -s --timeout 900 -p tests.cluster.conftest hack/engines/vllm_in_a_pod.py

check: setup-dev ## The quick gate: format, lint, types, import contracts, fast tests, generated files
	@$(MAKE) --no-print-directory lint
	@echo "==> unit, golden, contract, property and walk tests"
	@$(PY) -m pytest -q -m "not soak" $(FAST_TESTS) $(PYTEST_ARGS)

# Everything of the gate that runs no test; `check` and `test` begin with it.
lint: setup-dev
	@echo "==> format and lint"
	@$(PY) -m ruff format --check --quiet --output-format concise . || { echo "run: $(PY) -m ruff format ." >&2; exit 1; }
	@$(PY) -m ruff check --quiet .
	@echo "==> types"
	@$(PY) -m mypy --no-error-summary
	@echo "==> import contracts"
	@$(VENV)/bin/lint-imports --no-cache >$(VENV)/import-contracts.log 2>&1 || { cat $(VENV)/import-contracts.log >&2; exit 1; }
	@echo "==> generated files"
	@$(PY) hack/generate.py --check

generate: setup ## Rewrite what is made from the code (config/crd, docs/reference, tables of other documents)
	@$(PY) hack/generate.py

golden: setup-dev ## Rewrite the expected results of the golden tests; review them as a diff
	@test -d tests/golden || { echo "make golden: there are no golden tests in this checkout" >&2; exit 1; }
	@FLEXINFER_REWRITE_GOLDEN=1 $(PY) -m pytest -q tests/golden tests/chart
	@git --no-pager diff --stat -- tests/golden tests/chart

soak: setup-dev ## The long runs that `make test` leaves out
	@FLEXINFER_RANDOM_SEEDS=1 $(PY) -m pytest -q -m soak --timeout 0 --ignore tests/cluster $(PYTEST_ARGS); \
	code=$$?; exit $(NONE_CHOSEN_IS_FINE)
	@$(MAKE) --no-print-directory test-cluster MARK=soak PYTEST_ARGS="--timeout 0 $(PYTEST_ARGS)"

bench: setup $(BENCH_STAMP) ## The figures of docs/benchmarks.md; ARGS="NAME… --seconds 3 --write" picks and writes
	@hack/system-packages.sh hack/apt-packages-bench.txt
	@$(PY) -m benchmarks $(ARGS)

build: setup ## Wheel and source archive in dist/
	@rm -rf dist && $(PY) -m hatchling build

manifests: generate ## The CRDs in config/crd and in the chart; the same as `generate`

install: ## Put the CRDs into the cluster of your kubeconfig
	@hack/on-cluster.sh install

uninstall: ## Remove the CRDs, and every Model with them
	@hack/on-cluster.sh uninstall

run: setup ## Run the manager here, on the cluster of your kubeconfig; ARGS="--controllers model"
	@ARGS="$(ARGS)" hack/on-cluster.sh run

deploy: ## Install or upgrade the chart with the image IMG; ARGS="--set proxy.replicas=3"
	@IMG="$(IMG)" ARGS="$(ARGS)" hack/on-cluster.sh deploy

undeploy: ## Remove what deploy installed; the CRDs stay
	@hack/on-cluster.sh undeploy

docker-build: ## Build the image IMG, with docker or podman
	@hack/image.sh docker-build $(IMG)

docker-push: ## Push it
	@hack/image.sh docker-push $(IMG)

helm-package: ## The chart's archive and index.yaml in dist/charts
	@PYTHON="$(PYTHON)" hack/helm-package.sh

lock: $(UV) ## Choose dependency versions anew from pyproject.toml and write requirements/*.txt
	@hack/lock.sh $(UV)

clean: ## Remove what the other targets made
	rm -rf .venv .venv-bench .venv-tools .demo dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(PY):
	@hack/make-venv.sh "$(PYTHON)" $(VENV)

$(RUN_STAMP): requirements/run.txt pyproject.toml | $(PY)
	@echo "==> installing what running needs (requirements/run.txt)"
	@$(PY) $(PIP_INSTALL) --require-hashes -r requirements/run.txt
	@$(PY) $(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

# The wheels are those of the image: a test installs them without a network.
$(DEV_STAMP): requirements/dev.txt requirements/image.txt requirements/build.txt $(RUN_STAMP) | $(PY)
	@echo "==> installing what testing needs (requirements/dev.txt)"
	@$(PY) $(PIP_INSTALL) --require-hashes -r requirements/dev.txt
	@for file in image build; do $(PY) -m pip download --quiet --disable-pip-version-check --no-input --no-deps \
		--require-hashes --dest $(VENV)/wheels -r requirements/$$file.txt; done
	@touch $@

$(BENCH_PY):
	@hack/make-venv.sh "$(PYTHON)" .venv-bench

$(BENCH_STAMP): requirements/bench.txt | $(BENCH_PY)
	@echo "==> installing the peers that figures are measured against (requirements/bench.txt)"
	@$(BENCH_PY) $(PIP_INSTALL) --require-hashes -r requirements/bench.txt
	@touch $@

$(UV): requirements/lock.txt
	@hack/make-venv.sh "$(PYTHON)" .venv-tools
	@.venv-tools/bin/python $(PIP_INSTALL) --require-hashes -r requirements/lock.txt
	@touch $@
