// How the CPU kernel of GAM's channel gate cuts up its work: by the shape, and where there is
// little of it by the number of threads. (The library's products may round differently with it
// anyway.)
//
// Few channels (small weights): tiles of an image, or of several that are small, fill a part of the
// cache, threads take whole tiles, and everything that a tile goes through happens in the cache.
// Many channels, or one tile in all: tiles are large, follow one another, and each step of one is
// shared out over the threads.
#pragma once

#include <algorithm>

#include "launch.h"

namespace attn_kernels {

// A map as `images` of so many pixels each; one whose pixels are outermost is one long image.
template <class T>
struct Map {
  T* data;
  int64_t channels, pixels;
  bool pixels_outermost;

  // Some pixels of one image, a matrix of channels and pixels.
  Matrix<T> part(int64_t image, int64_t first, int64_t count) const {
    if (pixels_outermost) return {data + first * channels, channels, count, 1, channels};
    return {data + image * channels * pixels + first, channels, count, pixels, 1};
  }
};

template <class T>
Map<T> map_of(const FeatureMap& x, const Tensor& tensor, int64_t channels) {
  const bool outermost = pixels_outermost(x);
  return {data<T>(tensor), channels, outermost ? x.pixels() : x.h * x.w, outermost};
}

// Pixels of one image, which are the columns of a tile's matrices from `column` on.
struct Piece {
  int64_t image, first, count, column;

  template <class T>
  Matrix<T> of(const Map<T>& map) const {
    return map.part(image, first, count);
  }
  template <class T>
  Matrix<T> of(const Matrix<T>& matrix) const {
    return matrix.columns_from(column, count);
  }
};

// `images` images from `image` on, of each the pixels [first, first + count).
struct Tile {
  int64_t image, images, first, count;

  int64_t columns() const { return images * count; }
};

class Tiling {
 public:
  // `matrices` of (x.c, r) values are read or written beside each tile.
  Tiling(const FeatureMap& x, int64_t r, int matrices, size_t element_bytes)
      : images_(pixels_outermost(x) ? 1 : x.n),
        pixels_(pixels_outermost(x) ? x.pixels() : x.h * x.w),
        channels_(x.c),
        products_(x.c * r),
        pixels_outermost_(pixels_outermost(x)) {
    // Sooner with pixels outermost: in NCHW it costs a copy to bring small images together.
    const size_t many_weights = pixels_outermost_ ? 2 << 20 : 4 << 20;  // bytes
    shared_ = element_bytes < sizeof(float) || matrices * products_ * sizeof(float) >= many_weights;
    const int64_t threads = shared_ ? 1 : threads_of_use();
    const int64_t wanted = shared_out_evenly(wanted_columns(matrices, element_bytes), threads);
    const int64_t parts = (pixels_ + wanted / 2) / wanted;
    const int64_t rounding =
        pixels_outermost_ ? 1 : 16;  // where pixels are contiguous, whole vectors
    part_ =
        parts <= 1 ? pixels_ : ((pixels_ + parts - 1) / parts + rounding - 1) / rounding * rounding;
    parts_ = part_ > 0 ? (pixels_ + part_ - 1) / part_ : 0;
    batch_ = parts_ == 1 && image_is_small()
                 ? std::clamp<int64_t>(wanted / pixels_, 1, std::max<int64_t>(images_, 1))
                 : 1;
    shared_ = shared_ || tiles() <= 1;
    // Units of so many pixels that sums of their own cost little, and not more than can be of use.
    constexpr int64_t kMostUnits = 64;
    const int64_t columns = std::max<int64_t>(most_columns(), 1);
    tiles_per_unit_ = shared_ ? tiles()
                              : std::max((channels_ / 2 + columns - 1) / columns,
                                         (tiles() + kMostUnits - 1) / kMostUnits);
    if (!shared_ && units() < threads) tiles_per_unit_ = std::max<int64_t>(tiles() / threads, 1);
  }

  int64_t tiles() const { return (images_ + batch_ - 1) / batch_ * parts_; }
  // Tiles whose gradients of the weights are added up in their order: at least one unit.
  int64_t units() const {
    return std::max<int64_t>(
        (tiles() + tiles_per_unit_ - 1) / std::max<int64_t>(tiles_per_unit_, 1), 1);
  }
  int64_t most_columns() const { return batch_ * part_; }
  bool one_image_each() const { return batch_ == 1; }

  // fn(begin, end) over all tiles.
  template <class Fn>
  void share_out_tiles(const Fn& fn) const {
    share_out(tiles(), 1, fn);
  }

  // fn(begin, end) over all units.
  template <class Fn>
  void share_out_units(const Fn& fn) const {
    share_out(units(), tiles_per_unit_, fn);
  }

  template <class Fn>
  void for_each_tile_of_unit(int64_t unit, const Fn& fn) const {
    const int64_t end = std::min((unit + 1) * tiles_per_unit_, tiles());
    for (int64_t i = unit * tiles_per_unit_; i < end; ++i) fn(tile(i));
  }

  Tile tile(int64_t i) const {
    const int64_t image = i / parts_ * batch_, first = i % parts_ * part_;
    return {image, std::min(batch_, images_ - image), first, std::min(part_, pixels_ - first)};
  }

