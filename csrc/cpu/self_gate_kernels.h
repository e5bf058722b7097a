// y = shuffle(x * sigmoid(p2 d^2 + p1 d + p0)), d = x - center, on the CPU: forward, sums and
// backward.
#pragma once

#include "bands_kernels.h"

namespace attn_kernels::ATTN_ISA {

// Where the lines of a run lie in the shuffled map. In NCHW each is whole, in another plane. In
// channels_last a run's channels lie apart: there they go through a stage.
template <class T, int G>
class ShuffledLines {
  using A = acc_t<T>;

 public:
  struct Stage {
    T values[kRun<A> + kLanes<A>];
  };

  ATTN_INLINE ShuffledLines(const Bands& b, int64_t groups, const Run& run)
      : groups_(groups),
        per_group_(b.c / groups),
        staged_(b.channels_last && groups > 1),
        line_(line_step(b)),
        at_(run.at),
        channel_(run.c),
        count_(run.count) {
    for (int l = 0; l < G; ++l)
      places_[l] = b.channels_last ? run.at + l * line_
                                   : (run.n * b.c + shuffled(run.c + l)) * b.h * b.w + run.column;
  }

  // The lines' own vectors at i, or those of the stage.
  ATTN_INLINE T* at(T* map, Stage& stage, int l, int64_t i) const {
    return staged_ ? stage.values + l * kPart<A> + i : map + places_[l] + i;
  }
  ATTN_INLINE void load_stage(const T* map, Stage& stage) const {
    if (staged_) each([&](int64_t to, int64_t from) { stage.values[to] = map[from]; });
  }
  ATTN_INLINE void store_stage(T* map, const Stage& stage) const {
    if (staged_) each([&](int64_t from, int64_t to) { map[to] = stage.values[from]; });
  }
  // The next group of pixels, in channels_last.
  ATTN_INLINE void next() {
    at_ += G * line_;
    for (int l = 0; l < G; ++l) places_[l] += G * line_;
  }

 private:
  ATTN_INLINE int64_t shuffled(int64_t c) const {
    return c % per_group_ * groups_ + c / per_group_;
  }

  // fn(place in the stage, place in the map) for all of the run.
  template <class Fn>
  ATTN_INLINE void each(const Fn& fn) const {
    int64_t within = channel_ % per_group_, group = channel_ / per_group_;
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t place = at_ - channel_ + within * groups_ + group;
      for (int l = 0; l < G; ++l) fn(l * kPart<A> + i, place + l * line_);
      if (++within == per_group_) within = 0, ++group;
    }
  }

  int64_t groups_, per_group_;
  bool staged_;
  int64_t line_, at_, channel_, count_, places_[G];
};

// The coefficients along the lines of a run.
template <class A, int G>
struct SelfGateAlong {
  Along<A, G> center, p2, p1, p0;

  ATTN_INLINE SelfGateAlong(const Bands& b, const SelfGateOperands<A>& of, const Run& run)
      : center(b, of.center, run), p2(b, of.p2, run), p1(b, of.p1, run), p0(b, of.p0, run) {}
  ATTN_INLINE void next(Room<A, G> (&rooms)[4]) {
    center.next(rooms[0]);
    p2.next(rooms[1]);
    p1.next(rooms[2]);
    p0.next(rooms[3]);
  }
};

template <class V>
ATTN_INLINE V self_gate_value(V d, V p2, V p1, V p0) {
  return sigmoid((p2 * d + p1) * d + p0, VectorExp{});
}

template <class T>
void self_gate(const SelfGate<T>& args, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const int64_t line = line_step(args.bands);
  const auto g = args;  // a copy that no store may change
  const auto put = [&](Run run, auto lines) {
    constexpr int kCount = decltype(lines)::value;
    Room<A, kCount> rooms[4];
    typename ShuffledLines<T, kCount>::Stage stage;
    SelfGateAlong<A, kCount> of(g.bands, g.of, run);
    ShuffledLines<T, kCount> shuffled(g.bands, g.groups, run);
    for (; run.groups > 0; --run.groups, run.at += kCount * line) {
      of.next(rooms);
      for_each_vector<A>(run.count, [&](int64_t i, auto lanes) {
#pragma GCC unroll 4
        for (int l = 0; l < kCount; ++l) {
          const auto x = load_lanes(g.x + run.at + l * line + i, lanes);
          const auto gate = self_gate_value(x - of.center(l, i, lanes), of.p2(l, i, lanes),
                                            of.p1(l, i, lanes), of.p0(l, i, lanes));
          store_lanes(shuffled.at(g.y, stage, l, i), x * gate, lanes);
        }
      });
      shuffled.store_stage(g.y, stage);
      shuffled.next();
    }
  };
  for (int64_t task = begin; task < end; ++task) for_each_run<1>(args.bands, task, kRun<A>, put);
}

