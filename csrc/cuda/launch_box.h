// The launches of the ops whose operands broadcast to a map, without torch (see launch.h).
#pragma once

#include <initializer_list>

#include "broadcast_gate.cuh"
#include "self_gate.cuh"

namespace attn_kernels {

// Whether vectors of 16 bytes can be moved at all of them; null is any place.
template <class T>
bool all_aligned(std::initializer_list<const T*> tensors) {
  return std::all_of(tensors.begin(), tensors.end(), [](const T* tensor) {
    return reinterpret_cast<std::uintptr_t>(tensor) % 16 == 0;
  });
}

// Calls run(vector) with 16 bytes where memory allows, else with single elements.
template <class T, class Run>
void with_box_vector(const Box& box, std::initializer_list<const T*> tensors, Run run) {
  constexpr int kFull = 16 / sizeof(T);
  if (box.elements() % kFull == 0 && all_aligned(tensors)) return run(Int<kFull>());
  run(Int<1>());
}

// maps: that are staged in shared memory.
template <class T, int V, class Launch, class Arguments>
void stream_box(const Launch& launch, void (*kernel)(Arguments), Arguments of, int maps) {
  of.stream = box_stream(of.box, V);
  launch(kernel, of.stream.blocks, of.stream.threads, staged_bytes<T, V>(maps, of.stream.threads),
         of);
}

template <class T, class Launch>
void broadcast_gate(const Launch& launch, const BroadcastGateArguments<T>& of) {
  with_box_vector<T>(of.box, {of.x, of.residual, of.y}, [&](auto vector) {
    constexpr int V = decltype(vector)::value;
    stream_box<T, V>(launch, broadcast_gate_kernel<T, V>, of, 2);
  });
}

template <class T, class Launch>
void self_gate(const Launch& launch, const SelfGateArguments<T>& of) {
  with_box_vector<T>(of.box, {of.x}, [&](auto vector) {
    constexpr int V = decltype(vector)::value;
    stream_box<T, V>(launch, self_gate_kernel<T, V>, of, 1);
  });
}

template <class T, class Launch>
void self_gate_gradient(const Launch& launch, const SelfGateGradientArguments<T>& of) {
  with_box_vector<T>(of.box, {of.x, of.dx}, [&](auto vector) {
    constexpr int V = decltype(vector)::value;
    stream_box<T, V>(launch, self_gate_gradient_kernel<T, V>, of, 2);
  });
}

// ---- Sums ------------------------------------------------------------------------------------

// A result of these sizes, 1 along what is summed; null where it is not asked for.
template <class Real>
struct BoxResult {
  Real* to;
  int value;
  Extents size;
  Real share = 1;

  Keeps keeps() const { return {size[0] > 1, size[1] > 1, size[2] > 1}; }
  int64_t elements() const { return size[0] * size[1] * size[2]; }
};

template <class Real>
class BoxResults {
 public:
  BoxResults(std::initializer_list<BoxResult<Real>> all) {
    for (const auto& result : all) {
      if (result.to != nullptr) of_[count_] = result, keeps_[count_++] = result.keeps();
    }
  }

  template <class Op>
  BoxTiling tiling(const Box& box, int vector) const {
    return box_tiling(box, vector, keeps_, count_, Op::kValues, sizeof(Real),
                      sizeof(typename Op::Element));
  }

  // Elements of workspace for parts of sums.
  int64_t parts(const Box& box, const BoxTiling& tiling) const {
    int64_t all = 0;
    for (int s = 0; s < count_; ++s) {
      const int64_t parts = tiling.parts(keeps_[s]);
      all += parts > 1 ? parts * box.n * of_[s].elements() : 0;
    }
    return all;
  }