  // fn(piece) over a tile: its part of each image, or smaller pieces shared out over the threads.
  template <class Fn>
  void for_each_piece(const Tile& t, const Fn& fn) const {
    if (!shared_) {
      for (int64_t image = 0; image < t.images; ++image)
        fn(Piece{t.image + image, t.first, t.count, image * t.count});
      return;
    }
    constexpr int64_t kPixels = 64, kElementsPerThread = 1 << 15;
    const int64_t pieces = (t.count + kPixels - 1) / kPixels;
    const int64_t grain = kElementsPerThread / (channels_ * std::min(kPixels, t.count)) + 1;
    torch::stable::parallel_for(0, t.images * pieces, grain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t image = i / pieces, first = i % pieces * kPixels;
        fn(Piece{t.image + image, t.first + first, std::min(kPixels, t.count - first),
                 image * t.count + first});
      }
    });
  }

  // fn(first, count) over so many rows of a matrix: all of them, or blocks shared out.
  template <class Fn>
  void for_each_block(int64_t rows, const Fn& fn) const {
    if (!shared_) return fn(0, rows);
    constexpr int64_t kRows = 64;
    torch::stable::parallel_for(0, (rows + kRows - 1) / kRows, 1, [&](int64_t begin, int64_t end) {
      fn(begin * kRows, std::min(end * kRows, rows) - begin * kRows);
    });
  }

  // A matrix for all pixels of a tile, laid out as the map is.
  template <class G>
  Matrix<G> packed(G* values, int64_t channels, const Tile& t) const {
    if (pixels_outermost_) return {values, channels, t.columns(), 1, channels};
    return {values, channels, t.columns(), t.columns(), 1};
  }

 private:
  static constexpr int64_t kFewestColumns = 48, kWorkPerThread = 1 << 20;

  // What a pixel costs, about: a product of matrices and a pass over a value, in units of one
  // multiplication. Rows of a few pixels take as long as whole vectors.
  int64_t work_per_pixel() const {
    constexpr int64_t kPass = 64, kVector = 16;
    const int64_t missing = pixels_outermost_ ? 1 : std::max<int64_t>(kVector / pixels_, 1);
    return 2 * products_ + kPass * channels_ * missing;
  }

  int64_t threads_of_use() const {
    const int64_t most = images_ * pixels_ * work_per_pixel() / kWorkPerThread;
    return std::clamp<int64_t>(most, 1, torch::stable::get_num_threads());
  }

  // So many columns that each thread gets as many, where a tile or two more would matter.
  int64_t shared_out_evenly(int64_t wanted, int64_t threads) const {
    const int64_t columns = images_ * pixels_, tiles_each = columns / (threads * wanted);
    if (threads == 1 || tiles_each >= 4) return wanted;
    const int64_t shares = threads * std::max<int64_t>(tiles_each, 1);
    return std::max((columns + shares - 1) / shares, kFewestColumns);
  }

  // Pixels of a tile: enough to share out where there is enough to do, not so few that calls of the
  // library or its reading of the weights cost more than the products, and what a cache holds.
  int64_t wanted_columns(int matrices, size_t element_bytes) const {
    constexpr int64_t kTileBytes = 448 << 10, kLargeTileBytes = 4 << 20;
    constexpr int64_t kProductsPerCall = 1 << 20;
    const int64_t pixel_bytes = channels_ * static_cast<int64_t>(element_bytes);
    if (shared_) return std::max(kLargeTileBytes / pixel_bytes, kFewestColumns);
    const int64_t worth_a_call = (kProductsPerCall + products_ - 1) / products_;
    const int64_t at_least = std::max(worth_a_call, channels_ * matrices / 8);
    return std::max(std::min(std::max(images_ * pixels_ / 8, at_least), kTileBytes / pixel_bytes),
                    kFewestColumns);
  }

  // An image that is large enough is used where it lies; smaller ones are brought together.
  bool image_is_small() const {
    constexpr int64_t kFewPixels = 48, kFewPixelsShared = 512, kFewProducts = 1 << 18;
    if (shared_) return pixels_ < kFewPixelsShared;
    return pixels_ < kFewPixels || pixels_ * products_ < kFewProducts;
  }

  template <class Fn>
  void share_out(int64_t tasks, int64_t tiles_per_task, const Fn& fn) const {
    if (shared_) return fn(0, tasks);
    const int64_t work = most_columns() * tiles_per_task * work_per_pixel();
    torch::stable::parallel_for(0, tasks, kWorkPerThread / std::max<int64_t>(work, 1) + 1, fn);
  }

  int64_t images_, pixels_, channels_, products_, part_, parts_, batch_, tiles_per_unit_;
  bool pixels_outermost_, shared_;
};

// The matrices of one tile after another, of the products' type: where they lie in the map if that
// will do, else in room of its own.
template <class T, class G>
class Staging {
 public:
  Staging(const Tiling& tiling, const FeatureMap& x, int64_t channels)
      : tiling_(tiling),
        in_place_(std::is_same_v<T, G> && tiling.one_image_each()),
        room_(in_place_ ? Tensor()
                        : empty(x, std::array{channels * tiling.most_columns()}, kScalarType<G>)) {}

  Matrix<G> room_for(const Map<T>& map, const Tile& t) const {
    if constexpr (std::is_same_v<T, G>) {
      if (in_place_) return map.part(t.image, t.first, t.count);
    }
    return tiling_.packed(data<G>(room_), map.channels, t);
  }

  template <class Copy>
  Matrix<G> copy_of(const Map<T>& map, const Tile& t, const Copy& copy) const {
    const Matrix<G> matrix = room_for(map, t);
    if (!in_place_)
      tiling_.for_each_piece(t, [&](const Piece& piece) { copy(piece.of(map), piece.of(matrix)); });
    return matrix;
  }

 private:
  const Tiling& tiling_;
  const bool in_place_;
  const Tensor room_;
};

}  // namespace attn_kernels