template <class T>
void self_gate_sums(const SelfGateSums<T>& args, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const int64_t line = line_step(args.bands), ahead = elements_ahead<T>(args.bands);
  const auto g = args;  // a copy that no store may change
  const auto sum = [&](Run run, auto lines) {
    constexpr int kCount = decltype(lines)::value;
    Room<A, kCount> rooms[4];
    typename ShuffledLines<T, kCount>::Stage stage;
    SelfGateAlong<A, kCount> of(g.bands, g.of, run);
    ShuffledLines<T, kCount> shuffled(g.bands, g.groups, run);
    Room<A, kCount> room;
    RunSums<A, kCount> d_p2(g.bands, g.d_p2, run, room), d_p1(g.bands, g.d_p1, run, room);
    RunSums<A, kCount> d_p0(g.bands, g.d_p0, run, room);
    for (; run.groups > 0; --run.groups, run.at += kCount * line) {
      of.next(rooms);
      shuffled.load_stage(g.dy, stage);
      for_each_vector<A>(run.count, [&](int64_t i, auto lanes) {
        Vec<A> of_p2[kCount], of_p1[kCount], of_p0[kCount];
#pragma GCC unroll 4
        for (int l = 0; l < kCount; ++l) {
          const auto x = load_ahead(g.x + run.at + l * line + i, lanes, ahead);
          const auto dy = load_lanes(shuffled.at(const_cast<T*>(g.dy), stage, l, i), lanes);
          const auto d = x - of.center(l, i, lanes);
          const auto gate =
              self_gate_value(d, of.p2(l, i, lanes), of.p1(l, i, lanes), of.p0(l, i, lanes));
          of_p0[l] = fill_missing<A>(sigmoid_backward(dy * x, gate), Vec<A>{}, lanes);
          of_p1[l] = fill_missing<A>(of_p0[l] * d, Vec<A>{}, lanes);
          of_p2[l] = of_p1[l] * d;
        }
        d_p2.add(i, of_p2, lanes);
        d_p1.add(i, of_p1, lanes);
        d_p0.add(i, of_p0, lanes);
      });
      d_p2.finish();
      d_p1.finish();
      d_p0.finish();
      shuffled.next();
    }
  };
  for (int64_t task = begin; task < end; ++task)
    for_each_run<kLines>(args.bands, task, kPart<A>, sum);
}

template <class T>
void self_gate_backward(const SelfGateBackward<T>& args, int64_t begin, int64_t end) {
  using A = acc_t<T>;
  const int64_t line = line_step(args.bands);
  const auto g = args;  // a copy that no store may change
  const auto put = [&](Run run, auto lines) {
    constexpr int kCount = decltype(lines)::value;
    Room<A, kCount> rooms[4], room_slope, room_offset;
    typename ShuffledLines<T, kCount>::Stage stage;
    SelfGateAlong<A, kCount> of(g.bands, g.of, run);
    Along<A, kCount> slope(g.bands, g.slope, run), offset(g.bands, g.offset, run);
    ShuffledLines<T, kCount> shuffled(g.bands, g.groups, run);
    for (; run.groups > 0; --run.groups, run.at += kCount * line) {
      of.next(rooms);
      slope.next(room_slope);
      offset.next(room_offset);
      shuffled.load_stage(g.dy, stage);
      for_each_vector<A>(run.count, [&](int64_t i, auto lanes) {
#pragma GCC unroll 4
        for (int l = 0; l < kCount; ++l) {
          const int64_t at = run.at + l * line + i;
          const auto x = load_lanes(g.x + at, lanes);
          const auto dy = load_lanes(shuffled.at(const_cast<T*>(g.dy), stage, l, i), lanes);
          const auto d = x - of.center(l, i, lanes), p2 = of.p2(l, i, lanes);
          const auto p1 = of.p1(l, i, lanes);
          const auto gate = self_gate_value(d, p2, p1, of.p0(l, i, lanes));
          const auto d_u = sigmoid_backward(dy * x, gate);
          const auto of_statistics = slope(l, i, lanes) * x + offset(l, i, lanes);
          store_lanes(g.dx + at, dy * gate + d_u * (2 * p2 * d + p1) + of_statistics, lanes);
        }
      });
      shuffled.next();
    }
  };
  for (int64_t task = begin; task < end; ++task) for_each_run<1>(args.bands, task, kRun<A>, put);
}

}  // namespace attn_kernels::ATTN_ISA
