// Every op of this library, with its schema: the table of contents. The kernels register
// themselves: csrc/cpu/<op>.cpp, csrc/cuda/<op>.cu; what each computes is said in
// attn_kernels/functional.py.
//
// The accumulate dtype ("acc") is float64 for float64 maps and float32 for all others. Weights and
// biases come in it, and gradients of them, `map` (N, 1, H, W) and `pooled` (N, 2, H, W) leave in
// it, contiguous. Maps and their gradients have the dtype and memory format of x.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(attn_kernels, m) {
  m.def("channel_pool(Tensor x) -> Tensor");
  m.def("channel_pool_backward(Tensor d_pooled, Tensor x) -> Tensor");

  m.def("spatial_gate(Tensor x, Tensor weight, Tensor? bias) -> (Tensor y, Tensor map, Tensor pooled)");
  m.def(
      "spatial_gate_backward(Tensor dy, Tensor x, Tensor weight, Tensor map, Tensor pooled)"
      " -> (Tensor dx, Tensor d_weight, Tensor d_bias)");

  m.def("spatial_attention(Tensor x, Tensor weight, Tensor? bias) -> (Tensor map, Tensor pooled)");
  m.def(
      "spatial_attention_backward(Tensor d_map, Tensor x, Tensor weight, Tensor map, Tensor pooled)"
      " -> (Tensor dx, Tensor d_weight, Tensor d_bias)");
}
