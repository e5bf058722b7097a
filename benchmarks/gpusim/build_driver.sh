#!/bin/bash
# build_driver.sh WORK CSRC CORES TYPE NAME: WORK/NAME/gate_sim and its PTX, from the sources CSRC with the
# block counts that fill a GPU of 132 multiprocessors cut down to one of CORES. TYPE of x: float or __half.
set -e
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$1 csrc=$2 cores=$3 type=$4 name=$5
sim=$(echo "$work"/gpgpu-sim/lib/gcc-*/cuda-*/release)
rm -rf "$work/$name"; mkdir -p "$work/$name/stub"; cd "$work/$name"
cp -r "$csrc" csrc
sed -i -E "s/(k(Reduce|Stream|Weight|Plane)Blocks) = ([0-9]+);/\1 = \3 * $cores \/ 132;/" csrc/cuda/*.h
nvcc -O3 -std=c++20 -Icsrc -Icsrc/cuda -I"$here/driver" -DTYPE="$type" --keep \
  -gencode arch=compute_75,code=compute_75 -c "$here/driver/driver.cu" -o driver.o
mv driver.ptx full.ptx
# What the simulator parses: an older PTX of the same instructions. (It knows no nanosleep.)
sed -E 's/^\.version .*/.version 7.7/; s/^\.target .*/.target sm_70/; /nanosleep/d' full.ptx > gate_sim.ptx
# The simulator looks for libcudart.so.11 among the program's libraries: link with a stand-in.
nm -D "$sim/libcudart.so" | awk '/ T (__)?cuda/ {print "void " $3 "(void) {}"}' > stub.c
gcc -w -shared -fno-builtin -Wl,-soname,libcudart.so.11.0 -o stub/libcudart.so.11.0 stub.c
g++ -O1 -o gate_sim driver.o "$here/driver/shim.cpp" stub/libcudart.so.11.0 -Wl,-rpath,"$sim"
# Registers per thread as today's ptxas allocates them for sm_90.
ptxas -v --gpu-name=sm_90 full.ptx -o /dev/null 2> ptxas.log
sed -E '/Compile time/d; s/, used [0-9]+ barriers//; s/, [0-9]+ bytes cumulative stack size//' \
  ptxas.log > gate_sim.ptxinfo
