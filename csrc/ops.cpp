// Every op of this library, with its schema: the table of contents. The kernels register
// themselves: csrc/cpu/<op>.cpp, csrc/cuda/<op>.cu; what each computes is said in
// attn_kernels/functional.py.
//
// The accumulate dtype ("acc") is float64 for float64 maps and float32 for all others. Weights,
// biases, scales and shifts come in it, contiguous, and gradients of them, `map` (N, 1, H, W) and
// `pooled` (N, 2, H, W) leave in it, contiguous. Maps and their gradients have the dtype and memory
// format of x. What is not asked for leaves as an empty tensor of size (0,).
//
// Scale and shift (N, C), given both or not at all, are an affine view: f = scale * x + shift takes
// the place of x. The weight of a stencil is (G, 2, K, K) and its bias (G,), where G divides N:
// image n has weight n / (N / G). The residual has x's shape and dtype and any strides; the
// activation is "identity" or "relu".
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(attn_kernels, m) {
  m.def("channel_pool(Tensor x, Tensor? scale, Tensor? shift) -> Tensor");
  m.def(
      "channel_pool_backward(Tensor d_pooled, Tensor x, Tensor? scale, Tensor? shift)"
      " -> (Tensor dx, Tensor d_scale, Tensor d_shift)");

  m.def(
      "spatial_attention(Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift)"
      " -> (Tensor map, Tensor pooled)");
  m.def(
      "spatial_attention_backward(Tensor d_map, Tensor x, Tensor weight, Tensor map, Tensor pooled,"
      " Tensor? scale, Tensor? shift)"
      " -> (Tensor dx, Tensor d_weight, Tensor d_bias, Tensor d_scale, Tensor d_shift)");

  // y = act(f * map + residual). The backward takes y where the activation is ReLU, and then gives
  // d_residual, what is left of dy behind it; else that is dy itself, and d_residual is empty.
  m.def(
      "spatial_gate(Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift,"
      " Tensor? residual, str activation) -> (Tensor y, Tensor map, Tensor pooled)");
  m.def(
      "spatial_gate_backward(Tensor dy, Tensor x, Tensor weight, Tensor map, Tensor pooled,"
      " Tensor? scale, Tensor? shift, Tensor? y)"
      " -> (Tensor dx, Tensor d_weight, Tensor d_bias, Tensor d_scale, Tensor d_shift,"
      " Tensor d_residual)");

  // w1 (R, C), b1 (R), w2 (C, R), b2 (C), in the accumulate dtype or in x's; hidden (N, R, H, W) in
  // x's dtype and memory format.
  // activation: "identity" or "sigmoid".
  m.def(
      "gam_channel_gate(Tensor x, Tensor w1, Tensor b1, Tensor w2, Tensor b2, str activation)"
      " -> (Tensor y, Tensor hidden)");
  m.def(
      "gam_channel_gate_backward(Tensor dy, Tensor x, Tensor hidden, Tensor w1,"
      " Tensor w2, Tensor b2, str activation)"
      " -> (Tensor dx, Tensor d_w1, Tensor d_b1, Tensor d_w2, Tensor d_b2)");

  // scale and shift: (C), in the accumulate dtype or in x's. a and da have x's shape; dx and da
  // have x's memory format.
  m.def("scale_gate(Tensor x, Tensor a, Tensor scale, Tensor shift) -> Tensor");
  m.def(
      "scale_gate_backward(Tensor dy, Tensor x, Tensor a, Tensor scale, Tensor shift)"
      " -> (Tensor dx, Tensor da, Tensor d_scale, Tensor d_shift)");

  // statistics: the sum of 1 (mean), 2 (biased variance), 4 (max), 8 (min). Results are (N, C) in
  // acc, argmax and argmin int64 pixels in row-major order; (0,) where not asked for.
  m.def(
      "squeeze(Tensor x, int statistics)"
      " -> (Tensor mean, Tensor var, Tensor max, Tensor min, Tensor argmax, Tensor argmin)");
  // dx = scale * dr + slope * x + offset + [pixel == argmax] d_max + [pixel == argmin] d_min, with
  // coefficients (N, C) in acc. dr and scale, argmax and d_max, argmin and d_min come together.
  m.def(
      "squeeze_backward(Tensor? dr, Tensor x, Tensor? scale, Tensor? slope, Tensor? offset,"
      " Tensor? argmax, Tensor? d_max, Tensor? argmin, Tensor? d_min) -> Tensor dx");
  // The same with scale 1, in the place of dr, which is dense and in x's memory format; on the CPU.
  m.def(
      "squeeze_backward_add_(Tensor(a!) dx, Tensor x, Tensor? slope, Tensor? offset,"
      " Tensor? argmax, Tensor? d_max, Tensor? argmin, Tensor? d_min) -> ()");

  // y = activation(scale * x + shift + residual); scale and shift (N, C) in acc; activation:
  // "identity" or "relu".
  m.def(
      "affine_gate(Tensor x, Tensor scale, Tensor? shift, Tensor? residual, str activation)"
      " -> Tensor y");
  // Sums over pixels of dr * x and of dr, (N, C) in acc. dr = dy where y, the result of a ReLU, is
  // not 0, a map; without y dr is dy itself, and what returns in its place is (0,).
  m.def(
      "affine_gate_sums(Tensor dy, Tensor x, Tensor? y)"
      " -> (Tensor d_scale, Tensor d_shift, Tensor dr)");

  // y = scale * x, scale = gate(w2 activation(w1 mean + b1) + b2), mean over pixels. w1 is
  // (R, C, 1, 1), b1 (R), w2 (C, R, 1, 1), b2 (C); scale, mean (N, C) and hidden (N, R), which is
  // what the activation gets, in acc. activation: "relu", "silu" or "identity"; gate: "sigmoid" or
  // "hardsigmoid".
  m.def(
      "squeeze_excite(Tensor x, Tensor w1, Tensor? b1, Tensor w2, Tensor? b2, str activation,"
      " str gate) -> (Tensor y, Tensor scale, Tensor mean, Tensor hidden)");
  m.def(
      "squeeze_excite_backward(Tensor dy, Tensor x, Tensor w1, Tensor w2, Tensor scale,"
      " Tensor mean, Tensor hidden, str activation, str gate)"
      " -> (Tensor dx, Tensor d_w1, Tensor d_b1, Tensor d_w2, Tensor d_b2)");

  // The ends of the carried gradient (see attn_kernels/autograd/carried.py): squeeze, affine_gate
  // and spatial_gate as above, with a token (as x) and a carrier (N, C) between them that hold
  // nothing.
  m.def(
      "squeeze_carried(Tensor x, int statistics)"
      " -> (Tensor mean, Tensor var, Tensor max, Tensor min, Tensor argmax, Tensor argmin,"
      " Tensor token, Tensor carrier)");
  m.def(
      "affine_gate_carried(Tensor x, Tensor scale, Tensor? shift, Tensor? residual,"
      " str activation, Tensor token, Tensor carrier) -> Tensor y");
  m.def(
      "spatial_gate_carried(Tensor x, Tensor weight, Tensor? bias, Tensor? scale, Tensor? shift,"
      " Tensor? residual, str activation, Tensor token, Tensor carrier)"
      " -> (Tensor y, Tensor map, Tensor pooled)");
}
