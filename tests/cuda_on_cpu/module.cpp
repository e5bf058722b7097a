// csrc/cuda on the CPU, for pytest.
#include <cxxabi.h>
#include <dlfcn.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "broadcast_ops.h"

namespace {

using namespace cuda_on_cpu;

std::vector<Bytes> run_dtype(const std::string& op, const std::string& dtype, const Case& at,
                             const std::vector<Bytes>& input) {
  if (dtype == "float32") return BroadcastOps<float>{at, input}.run(op);
#if !defined(CUDA_ON_CPU_ONLY_FLOAT32)
  if (dtype == "float16") return BroadcastOps<__half>{at, input}.run(op);
  if (dtype == "bfloat16") return BroadcastOps<__nv_bfloat16>{at, input}.run(op);
  if (dtype == "float64") return BroadcastOps<double>{at, input}.run(op);
#endif
  throw std::runtime_error("no dtype " + dtype);
}

std::vector<pybind11::bytes> run(const std::string& op, const std::string& dtype,
                                 std::array<std::int64_t, 4> shape, bool channels_last, int k,
                                 const std::vector<Bytes>& input, int skew,
                                 const std::string& order, int alive, std::int64_t groups,
                                 bool relu) {
  const Order block_order = order == "forward"   ? Order::kForward
                            : order == "reverse" ? Order::kReverse
                                                 : Order::kShuffled;
  const Case at{Shape(shape[0], shape[1], shape[2], shape[3]),
                channels_last,
                k,
                skew,
                Launch{block_order, alive},
                groups,
                relu};
  std::vector<Bytes> output;
  {
    pybind11::gil_scoped_release unlocked;
    output = run_dtype(op, dtype, at, input);
  }
  return {output.begin(), output.end()};
}

// The launches of an op: kernel, blocks, threads and bytes of shared memory of each.
using Geometry = std::vector<std::tuple<std::string, std::int64_t, std::int64_t, std::int64_t>>;

// "gate_kernel", from the address of any of its instances.
std::string name_of(const void* kernel) {
  Dl_info info;
  if (dladdr(kernel, &info) == 0 || info.dli_sname == nullptr) return "";
  const std::unique_ptr<char, void (*)(void*)> full(
      abi::__cxa_demangle(info.dli_sname, nullptr, nullptr, nullptr), std::free);
  const std::string name(full.get(), std::string_view(full.get()).find('<'));
  return name.substr(name.rfind(':') + 1);
}

struct Recorder {
  Geometry* launches;

  template <class Kernel, class... Arguments>
  void operator()(Kernel kernel, std::int64_t blocks, int threads, std::int64_t shared_bytes,
                  Arguments...) const {
    const std::string name = name_of(reinterpret_cast<const void*>(kernel));
    launches->push_back({name, blocks, threads, shared_bytes});
  }
};

// What would be launched for this shape; no memory is touched.
template <class T>
Geometry geometry_of(const std::string& op, std::array<std::int64_t, 4> sizes, bool channels_last,
                     int k, bool aligned, bool view) {
  using Real = Acc<T>;
  const Shape shape(sizes[0], sizes[1], sizes[2], sizes[3]);
  T* x = reinterpret_cast<T*>(aligned ? std::uintptr_t{64} : 64 + sizeof(T));
  Real* real = reinterpret_cast<Real*>(std::uintptr_t{64});
  const Real* scale = view ? real : nullptr;
  auto* places = reinterpret_cast<std::int64_t*>(real);
  const attn_kernels::SpatialGradient<T> gradient{
      x,    {k, 1, real, real}, real, real, scale, scale, real, real, real, real, nullptr, x, real,
      real, {real, real, real}};
  Geometry launches;
  const Recorder launch{&launches};
  const attn_kernels::Convolution<Real> conv{k, 1, real, real};
  const attn_kernels::ViewGradients<Real> grads{real, real, real};
  if (launch_mix_ops<T>(launch, op, shape, channels_last, x, view)) return launches;
  if (op == "channel_pool") {
    attn_kernels::pool<T>(launch, shape, channels_last, x, scale, scale, real, x);
  } else if (op == "channel_pool_backward") {
    attn_kernels::channel_pool_backward<T>(launch, shape, channels_last,
                                           {x, real, scale, scale, real, nullptr, x, grads});
  } else if (op == "spatial_gate") {
    attn_kernels::spatial_gate<T>(
        launch, shape, channels_last,
        {{x, conv, scale, scale, real, real, real}, view ? x : nullptr, view, x});
  } else if (op == "spatial_gate_backward") {
    T* y = view ? x : nullptr;
    attn_kernels::spatial_gate_backward<T>(launch, shape, channels_last, {gradient, x, y, y});
  } else if (op == "spatial_attention") {
    attn_kernels::spatial_attention<T>(launch, shape, channels_last,
                                       {x, conv, scale, scale, real, real, real});
  } else if (op == "spatial_attention_backward") {
    attn_kernels::spatial_attention_backward<T>(launch, shape, channels_last, gradient, real);
  } else if (op == "squeeze") {
    attn_kernels::squeeze<T>(launch, shape, channels_last, x, real,
                             {real, real, view ? real : nullptr, nullptr, places, nullptr});
  } else if (op == "squeeze_backward") {
    attn_kernels::squeeze_gradient<T>(
        launch, channels_last,
        {shape, {}, x, x, real, scale, real, {view ? places : nullptr, real}, {}, x});
  } else if (op == "affine_gate") {
    attn_kernels::gate<T, false>(launch, channels_last,
                                 {shape, {}, x, nullptr, real, scale, view ? x : nullptr, x, view});
  } else if (op == "squeeze_excite") {
    const int r = shape.c / 16 + 1;
    attn_kernels::squeeze_excite<T>(
        launch, shape, channels_last,
        {x,
         {shape.n, shape.c, r, 0, 0, {}, {}, {}, real, real, real, real, real, real, real},
         real,
         x});
  } else if (op == "squeeze_excite_backward") {
    const int r = shape.c / 16 + 1;
    attn_kernels::squeeze_excite_backward<T>(launch, shape, channels_last,
                                             {x,
                                              x,
                                              {shape.n,
                                               shape.c,
                                               r,
                                               {},
                                               {},
                                               real,
                                               real,
                                               real,
                                               real,
                                               real,
                                               nullptr,
                                               0,
                                               real,
                                               real,
                                               real,
                                               real,
                                               real,
                                               real},
                                              nullptr,
                                              real,
                                              real,
                                              x});
  } else if (op == "affine_gate_sums") {
    T* y = view ? x : nullptr;
    attn_kernels::affine_gate_sums<T>(launch, shape, channels_last,
                                      {x, x, y, nullptr, real, real, y});
  } else {
    launch_broadcast<T>(launch, op, shape, channels_last, x, real, view);
  }
  return launches;
}

Geometry geometry(const std::string& op, const std::string& dtype,
                  std::array<std::int64_t, 4> shape, bool channels_last, int k, bool aligned,
                  bool view) {
  const auto of = [&](auto type) {
    return geometry_of<decltype(type)>(op, shape, channels_last, k, aligned, view);
  };
  if (dtype == "float32") return of(float());
#if !defined(CUDA_ON_CPU_ONLY_FLOAT32)
  if (dtype == "float16") return of(__half());
  if (dtype == "float64") return of(double());
#endif
  throw std::runtime_error("no dtype " + dtype);
}

}  // namespace

PYBIND11_MODULE(NAME, m) {
  m.def("run", &run);
  m.def("geometry", &geometry);
}
