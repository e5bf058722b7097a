// Takes the place of csrc/cuda/cuda_launch.h: the host side of the ops, on CPU tensors.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "cuda_on_cpu.h"

namespace attn_kernels {

inline bool is_on_gpu(const torch::stable::Tensor& tensor) { return tensor.is_cpu(); }

struct CudaLaunch : cuda_on_cpu::Launch {
  explicit CudaLaunch(const torch::stable::Tensor&) {}
};

}  // namespace attn_kernels
