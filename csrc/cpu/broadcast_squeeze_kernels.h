// Statistics that broadcast to the map, all in one read, and the one pass that brings their
// gradients, and the gate's, back to it: on the CPU.
#pragma once

#include "broadcast_gate_kernels.h"

namespace attn_kernels::ATTN_ISA {

template <class T>
void broadcast_squeeze(const BroadcastSqueeze<T>& args, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const int64_t line = line_step(args.bands), ahead = elements_ahead<T>(args.bands);
  const auto s = args;  // a copy that no store may change
  const auto sum = [&](Run run, auto lines) {
    constexpr int kCount = decltype(lines)::value;
    Room<A, kCount> room, rooms[4];
    Along<A, kCount> weight(s.bands, s.weight, run);
    RunSums<A, kCount> mean(s.bands, s.mean, run, rooms[0]), sum(s.bands, s.sum, run, rooms[1]);
    RunSums<A, kCount> rows(s.bands, s.rows, run, rooms[2]);
    RunSums<A, kCount> columns(s.bands, s.columns, run, rooms[3]);
    for (; run.groups > 0; --run.groups, run.at += kCount * line) {
      weight.next(room);
      for_each_vector<A>(run.count, [&](int64_t i, auto lanes) {
        Vec<A> x[kCount];
#pragma GCC unroll 4
        for (int l = 0; l < kCount; ++l)
          x[l] = load_ahead(s.x + run.at + l * line + i, lanes, ahead);
        if (mean.wanted()) mean.add(i, x, lanes);
        if (rows.wanted()) rows.add(i, x, lanes);
        if (columns.wanted()) columns.add(i, x, lanes);
        if (sum.wanted()) {
#pragma GCC unroll 4
          for (int l = 0; l < kCount; ++l) x[l] *= weight(l, i, lanes);
          sum.add(i, x, lanes);
        }
      });
      mean.finish();
      sum.finish();
      rows.finish();
      columns.finish();
    }
  };
  for (int64_t task = begin; task < end; ++task)
    for_each_run<kLines>(args.bands, task, kPart<A>, sum);
}

template <class T, class G, bool kSum>
void broadcast_squeeze_backward_tasks(const BroadcastSqueezeBackward<T>& args, int64_t begin,
                                      int64_t end) {
  using A = acc_t<T>;
  const A of_row = A(1) / static_cast<A>(args.bands.w),
          of_column = A(1) / static_cast<A>(args.bands.h);
  const A of_pixel = A(1) / static_cast<A>(args.bands.h * args.bands.w);
  const int64_t line = line_step(args.bands);
  const auto g = args;  // a copy that no store may change
  const auto put = [&](Run run, auto lines) {
    constexpr int kCount = decltype(lines)::value;
    Room<A, kCount> rooms[7];
    Along<A, kCount> a(g.bands, g.factor.a, run), b(g.bands, g.factor.b, run);
    Along<A, kCount> weight(g.bands, g.weight, run), d_sum(g.bands, g.d_sum, run);
    Along<A, kCount> d_mean(g.bands, g.d_mean, run);
    Along<A, kCount> d_rows(g.bands, g.d_rows, run), d_columns(g.bands, g.d_columns, run);
    Room<A, kCount> room;
    RunSums<A, kCount> d_weight(g.bands, g.d_weight, run, room);
    for (; run.groups > 0; --run.groups, run.at += kCount * line) {
      a.next(rooms[0]);
      b.next(rooms[1]);
      weight.next(rooms[2]);
      d_sum.next(rooms[3]);
      d_mean.next(rooms[4]);
      d_rows.next(rooms[5]);
      d_columns.next(rooms[6]);
      for_each_vector<A>(run.count, [&](int64_t i, auto lanes) {
        Vec<A> of_weight[kCount]{};
#pragma GCC unroll 4
        for (int l = 0; l < kCount; ++l) {
          const int64_t at = run.at + l * line + i;
          Vec<A> dx{};
          if (g.dr != nullptr) {
            const auto gate = G::value(combined<kSum>(a(l, i, lanes), b(l, i, lanes)), VectorExp{});
            dx = load_lanes(g.dr + at, lanes) * (gate + g.factor.skip);
          }
          if (g.d_mean.data != nullptr) dx += d_mean(l, i, lanes) * of_pixel;
          if (g.d_rows.data != nullptr) dx += d_rows(l, i, lanes) * of_row;
          if (g.d_columns.data != nullptr) dx += d_columns(l, i, lanes) * of_column;
          if (d_weight.wanted()) {
            const auto d = d_sum(l, i, lanes);
            dx += d * weight(l, i, lanes);
            of_weight[l] = d * load_lanes(g.x + at, lanes);
          }
          store_lanes(g.dx + at, dx, lanes);
        }
        if (d_weight.wanted()) d_weight.add(i, of_weight, lanes);
      });
      d_weight.finish();
    }
  };
  const int64_t most = args.d_weight.data != nullptr ? kPart<A> : kRun<A>;
  for (int64_t task = begin; task < end; ++task) for_each_run<1>(args.bands, task, most, put);
}

template <class T>
void broadcast_squeeze_backward(const BroadcastSqueezeBackward<T>& args, int64_t begin,
                                int64_t end) {
  with_gate(args.factor, [&](auto gate, auto is_sum) {
    broadcast_squeeze_backward_tasks<T, decltype(gate), decltype(is_sum)::value>(args, begin, end);
  });
}

}  // namespace attn_kernels::ATTN_ISA
