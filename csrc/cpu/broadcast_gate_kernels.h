// y = act(x * (skip + gate(a * b)) + residual) on the CPU, and the sums in its backward.
#pragma once

#include "../common/broadcast_gate.h"
#include "bands_kernels.h"

namespace attn_kernels::ATTN_ISA {

// fn(gate, is_sum) with both as types.
template <class A, class Fn>
ATTN_INLINE void with_gate(const BroadcastFactor<A>& f, const Fn& fn) {
  const auto with = [&](auto gate) {
    f.is_sum ? fn(gate, std::true_type{}) : fn(gate, std::false_type{});
  };
  switch (f.gate) {
    case Gate::kIdentity:
      return with(IdentityGate{});
    case Gate::kSigmoid:
      return with(SigmoidGate{});
    case Gate::kHardSigmoid:
      return with(HardSigmoidGate{});
  }
}

template <bool kSum, class V>
ATTN_INLINE V combined(V a, V b) {
  if constexpr (kSum) {
    return a + b;
  } else {
    return a * b;
  }
}

template <class T, class G, bool kSum>
void broadcast_gate_tasks(const BroadcastGate<T>& args, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const int64_t line = line_step(args.bands);
  const auto g = args;  // a copy that no store may change
  const auto put = [&](Run run, auto lines) {
    constexpr int kCount = decltype(lines)::value;
    Room<A, kCount> room_a, room_b;
    Along<A, kCount> a(g.bands, g.factor.a, run), b(g.bands, g.factor.b, run);
    for (; run.groups > 0; --run.groups, run.at += kCount * line) {
      a.next(room_a);
      b.next(room_b);
      for_each_vector<A>(run.count, [&](int64_t i, auto lanes) {
#pragma GCC unroll 4
        for (int l = 0; l < kCount; ++l) {
          const int64_t at = run.at + l * line + i;
          const auto gate = G::value(combined<kSum>(a(l, i, lanes), b(l, i, lanes)), VectorExp{});
          auto y = load_lanes(g.x + at, lanes) * (gate + g.factor.skip);
          if (g.residual != nullptr) y += load_lanes(g.residual + at, lanes);
          if (g.relu) y = relu(y);
          store_lanes(g.y + at, y, lanes);
        }
      });
    }
  };
  for (int64_t task = begin; task < end; ++task) for_each_run<1>(args.bands, task, kRun<A>, put);
}

template <class T>
void broadcast_gate(const BroadcastGate<T>& args, int64_t begin, int64_t end) {
  with_gate(args.factor, [&](auto gate, auto is_sum) {
    broadcast_gate_tasks<T, decltype(gate), decltype(is_sum)::value>(args, begin, end);
  });
}

// dr, which is written where there was a ReLU.
template <class T, class Lanes>
ATTN_INLINE Vec<acc_t<T>> masked_gradient(const BroadcastGateSums<T>& g, int64_t at, Lanes lanes,
                                          int64_t ahead) {
  auto dr = load_ahead(g.dy + at, lanes, ahead);
  if (g.y == nullptr) return dr;
  dr = relu_backward(dr, load_ahead(g.y + at, lanes, ahead));
  store_lanes(g.dr + at, dr, lanes);
  return dr;
}

template <class T, class G, bool kSum>
void broadcast_gate_sums_tasks(const BroadcastGateSums<T>& args, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const int64_t line = line_step(args.bands), ahead = elements_ahead<T>(args.bands);
  const auto g = args;  // a copy that no store may change
  const auto sum = [&](Run run, auto lines) {
    constexpr int kCount = decltype(lines)::value;
    Room<A, kCount> room_a, room_b;
    Along<A, kCount> a(g.bands, g.factor.a, run), b(g.bands, g.factor.b, run);
    Room<A, kCount> room_d_a, room_d_b;
    RunSums<A, kCount> d_a(g.bands, g.d_a, run, room_d_a), d_b(g.bands, g.d_b, run, room_d_b);
    for (; run.groups > 0; --run.groups, run.at += kCount * line) {
      a.next(room_a);
      b.next(room_b);
      for_each_vector<A>(run.count, [&](int64_t i, auto lanes) {
        Vec<A> of_a[kCount], of_b[kCount];
#pragma GCC unroll 4
        for (int l = 0; l < kCount; ++l) {
          const int64_t at = run.at + l * line + i;
          const auto va = a(l, i, lanes), vb = b(l, i, lanes), u = combined<kSum>(va, vb);
          const auto d_u = masked_gradient(g, at, lanes, ahead) *
                           load_ahead(g.x + at, lanes, ahead) *
                           G::slope(u, G::value(u, VectorExp{}));
          of_a[l] = fill_missing<A>(kSum ? d_u : d_u * vb, Vec<A>{}, lanes);
          of_b[l] = fill_missing<A>(kSum ? d_u : d_u * va, Vec<A>{}, lanes);
        }
        d_a.add(i, of_a, lanes);
        if (d_b.wanted()) d_b.add(i, of_b, lanes);
      });
      d_a.finish();
      d_b.finish();
    }
  };
  for (int64_t task = begin; task < end; ++task)
    for_each_run<kLines>(args.bands, task, kPart<A>, sum);
}

template <class T>
void broadcast_gate_sums(const BroadcastGateSums<T>& args, int64_t begin, int64_t end) {
  with_gate(args.factor, [&](auto gate, auto is_sum) {
    broadcast_gate_sums_tasks<T, decltype(gate), decltype(is_sum)::value>(args, begin, end);
  });
}

}  // namespace attn_kernels::ATTN_ISA
