// nvcc 13 host code calls __cudaGetKernel and __cudaLaunchKernel, which GPGPU-Sim's CUDA runtime
// does not know, and wants launch configurations back from __cudaPopCallConfiguration.
#include <cstddef>
struct dim3_ {
  unsigned x, y, z;
};
static dim3_ g_grid, g_block;
static size_t g_shared;
static void* g_stream;
extern "C" {
int cudaLaunchKernel(const char*, dim3_, dim3_, const void**, size_t, void*);
int cudaConfigureCall(dim3_, dim3_, size_t, void*);
unsigned __cudaPushCallConfiguration(dim3_ grid, dim3_ block, size_t shared, void* stream) {
  g_grid = grid, g_block = block, g_shared = shared, g_stream = stream;
  return 0;
}
int __cudaPopCallConfiguration(dim3_* grid, dim3_* block, size_t* shared, void* stream) {
  *grid = g_grid, *block = g_block, *shared = g_shared, *static_cast<void**>(stream) = g_stream;
  return 0;
}
int __cudaGetKernel(const void** kernel, const void* entry) {
  *kernel = entry;
  return 0;
}
int __cudaLaunchKernel(const void* kernel, dim3_ grid, dim3_ block, void** args, size_t shared,
                       void* stream) {
  cudaConfigureCall(grid, block, shared, stream);
  return cudaLaunchKernel(static_cast<const char*>(kernel), grid, block,
                          const_cast<const void**>(args), shared, stream);
}
}
