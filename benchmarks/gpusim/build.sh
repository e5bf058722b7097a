#!/bin/bash
# Builds GPGPU-Sim for the driver: build.sh [WORK], WORK being /tmp/gpusim. 4-9 minutes.
#
# Needs nvcc 13, g++, and as packages flex bison xutils-dev zlib1g-dev libtcmalloc-minimal4. Sources
# are taken from $GPGPU_SIM, a checkout or unpacked archive, or cloned; gpgpu-sim.patch is applied.
set -e
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${1:-/tmp/gpusim}
mkdir -p "$work"; cd "$work"

# CUDA 11.7's headers; its tools are replaced by stand-ins.
if [ ! -d cuda11 ]; then
  pip download -q --no-deps -d wheels nvidia-cuda-runtime-cu11==11.7.99 nvidia-cuda-nvcc-cu11==11.7.99
  mkdir -p cuda11/bin cuda11/include
  for wheel in wheels/*cu11*.whl; do python3 -m zipfile -e "$wheel" cuda11/unpacked >/dev/null; done
  cp -r cuda11/unpacked/nvidia/cuda_runtime/include/* cuda11/unpacked/nvidia/cuda_nvcc/include/* \
    cuda11/include/
  cp "$here/standins/cudaProfiler.h" cuda11/include/
  cp "$here"/standins/{nvcc,ptxas,cuobjdump} cuda11/bin/; chmod +x cuda11/bin/*
fi
if [ ! -d gpgpu-sim ]; then
  if [ -n "$GPGPU_SIM" ]; then
    cp -r "$GPGPU_SIM" gpgpu-sim
  else
    git clone -q https://github.com/gpgpu-sim/gpgpu-sim_distribution gpgpu-sim
  fi
  # (Its setup_environment asks git for a commit, which an archive has not.)
  [ -d gpgpu-sim/.git ] || (cd gpgpu-sim && git init -q . && git add -A &&
    git -c user.name=x -c user.email=x@x commit -qm source)
  (cd gpgpu-sim && git apply "$here/gpgpu-sim.patch")
fi
cd gpgpu-sim
export CUDA_INSTALL_PATH=$work/cuda11
source setup_environment release
export OPTFLAGS="-march=native -ffp-contract=off -fno-semantic-interposition -fno-plt"
make -j"$(nproc)" >../build.log 2>&1 || { tail -30 ../build.log; exit 1; }
echo "ready: python -m benchmarks.gpusim.run --help"
