// Matrix products by the library that PyTorch itself uses, and as its user set it up.
#pragma once

#include <torch/csrc/inductor/aoti_torch/generated/c_shim_cpu.h>

#include "launch.h"

namespace attn_kernels {

template <class E>
Tensor as_tensor(const Matrix<E>& m) {
  static const torch::stable::Device cpu(torch::headeronly::DeviceType::CPU);
  return torch::stable::from_blob(m.data, std::array{m.rows, m.columns},
                                  std::array{m.row_stride, m.column_stride}, cpu, kScalarType<E>);
}

// out = a @ b + beta * out
template <class E>
void matmul(const Matrix<E>& out, const Matrix<E>& a, const Matrix<E>& b, double beta = 0) {
  const Tensor result = as_tensor(out);
  TORCH_ERROR_CODE_CHECK(aoti_torch_cpu_addmm_out(result.get(), result.get(), as_tensor(a).get(),
                                                  as_tensor(b).get(), beta, 1));
}

}  // namespace attn_kernels