  // What the kernel is told, with parts of sums in `partial`.
  BoxSums<Real> sums(const Box& box, const BoxTiling& tiling, Real* partial) const {
    BoxSums<Real> to{};
    for (; to.count < count_; ++to.count) {
      const BoxResult<Real>& result = of_[to.count];
      const Keeps& keeps = keeps_[to.count];
      const auto dense = spread_of(result.to, result.size);
      BoxSum<Real>& sum = to.of[to.count];
      sum = {result.to, result.value, {}, dense.image, {}, {}, 0, 0, result.share};
      int64_t outputs = 1, inputs = 1;
      unsigned part = 1;
      for (int d = 2; d >= 0; --d) {
        sum.keeps[d] = keeps[d];
        sum.stride[d] = dense.stride[d];
        (keeps[d] ? outputs : inputs) *= tiling.tile[d];
        if (keeps[d]) continue;
        sum.part[d] = part;
        part *= tiling.tiles[d];
      }
      sum.helpers = helpers(tiling, outputs, inputs, keeps);
      if (part == 1) continue;
      sum.to = partial;
      sum.part_elements = box.n * result.elements();
      sum.share = 1;
      partial += part * sum.part_elements;
    }
    return to;
  }

  template <class Launch>
  void fold(const Launch& launch, const Box& box, const BoxTiling& tiling,
            const BoxSums<Real>& sums) const {
    constexpr int kFold = kFoldPlanes * kFoldSlots;
    for (int s = 0; s < count_; ++s) {
      const int64_t parts = tiling.parts(keeps_[s]), elements = box.n * of_[s].elements();
      if (parts == 1) continue;
      launch(plane_fold_kernel<BoxSumParts<Real>>, ceil_div(elements, kFoldPlanes), kFold,
             kFold * static_cast<int64_t>(sizeof(Real)),
             BoxSumParts<Real>{elements, sums.of[s].to, of_[s].to, of_[s].share},
             static_cast<int>(parts));
    }
  }

 private:
  // In a loop over columns alone, or over all that is summed.
  static int helpers(const BoxTiling& tiling, int64_t outputs, int64_t inputs, const Keeps& keeps) {
    const bool two_loops = keeps[1] && !keeps[0] && !keeps[2];
    const int64_t shared_out = two_loops ? tiling.tile[2] : inputs;
    if (outputs > tiling.threads) return 1;
    return fold_helpers(tiling.threads, static_cast<int>(outputs), static_cast<int>(shared_out));
  }

  int count_ = 0;
  BoxResult<Real> of_[kBoxSums]{};
  Keeps keeps_[kBoxSums]{};
};

// Elements of workspace, whatever the pointers.
template <class Op>
int64_t box_sum_partials(const Box& box, const BoxResults<typename Op::Real>& results) {
  int64_t most = 0;
  for (const int vector : {1, static_cast<int>(16 / sizeof(typename Op::Element))}) {
    const BoxTiling tiling = results.template tiling<Op>(box, vector);
    if (tiling.tile[0] > 0) most = std::max(most, results.parts(box, tiling));
  }
  return most;
}

template <class Op, int V, class Launch>
void sum_box(const Launch& launch, Op op, const BoxTiling& tiling,
             const BoxResults<typename Op::Real>& results, typename Op::Real* partial) {
  using Real = typename Op::Real;
  op.tiling = tiling;
  op.sums = results.sums(op.box, tiling, partial);
  const int64_t elements =
      int64_t{Op::kValues} * tiling.pitch + int64_t{op.sums.count} * tiling.threads;
  launch(box_sums_kernel<Op, V>, tiling.blocks, tiling.threads,
         elements * static_cast<int64_t>(sizeof(Real)), op);
  results.fold(launch, op.box, tiling, op.sums);
}

// partial: box_sum_partials() of workspace.
template <class Op, class Launch>
void sum_box(const Launch& launch, const Op& op,
             std::initializer_list<const typename Op::Element*> tensors,
             const BoxResults<typename Op::Real>& results, typename Op::Real* partial) {
  constexpr int kFull = 16 / sizeof(typename Op::Element);
  const BoxTiling full = results.template tiling<Op>(op.box, kFull);
  if (full.tile[0] > 0 && all_aligned(tensors)) {
    return sum_box<Op, kFull>(launch, op, full, results, partial);
  }
  sum_box<Op, 1>(launch, op, results.template tiling<Op>(op.box, 1), results, partial);
}

}  // namespace attn_kernels
