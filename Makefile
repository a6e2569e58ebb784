# The front door. `make` or `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help env run flow server worker data remote pull weights ui versions show promote rollback history verify card predict serve \
  app reproduce crossval results kubeflow bench doctor test fuzz faults load lint audit lock

PYTHON ?= python3
ENV := .venv/.installed
# By `value`: a dollar in a variable of the environment is a dollar, and nothing that make expands
export PATH := $(CURDIR)/.venv/bin:$(value PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
# DVC keeps its index here instead of below /var/tmp
export DVC_SITE_CACHE_DIR := $(CURDIR)/.cache/dvc
export DVC_NO_ANALYTICS := 1
# Prefect keeps its files here too. A worker's flow runs start in another folder, and find the repository by BUSI_ROOT
export PREFECT_HOME := $(CURDIR)/.cache/prefect
export PREFECT_SERVER_ANALYTICS_ENABLED := false
export DO_NOT_TRACK := 1
export BUSI_ROOT := $(CURDIR)
unexport PYTHONPATH PYTHONHOME PYTHONINSPECT PYTHONOPTIMIZE PYTHONSAFEPATH PYTHONWARNINGS
# A user whom the system does not know, as in a container, has neither; DVC asks for the name, pip and MLflow for the home
export USER := $(or $(value USER),$(firstword $(shell id -un 2>/dev/null || id -u)))
export HOME := $(or $(value HOME),$(CURDIR)/.cache/home)
# As pipeline/runtime/environment.py has it: what listens on this machine is not reached through a proxy. An empty name
# in the list would stand for every host, and Prefect can't read networks of IPv6 and what is in brackets
COMMA := ,
NAMED := $(subst $(COMMA), ,$(value no_proxy) $(value NO_PROXY))
READABLE := $(foreach host,$(NAMED),$(if $(and $(findstring :,$(host)),$(findstring /,$(host))$(findstring [,$(host))),,$(host)))
export no_proxy := $(subst $() ,$(COMMA),$(strip $(READABLE) 127.0.0.1 localhost ::1))
export NO_PROXY := $(no_proxy)

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

env: $(ENV) ## Install the locked environment into .venv

# By a Python outside .venv: one that clears its own environment makes one that links to itself
$(ENV): export PATH := $(subst $(CURDIR)/.venv/bin:,,$(PATH))
$(ENV): requirements.lock
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(not (3, 11) <= v < (3, 14) and f"Python 3.11, 3.12 or 3.13 is needed, {sys.executable} is {v[0]}.{v[1]}; try make PYTHON=python3.12")'
	@test ! -L .venv || { echo "error: .venv is a link to $$(readlink .venv), which installing would empty; remove the link"; exit 1; }
	@echo "installing the environment into .venv (2 to 3 minutes, 3 GB)"
	@$(PYTHON) -m venv --clear .venv || { echo "error: $(PYTHON) can't make an environment; on Debian and Ubuntu: sudo apt install python3-venv"; exit 1; }
	@# As constraints too: else pip takes the newest release for a package that another one asks for with an extra
	@set -o pipefail; .venv/bin/python pipeline/runtime/pip_install.py --require-hashes \
	  -r requirements.lock -c requirements.lock \
	  | awk '/^Collecting/ {printf "\r  %d packages", ++n} /^Installing/ {printf ", unpacking"} {fflush()} END {print ""}'
	@# The project itself, with the command `busi`
	@.venv/bin/python pipeline/runtime/pip_install.py --quiet --no-deps --no-build-isolation --editable .
	@# A lock file from the future, by a clock that ran ahead, would otherwise install again at every call
	@touch $@; test ! requirements.lock -nt $@ || touch -r requirements.lock $@

# What is typed behind a variable reaches the command as it is typed: neither make nor the shell expands it. Each variable
# is exported as ARG_NAME with its unexpanded text, and recipes name it in quotes.
VARIABLES := ALL FAST FILES FOLDS FORCE GUIDED IMAGE IMAGES MODEL ONLY PORT QUICK REASON REPEATS ROW SCHEDULER SECONDS SEED \
  SET SOURCE UNTIL URL VERSION YES
define hand_over
export ARG_$(1) = $$(value $(1))
unexport $(1)
endef
$(foreach name,$(VARIABLES),$(eval $(call hand_over,$(name))))
# A misspelt one would be passed over, and the command do something else. Those of other programs have an underscore
OTHERS := COLUMNS HOME LANG PATH PYTHON SHELL TERM TMPDIR TZ USER
TYPED := $(foreach name,$(.VARIABLES),$(if $(filter command,$(origin $(name))),$(name)))
UNKNOWN := $(foreach name,$(filter-out $(VARIABLES) $(OTHERS),$(TYPED)),$(if $(findstring _,$(name)),,$(name)))
$(if $(strip $(UNKNOWN)),$(error there is no variable $(UNKNOWN); there are $(VARIABLES)))
# $(call option,NAME,VARIABLE): --NAME="its text", or nothing where the variable is empty; `argument` without the name
option = $(if $(value $(2)),--$(1)="$$ARG_$(2)")
argument = $(if $(value $(1)),"$$ARG_$(1)")

run: $(ENV) ## Data (the embedded set when there is none), all stages, and a summary
	@busi run

flow: $(ENV) ## The same as a Prefect flow: make flow UNTIL=train FORCE=1 SET='train.seed=3 split.seed=4'
	@busi flow $(call option,until,UNTIL) $(if $(value FORCE),--force) $(call option,set,SET)

server: $(ENV) ## Start the Prefect server and its UI on this machine (PORT=4200)
	@mkdir -p .cache
	@python -m pipeline.serving.ports "$${ARG_PORT:-4200}"
	@prefect server start --host 127.0.0.1 --port "$${ARG_PORT:-4200}"

worker: export PREFECT_API_URL ?= http://127.0.0.1:4200/api
worker: $(ENV) ## Deploy the flow to that server (prefect.yaml) and start a worker for its runs
	@mkdir -p .cache
	@python -m pipeline.orchestration.prefect_server
	@echo "deploying the flow, then starting the worker (some 15 s); Ctrl-C ends it"
	@prefect work-pool inspect busi >/dev/null || prefect work-pool create busi --type process
	@prefect --no-prompt deploy --all
	@prefect worker start --pool busi

data: $(ENV) ## Bring data in: make data SOURCE=phantom | busi | kaggle | path to a zip or folder
	@busi data $(if $(value SOURCE),-- "$$ARG_SOURCE")

remote: $(ENV) ## Add a DVC remote and push to it: make remote URL=s3://bucket/path (or gs://, ssh://, a folder)
	@test -n "$$ARG_URL" || { echo "error: URL is missing; make remote URL=s3://bucket/path"; exit 1; }
	@# DVC would empty .dvc/config
	@LC_ALL=C; case "$$ARG_URL" in *[!\ -~]*) echo "error: DVC keeps only ASCII in .dvc/config, and URL is $$ARG_URL; give a link to that folder with a plain name"; exit 1;; esac
	@dvc remote add --force --default storage -- "$$ARG_URL"
	@dvc push
	@echo "commit .dvc/config; then \`make pull\` in another clone gets data and outputs"

pull: $(ENV) ## Get data and outputs from the remote of make remote; make run then runs no stage again
	@dvc pull || { echo "error: not everything came; dvc remote list shows the remotes, make remote URL=... names one,"; \
	  echo "  and make run makes what is missing"; exit 1; }

weights: $(ENV) ## Fetch the ImageNet weights into weights/ (needs the network)
	@busi weights

ui: $(ENV) ## Start the MLflow UI on the pipeline's store (PORT=5050; without it 5000 or the next free one)
	@busi ui $(call option,port,PORT)

# What the registry's commands take: MODEL=name, VERSION=3, YES=1
MODEL_ARG = $(call option,model,MODEL)
YES_ARG = $(if $(value YES),--yes)

versions: $(ENV) ## List the registered versions (MODEL=name for another model than that of data/)
	@busi versions $(MODEL_ARG)

show: $(ENV) ## Show all that is known of a version: make show VERSION=3
	@busi show $(call argument,VERSION) $(MODEL_ARG)

promote: $(ENV) ## Promote the newest version that passed (VERSION=3; REASON='...' overrides the gate, on record; YES=1)
	@busi promote $(call argument,VERSION) $(if $(value REASON),--force) $(call option,reason,REASON) $(YES_ARG) $(MODEL_ARG)

rollback: $(ENV) ## Go back to the previous Production version (REASON='...', YES=1)
	@busi rollback $(call option,reason,REASON) $(YES_ARG) $(MODEL_ARG)

history: $(ENV) ## Show which version was Production when, and why
	@busi history $(MODEL_ARG)

verify: $(ENV) ## Check that nobody went round the gate (ALL=1 checks every version's files)
	@busi verify $(if $(value ALL),--all) $(MODEL_ARG)

app: $(ENV) ## Start the app on the Production model (PORT=8600; without it 8501 or the next free one)
	@busi app $(call option,port,PORT) $(MODEL_ARG)

predict: $(ENV) ## Classify images with the Production model: make predict FILES='scan.png folder' (busi predict has --csv, --json)
	@test -n "$$ARG_FILES" || { echo "error: FILES is missing; make predict FILES='scan.png folder'"; exit 1; }
	@busi predict $(call option,files,FILES) $(MODEL_ARG)

serve: $(ENV) ## Serve the Production model over REST on this machine (PORT=8080; without it 5001 or the next free one)
	@busi serve $(call option,port,PORT) $(MODEL_ARG)

card: $(ENV) ## Export a version's model card as Markdown (VERSION=3)
	@busi card $(call argument,VERSION) $(MODEL_ARG)

reproduce: $(ENV) ## Rebuild a version from its commit and data, beside the working tree, and compare: VERSION=3
	@busi reproduce $(call argument,VERSION) $(MODEL_ARG)

crossval: $(ENV) ## Cross-validate on two local Dask workers (FOLDS=5, REPEATS=1; SCHEDULER=tcp://HOST:PORT for a cluster)
	@busi data
	@dvc repro validate
	@busi crossval $(call option,folds,FOLDS) $(call option,repeats,REPEATS) $(call option,scheduler,SCHEDULER)

results: $(ENV) ## Measure rows of docs/results.md: make results ROW='hog imagenet' (REPEATS=5: the spread); without ROW, show them
	@busi data
	@dvc repro validate
	@set -f; python -m benchmarks.$(if $(value REPEATS),repeated_crossval,results) $(call option,repeats,REPEATS) \
	  $(call option,scheduler,SCHEDULER) $$ARG_ROW

kubeflow: $(ENV) ## Compile the stages into a Kubeflow pipeline: make kubeflow IMAGE=registry/busi:tag (installs kfp)
	@test -n "$$ARG_IMAGE" || { echo "error: IMAGE is missing; make kubeflow IMAGE=registry/busi:tag"; exit 1; }
	@python pipeline/runtime/pip_install.py --quiet --require-hashes -r requirements-kubeflow.lock -c requirements.lock
	@busi kubeflow $(call option,image,IMAGE)

bench: $(ENV) ## Measure speed and memory beside the alternatives; about 50 minutes (IMAGES=folder, QUICK=1)
	@python -m benchmarks $(if $(value QUICK),--quick) $(call option,images,IMAGES)

test: $(ENV) ## Run the tests; FAST=1 leaves out those that run whole commands, and takes two minutes
	@python -m pytest $(if $(value FAST),-m "not slow" tests/unit tests/environment)

fuzz: $(ENV) ## Fuzz every reader with malformed files, then two searches guided by coverage (SEED=1, GUIDED=600 seconds each)
	@python pipeline/runtime/pip_install.py --quiet --require-hashes -r requirements-fuzz.lock -c requirements.lock \
	  || echo "atheris can't be installed here; the searches guided by coverage are left out"
	@python -m tests.fuzz --seed "$${ARG_SEED:-1}" --guided "$${ARG_GUIDED:-600}"

faults: $(ENV) ## Fault injection: kill, starve and move the pipeline, and repeat the command (SEED=1, ONLY='kill train'); an hour or more
	@python -m tests.fault_injection --seed "$${ARG_SEED:-1}" $(call option,only,ONLY)

load: $(ENV) ## Load test: many clients of the endpoint and the app, a promotion, many processes in one store (SECONDS=300, SEED=1)
	@python -m tests.load --seconds "$${ARG_SECONDS:-300}" --seed "$${ARG_SEED:-1}"

# Without the environment too, whose absence is then what it finds
doctor: ## Find out what is wrong with this machine and checkout, and what to do
	@if test -x .venv/bin/python; then .venv/bin/python -m pipeline.doctor; else $(PYTHON) -m pipeline.doctor; fi

lint: $(ENV) ## Check style and common errors
	@ruff check . && ruff format --check .

audit: ## Check the locked packages for known vulnerabilities (needs uv and the network)
	@uvx pip-audit --disable-pip --require-hashes -r requirements.lock

lock: ## Renew requirements.lock and those of the extras (needs uv)
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet requirements.in -o requirements.lock
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -c requirements.lock requirements-kubeflow.in -o requirements-kubeflow.lock
	@uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --quiet -c requirements.lock requirements-fuzz.in -o requirements-fuzz.lock
