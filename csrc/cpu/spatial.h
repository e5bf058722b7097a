// What the CPU ops spatial_gate, spatial_attention and channel_pool share: tasks, the affine view
// and its gradients.
#pragma once

#include <algorithm>
#include <array>
#include <vector>

#include "../common/spatial_operands.h"
#include "launch.h"

namespace attn_kernels {

// channel_pool's.
constexpr Stencil kNoStencil{1, 1, 1};

// Images are the tasks; where they don't share out evenly over the threads, their rows are split
// as well, in whole units. No result depends on the split.
inline Problem make_problem(const FeatureMap& x, const Stencil& stencil = kNoStencil,
                            int64_t rows_per_unit = 1) {
  const int64_t threads = torch::stable::get_num_threads();
  const bool even = x.n % threads == 0 || x.n >= 4 * threads;
  // Where an image is one pixel both memory formats are one, and channels_last has longer rows.
  const bool channels_last = x.channels_last || x.h * x.w == 1;
  Problem p{x.n, x.c,          x.h, x.w, channels_last, stencil.k, stencil.images_per_group,
            1,   rows_per_unit};
  if (!even) p.bands = std::clamp<int64_t>(std::min(x.h / 8, p.units()), 1, threads);
  return p;
}

// kernel(args, begin, end) over all bands, in as many threads as the work is worth.
template <class Args>
void run_bands(void (*kernel)(const Args&, int64_t, int64_t), const Args& args) {
  constexpr int64_t kElementsPerThread = 1 << 15;
  const Problem& p = args.problem;
  const int64_t per_task = std::max<int64_t>(p.c * p.h * p.w / p.bands, 1);
  const int64_t grain = (kElementsPerThread + per_task - 1) / per_task;
  torch::stable::parallel_for(0, p.n * p.bands, grain,
                              [&](int64_t begin, int64_t end) { kernel(args, begin, end); });
}

template <class T>
const T* data_or_null(const std::optional<Tensor>& t) {
  return t ? data<T>(*t) : nullptr;
}

template <class T>
View<T> view_of(const FeatureMap& x, const std::optional<Tensor>& scale,
                const std::optional<Tensor>& shift) {
  using A = acc_t<T>;
  return {data<T>(x.tensor), data_or_null<A>(scale), data_or_null<A>(shift)};
}

// The backward's problem: where there is a view, rows come in units of some pixels, whatever the
// number of threads, since d_scale and d_shift are summed up per unit.
inline Problem make_backward_problem(const FeatureMap& x, const Stencil& stencil, bool with_view) {
  constexpr int64_t kPixelsPerUnit = 256;
  return make_problem(x, stencil,
                      with_view ? std::clamp<int64_t>(kPixelsPerUnit / x.w, 1, x.h) : 1);
}

// d_scale and d_shift (n, c), and the kernels' sums of all units; all empty where there is no view.
struct ViewGradients {
  Tensor d_scale, d_shift;
  std::vector<double> sums;  // (n, units, 2, c)
};

inline ViewGradients make_view_gradients(const FeatureMap& x, const Problem& p, bool with_view) {
  const ScalarType acc = x.acc_dtype();
  if (!with_view) return {nothing(x, acc), nothing(x, acc), {}};
  const std::array sizes{x.n, x.c};
  return {empty(x, sizes, acc), empty(x, sizes, acc),
          std::vector<double>(static_cast<size_t>(x.n * p.units() * 2 * x.c))};
}

// Adds up the sums in the order of the units.
template <class A>
void add_units(const Problem& p, const ViewGradients& view) {
  if (view.sums.empty()) return;
  const int64_t units = p.units();
  torch::stable::parallel_for(0, p.n * 2, 65536 / (units * p.c) + 1, [&](int64_t i, int64_t end) {
    for (; i < end; ++i) {
      const int64_t n = i / 2, which = i % 2;
      const double* sums = view.sums.data() + (n * units * 2 + which) * p.c;
      A* total = data<A>(which == 0 ? view.d_scale : view.d_shift) + n * p.c;
      for (int64_t c = 0; c < p.c; ++c) {
        double sum = 0;
        for (int64_t unit = 0; unit < units; ++unit) sum += sums[unit * 2 * p.c + c];
        total[c] = static_cast<A>(sum);
      }
    }
  });
}

}  // namespace attn_kernels
