// Launching a kernel where torch would: the one part of the host side that needs CUDA to run.
#pragma once

#include <cuda_runtime.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>
#include <torch/csrc/stable/tensor.h>

#include <limits>

namespace attn_kernels {

inline bool is_on_gpu(const torch::stable::Tensor& tensor) { return tensor.is_cuda(); }

// Launches on the current stream of x's device, which it makes the current device while it lives.
class CudaLaunch {
 public:
  explicit CudaLaunch(const torch::stable::Tensor& x) : guard_(x.get_device_index()) {
    void* stream = nullptr;
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    stream_ = static_cast<cudaStream_t>(stream);
  }

  template <class... Parameters, class... Arguments>
  void operator()(void (*kernel)(Parameters...), int64_t blocks, int threads, int64_t shared_bytes,
                  Arguments... arguments) const {
    if (blocks == 0) return;
    STD_TORCH_CHECK(blocks <= std::numeric_limits<int>::max(),
                    "attn_kernels: x is too large, it takes ", blocks, " blocks of threads");
    kernel<<<static_cast<unsigned>(blocks), threads, shared_bytes, stream_>>>(arguments...);
    STD_CUDA_KERNEL_LAUNCH_CHECK();
  }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  cudaStream_t stream_;
};

}  // namespace attn_kernels
