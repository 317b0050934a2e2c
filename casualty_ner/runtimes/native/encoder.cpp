// A BERT encoder with a token-classification head for processors with AMX: token ids in, logits out, in bfloat16.
//
// What makes it fast:
// - No padding. The windows of a batch stand one after the other as rows of one matrix; only attention knows where each begins.
// - Every matrix product is one routine, `multiply`: 32 rows by 32 columns in four tile registers. Weights are laid out once as the
//   tile unit reads them, activations as they are produced, so that each tile is one stretch of 1 KiB.
// - What follows a product (bias, GELU, rounding to bfloat16) is computed in the vector units while the tile unit works on the next.
// - One thread runs a whole batch and shares nothing that is written, so cores never wait for each other.
//
// Numbers: products take bfloat16 and sum in float32, in an order that depends on the layer only; so a token's logits do not depend
// on what else is in the batch, to the last bit. The residual stream, layer norms, softmax and the head are float32.
//
// Layout of activations ("blocked"): blocks of 32 rows, in each the 32-column blocks one after the other, in each 32 rows of 32
// bfloat16 (2 KiB, two tiles). Queries, keys and values are "striped" instead: 32-column blocks with all rows of the batch, because
// windows begin at any row.

#include <immintrin.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <vector>

namespace {

using bf16 = uint16_t;

constexpr int kTile = 16;           // rows of a tile, and its columns in float32
constexpr int kBlock = 32;          // rows and columns of a block; the depth of one tile product
constexpr int kTileSize = 512;      // bfloat16 values in a tile
constexpr int kBlockSize = 1024;    // and in a block

size_t blocks(size_t count) { return (count + kBlock - 1) / kBlock; }

// Memory in huge pages where the system gives them: the weights are far more than the TLB covers in small ones.
template <class T>
class Array {
 public:
  Array() = default;
  explicit Array(size_t count) {
    constexpr size_t kHuge = size_t{1} << 21;
    const size_t page = count * sizeof(T) < kHuge / 4 ? 4096 : kHuge;
    const size_t bytes = (count * sizeof(T) + page - 1) / page * page;
    void* memory = std::aligned_alloc(page, bytes);
    if (memory == nullptr) throw std::bad_alloc();
    madvise(memory, bytes, MADV_HUGEPAGE);
    std::memset(memory, 0, bytes);
    data_.reset(static_cast<T*>(memory));
  }
  operator T*() const { return data_.get(); }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> data_;
};

// ---- vectors of 16 float32 ----

using Vector = __m512;

inline Vector load(const float* from) { return _mm512_loadu_ps(from); }
inline void store(float* to, Vector value) { _mm512_storeu_ps(to, value); }

// 32 float32, in two vectors, rounded to bfloat16.
inline void store(bf16* to, Vector low, Vector high) { _mm512_storeu_si512(to, (__m512i)_mm512_cvtne2ps_pbh(high, low)); }

inline Vector polynomial(Vector x, const float* coefficients, int count) {
  Vector sum = _mm512_set1_ps(coefficients[count - 1]);
  for (int i = count - 2; i >= 0; --i) sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(coefficients[i]));
  return sum;
}

// x * (1 + erf(x / sqrt 2)) / 2 with an absolute error below 6e-5: (1/2 + t P(t^2)) x, t being x cut to +-4.25, where the
// polynomial is exactly 1/2 so that large values pass unchanged.
inline Vector gelu(Vector x) {
  static constexpr float kCoefficients[] = {0.39884641766548157f,    -0.0662384033203125f,     0.009748895652592182f,
                                            -0.001088324235752225f,  9.006889740703627e-05f,   -5.305104878061684e-06f,
                                            2.0773491371528507e-07f, -4.798717423426524e-09f,  4.912795864564501e-11f};
  const Vector limit = _mm512_set1_ps(4.25f);
  const Vector t = _mm512_max_ps(_mm512_min_ps(x, limit), _mm512_sub_ps(_mm512_setzero_ps(), limit));
  const Vector share = polynomial(_mm512_mul_ps(t, t), kCoefficients, 9);
  return _mm512_mul_ps(x, _mm512_fmadd_ps(t, share, _mm512_set1_ps(0.5f)));
}

// ---- the tile unit ----

struct alignas(64) TileConfig {
  uint8_t palette = 1, start_row = 0, reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};

// While one of these lives, the thread may use the tile registers; and numbers too small to matter count as zero.
class Tiles {
 public:
  Tiles() : control_(_mm_getcsr()) {
    TileConfig config;
    for (int tile = 0; tile < 8; ++tile) config.row_bytes[tile] = 64, config.rows[tile] = kTile;
    _tile_loadconfig(&config);
    _mm_setcsr(control_ | 0x8040);
  }
  ~Tiles() {
    _tile_release();
    _mm_setcsr(control_);
  }

 private:
  unsigned control_;
};

// sums[32][32] (rows `stride` floats apart) = left x right, over `depth` blocks; added to what is there if `more`. A block of `left`
// is 32 rows of 32 values, the next is `step` values on; a block of `right` is two tiles of 16 columns, each 16 rows of pairs
// (values 2r and 2r + 1 of a column). `between(k)` is called after the k-th blocks have been handed to the tile unit.
template <class Between>
inline void multiply(const bf16* left, size_t step, const bf16* right, int depth, float* sums, int stride, bool more,
                     Between between) {
  const size_t bytes = stride * sizeof(float);
  float* lower = sums + kTile * stride;
  asm volatile("" ::: "memory");  // the compiler does not know that tile loads read what was stored before
  if (more) {
    _tile_loadd(0, sums, bytes);
    _tile_loadd(1, sums + kTile, bytes);
    _tile_loadd(2, lower, bytes);
    _tile_loadd(3, lower + kTile, bytes);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int k = 0; k < depth; ++k) {
    _tile_loadd(4, left, 64);
    _tile_stream_loadd(6, right, 64);  // passes the first cache by, which is for `left`
    _tile_stream_loadd(7, right + kTileSize, 64);
    _tile_loadd(5, left + kTileSize, 64);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
    left += step;
    right += kBlockSize;
    between(k);
  }
  _tile_stored(0, sums, bytes);
  _tile_stored(1, sums + kTile, bytes);
  _tile_stored(2, lower, bytes);
  _tile_stored(3, lower + kTile, bytes);
}

inline void multiply(const bf16* left, size_t step, const bf16* right, int depth, float* sums, int stride, bool more = false) {
  multiply(left, step, right, depth, sums, stride, more, [](int) {});
}

// ---- layers ----

struct Norm {
  Array<float> scale, shift;
};

// A linear layer: for each block of 32 outputs the blocks of inputs, as `multiply` takes them on the right.
struct Linear {
  int inputs = 0, outputs = 0;
  Array<bf16> weights;
  Array<float> bias;

  Linear() = default;
  Linear(int inputs, int outputs) : inputs(inputs), outputs(outputs), weights(size_t(inputs) * outputs), bias(outputs) {}

  const bf16* panel(int block) const { return weights + size_t(block) * inputs * kBlock; }

  // Take `count` outputs from a layer of torch (weights [count, inputs]) as those from `first` on, all multiplied by `factor`.
  void take(const float* torch_weights, const float* torch_bias, int first, int count, float factor = 1) {
    for (int output = 0; output < count; ++output) {
      const int column = first + output;
      bias[column] = torch_bias[output] * factor;
      bf16* tile = weights + size_t(column / kBlock) * inputs * kBlock + column % kBlock / kTile * kTileSize;
      for (int input = 0; input < inputs; ++input) {
        const __m128bh rounded = _mm_cvtneps_pbh(_mm_set1_ps(torch_weights[size_t(output) * inputs + input] * factor));
        bf16* block = tile + size_t(input / kBlock) * kBlockSize;
        block[input % kBlock / 2 * kBlock + column % kTile * 2 + input % 2] = bf16(_mm_extract_epi16((__m128i)rounded, 0));
      }
    }
  }
};

// The product of a block of 32 rows with a layer, 32 outputs at a time. `finish(block, row, low, high)` is given each row of 32
// sums, the bias added; it works on one block of outputs while the tile unit works on the next. Many inputs are taken in chunks, so
// that the rows' part of one stays in the first cache; `sums` has room for [outputs][32] then.
template <class Finish>
inline void product(const bf16* left, const Linear& layer, float* sums, Finish finish) {
  constexpr int kChunk = 12;
  const int depth = layer.inputs / kBlock, count = layer.outputs / kBlock;
  auto of = [&](int block) { return sums + (depth > kChunk ? block : block % 2) * kBlockSize; };
  auto rows = [&](int block, int from, int to) {
    const float* values = of(block);
    const Vector low = load(layer.bias + block * kBlock), high = load(layer.bias + block * kBlock + kTile);
    for (int row = from; row < to; ++row) {
      finish(block, row, _mm512_add_ps(load(values + row * kBlock), low), _mm512_add_ps(load(values + row * kBlock + kTile), high));
    }
  };
  int first = 0;
  for (; first + kChunk < depth; first += kChunk) {
    for (int block = 0; block < count; ++block) {
      multiply(left + first * kBlockSize, kBlockSize, layer.panel(block) + first * kBlockSize, kChunk, of(block), kBlock, first > 0);
    }
  }
  const int rest = depth - first, share = (kBlock + rest - 1) / rest;  // rows to finish between two steps
  for (int block = 0; block < count; ++block) {
    multiply(left + first * kBlockSize, kBlockSize, layer.panel(block) + first * kBlockSize, rest, of(block), kBlock, first > 0,
             [&](int k) { if (block > 0) rows(block - 1, k * share, std::min(k * share + share, kBlock)); });
  }
  rows(count - 1, 0, kBlock);
}

// Layer norm of one row: the result in float32, and in bfloat16 at `rounded`, its 32-column blocks `kBlockSize` apart.
inline void normalize(const float* row, int width, const Norm& norm, float epsilon, float* result, bf16* rounded) {
  Vector sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, squares[2] = {sums[0], sums[1]};
  for (int at = 0; at < width; at += kBlock) {
    sums[0] = _mm512_add_ps(sums[0], load(row + at));
    sums[1] = _mm512_add_ps(sums[1], load(row + at + kTile));
  }
  const Vector mean = _mm512_set1_ps(_mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) / width);
  for (int at = 0; at < width; at += kBlock) {
    const Vector low = _mm512_sub_ps(load(row + at), mean), high = _mm512_sub_ps(load(row + at + kTile), mean);
    squares[0] = _mm512_fmadd_ps(low, low, squares[0]);
    squares[1] = _mm512_fmadd_ps(high, high, squares[1]);
  }
  const float variance = _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])) / width;
  const Vector factor = _mm512_set1_ps(1 / std::sqrt(variance + epsilon));
  for (int at = 0; at < width; at += kBlock) {
    Vector parts[2];
    for (int half = 0; half < 2; ++half) {
      const int column = at + half * kTile;
      const Vector scale = _mm512_mul_ps(factor, load(norm.scale + column));
      parts[half] = _mm512_fmadd_ps(_mm512_sub_ps(load(row + column), mean), scale, load(norm.shift + column));
      store(result + column, parts[half]);
    }
    store(rounded + at / kBlock * kBlockSize, parts[0], parts[1]);
  }
}

// ---- attention ----

// 16 rows of 32 bfloat16 to a right-hand tile, of which they become the columns: a transpose of 16 x 16 pairs.
inline void transpose(const bf16* rows, bf16* tile) {
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(rows + i * kBlock);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    b[i] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0x88);
    b[i + 4] = _mm512_shuffle_i32x4(a[i], a[i + 4], 0xdd);
    b[i + 8] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0x88);
    b[i + 12] = _mm512_shuffle_i32x4(a[i + 8], a[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    _mm512_store_si512(tile + i * kBlock, _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88));
    _mm512_store_si512(tile + (i + 8) * kBlock, _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd));
    _mm512_store_si512(tile + (i + 4) * kBlock, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88));
    _mm512_store_si512(tile + (i + 12) * kBlock, _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xdd));
  }
}

// The first `length` of 32 rows of 32 bfloat16 to a right-hand block, of which they stay the rows: pairs of rows interleaved. The
// rows are taken in the order in which `softmax` leaves the columns: 0-3, 16-19, 4-7, 20-23, ...
inline void interleave(const bf16* rows, int length, bf16* block) {
  // Value i of the even row and (from 32 on) of the odd one, beside each other.
  const __m512i columns = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512i left = _mm512_or_si512(columns, _mm512_slli_epi32(_mm512_add_epi32(columns, _mm512_set1_epi32(kBlock)), 16));
  const __m512i right = _mm512_add_epi16(left, _mm512_set1_epi16(kTile)), none = _mm512_setzero_si512();
  for (int at = 0; at < kBlock; at += 2) {
    const int row = at / 8 * 4 + at % 4 + at % 8 / 4 * kTile;
    const __m512i even = row < length ? _mm512_loadu_si512(rows + row * kBlock) : none;
    const __m512i odd = row + 1 < length ? _mm512_loadu_si512(rows + (row + 1) * kBlock) : none;
    _mm512_store_si512(block + at / 2 * kBlock, _mm512_permutex2var_epi16(even, left, odd));
    _mm512_store_si512(block + kTileSize + at / 2 * kBlock, _mm512_permutex2var_epi16(even, right, odd));
  }
}

// The seven bits after the point of 2^(i / 128), which are those of a bfloat16.
struct Mantissas {
  alignas(64) uint8_t bits[128];
  Mantissas() {
    for (int i = 0; i < 128; ++i) bits[i] = uint8_t(std::lround((std::exp2(i / 128.0) - 1) * 128));
  }
};
const Mantissas kMantissas;

// For each of four rows (`stride` floats apart) 2^((score - highest) / 128) of `length` scores, in bfloat16 blocks `kBlockSize` apart,
// zero up to the end of the last; `factors` are 1 / sum. Scores are rounded to whole numbers, of which seven bits select the
// mantissa and the others are the exponent: an error below 0.3 %, less than rounding to bfloat16 makes, and 32 values at a time.
// The sum is that of the rounded values. Four rows, because each alone is a chain of operations that wait for each other.
inline void softmax(const float* scores, int stride, int length, bf16* shares, float* factors) {
  constexpr int kRows = 4;
  constexpr float kOne = 127 * 128;  // the bits of 1 in bfloat16
  const int whole = length / kBlock * kBlock, rest = length - whole;
  const __mmask16 first = rest >= kTile ? 0xffff : (1u << rest) - 1, second = rest > kTile ? (1u << (rest - kTile)) - 1 : 0;
  const Vector least = _mm512_set1_ps(-INFINITY);
  auto last = [&](int row, int half) {
    return _mm512_mask_loadu_ps(least, half ? second : first, scores + row * stride + whole + half * kTile);
  };
  Vector top[kRows], zero[kRows], sum[kRows];
  for (int row = 0; row < kRows; ++row) top[row] = _mm512_max_ps(last(row, 0), last(row, 1));
  for (int at = 0; at < whole; at += kBlock) {
    for (int row = 0; row < kRows; ++row) {
      const float* from = scores + row * stride + at;
      top[row] = _mm512_max_ps(top[row], _mm512_max_ps(load(from), load(from + kTile)));
    }
  }
  for (int row = 0; row < kRows; ++row) {
    zero[row] = _mm512_set1_ps(_mm512_reduce_max_ps(top[row]) - kOne);
    sum[row] = _mm512_setzero_ps();
  }
  const __m512i low = _mm512_load_si512(kMantissas.bits), high = _mm512_load_si512(kMantissas.bits + 64);
  const __m512i mantissa = _mm512_set1_epi16(0x7f), ones = _mm512_set1_epi16(0x3f80);
  auto put = [&](int row, Vector left, Vector right) {
    left = _mm512_sub_ps(left, zero[row]);
    right = _mm512_sub_ps(right, zero[row]);
    __m512i bits = _mm512_packs_epi32(_mm512_cvtps_epi32(left), _mm512_cvtps_epi32(right));
    bits = _mm512_max_epi16(bits, _mm512_setzero_si512());
    bits = _mm512_ternarylogic_epi32(mantissa, _mm512_permutex2var_epi8(low, bits, high), bits, 0xca);  // mantissa ? table : bits
    sum[row] = _mm512_dpbf16_ps(sum[row], (__m512bh)bits, (__m512bh)ones);
    _mm512_storeu_si512(shares + row * kBlock, bits);
  };
  for (int at = 0; at < whole; at += kBlock, shares += kBlockSize) {
    for (int row = 0; row < kRows; ++row) {
      const float* from = scores + row * stride + at;
      put(row, load(from), load(from + kTile));
    }
  }
  if (rest) {
    for (int row = 0; row < kRows; ++row) put(row, last(row, 0), last(row, 1));
  }
  for (int row = 0; row < kRows; ++row) factors[row] = 1 / _mm512_reduce_add_ps(sum[row]);
}

}  // namespace

// ---- the network ----

extern "C" {

struct Shape {
  int32_t layers, width, heads, inner, classes, words, positions;
  float epsilon;
};
}

namespace {

struct Layer {
  Linear projections, output, widen, narrow;  // queries, keys and values together; attention's output; the feed-forward's two
  Norm after_attention, after_feed_forward;
};

// What a batch is worked on in; used again for the next one.
struct Workspace {
  size_t rows = 0, longest = 0;
  Array<float> stream;                                          // [rows][width], the residual stream
  Array<bf16> rounded, context, inner;                          // blocked: the stream, attention's output, the widened rows
  Array<bf16> projections;                                      // striped
  Array<float> sums;                                            // of one block of rows: [outputs][32] of any layer
  Array<float> scores;                                          // [32][longest + a little]
  Array<bf16> keys, values, shares;                             // of one head and window, as `multiply` takes them
};

class Encoder {
 public:
  Encoder(const Shape& shape, const float* const* weights) : shape_(shape), words_(*weights++) {
    const int width = shape.width;
    const float *positions = *weights++, *types = *weights++;
    positions_ = Array<float>(size_t(shape.positions) * width);
    for (size_t i = 0; i < size_t(shape.positions) * width; ++i) positions_[i] = positions[i] + types[i % width];
    auto norm = [&] {
      Norm made{Array<float>(width), Array<float>(width)};
      std::memcpy(made.scale, *weights++, width * sizeof(float));
      std::memcpy(made.shift, *weights++, width * sizeof(float));
      return made;
    };
    auto take = [&](Linear& layer, int first, int count, float factor = 1) {
      layer.take(weights[0], weights[1], first, count, factor);
      weights += 2;
    };
    after_embedding_ = norm();
    // Scores come out as `softmax` wants them: divided by sqrt(head), in 128ths of a power of two.
    const float scale = float(128 * 1.4426950408889634 / std::sqrt(double(width / shape.heads)));
    for (int number = 0; number < shape.layers; ++number) {
      Layer layer;
      layer.projections = Linear(width, 3 * width);
      take(layer.projections, 0, width, scale);
      take(layer.projections, width, width);
      take(layer.projections, 2 * width, width);
      layer.output = Linear(width, width);
      take(layer.output, 0, width);
      layer.after_attention = norm();
      layer.widen = Linear(width, shape.inner);
      take(layer.widen, 0, shape.inner);
      layer.narrow = Linear(shape.inner, width);
      take(layer.narrow, 0, width);
      layer.after_feed_forward = norm();
      layers_.push_back(std::move(layer));
    }
    head_ = Array<float>(size_t(shape.classes) * width);
    std::memcpy(head_, *weights++, size_t(shape.classes) * width * sizeof(float));
    head_bias_.assign(*weights, *weights + shape.classes);
  }

  // 0, or -1 if a window is longer than there are positions or an id is not in the vocabulary.
  int run(const int64_t* ids, const int32_t* lengths, int windows, float* logits) {
    size_t rows = 0, longest = 0;
    for (int window = 0; window < windows; ++window) {
      if (lengths[window] < 1 || lengths[window] > shape_.positions) return -1;
      rows += lengths[window];
      longest = std::max(longest, size_t(lengths[window]));
    }
    for (size_t row = 0; row < rows; ++row) {
      if (ids[row] < 0 || ids[row] >= shape_.words) return -1;
    }
    std::unique_ptr<Workspace> space = borrow(rows, longest);
    {
      Tiles tiles;
      embed(ids, lengths, windows, *space);
      for (const Layer& layer : layers_) {
        project(layer, rows, *space);
        for (size_t window = 0, start = 0; window < size_t(windows); start += lengths[window++]) {
          for (int head = 0; head < shape_.heads; ++head) attend(head, start, lengths[window], *space);
        }
        add(layer.output, space->context, layer.after_attention, rows, *space);
        widen(layer.widen, rows, *space);
        add(layer.narrow, space->inner, layer.after_feed_forward, rows, *space);
      }
      classify(rows, *space, logits);
    }
    give_back(std::move(space));
    return 0;
  }

 private:
  std::unique_ptr<Workspace> borrow(size_t rows, size_t longest) {
    std::unique_ptr<Workspace> space;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (!spaces_.empty()) {
        space = std::move(spaces_.back());
        spaces_.pop_back();
      }
    }
    if (!space) space = std::make_unique<Workspace>();
    const size_t width = shape_.width;
    if (rows > space->rows) {
      const size_t room = blocks(rows) * kBlock;
      space->rows = room;
      space->stream = Array<float>(room * width);
      space->rounded = Array<bf16>(room * width);
      space->context = Array<bf16>(room * width);
      space->inner = Array<bf16>(room * shape_.inner);
      space->projections = Array<bf16>((room + kBlock) * 3 * width);  // the last window's last block may reach beyond
      space->sums = Array<float>(kBlock * std::max(3 * width, size_t(shape_.inner)));
    }
    if (longest > space->longest) {
      const size_t room = blocks(longest) * kBlock, head = width / shape_.heads;
      space->longest = room;
      space->scores = Array<float>(kBlock * (room + kTile));
      space->keys = Array<bf16>(room * head);
      space->values = Array<bf16>(room * head);
      space->shares = Array<bf16>(room * kBlock);
    }
    return space;
  }

  void give_back(std::unique_ptr<Workspace> space) {
    std::lock_guard<std::mutex> lock(mutex_);
    spaces_.push_back(std::move(space));
  }

  // Where a row's first 32 columns lie in a blocked matrix.
  static bf16* row_of(bf16* blocked, size_t row, int width) {
    return blocked + row / kBlock * kBlock * width + row % kBlock * kBlock;
  }

  void embed(const int64_t* ids, const int32_t* lengths, int windows, Workspace& space) const {
    const int width = shape_.width;
    size_t row = 0;
    for (int window = 0; window < windows; ++window) {
      for (int position = 0; position < lengths[window]; ++position, ++row) {
        const float *word = words_ + size_t(ids[row]) * width, *place = positions_ + size_t(position) * width;
        for (int at = 0; at < width; at += kTile) store(space.sums + at, _mm512_add_ps(load(word + at), load(place + at)));
        normalize(space.sums, width, after_embedding_, shape_.epsilon, space.stream + row * width,
                  row_of(space.rounded, row, width));
      }
    }
  }

  // Queries, keys and values.
  void project(const Layer& layer, size_t rows, Workspace& space) const {
    const size_t stripe = (space.rows + kBlock) * kBlock;
    for (size_t block = 0; block < blocks(rows); ++block) {
      bf16* to = space.projections + block * kBlockSize;
      product(space.rounded + block * kBlock * shape_.width, layer.projections, space.sums,
              [=](int column, int row, Vector low, Vector high) { store(to + column * stripe + row * kBlock, low, high); });
    }
  }

  // One head of one window.
  void attend(int head, size_t start, int length, Workspace& space) const {
    const int depth = shape_.width / shape_.heads / kBlock, parts = int(blocks(length)), stride = int(space.longest) + kTile;
    const size_t stripe = (space.rows + kBlock) * kBlock;
    const bf16* queries = space.projections + head * depth * stripe + start * kBlock;
    const bf16* keys = queries + shape_.width / kBlock * stripe;
    const bf16* values = keys + shape_.width / kBlock * stripe;
    for (int part = 0; part < parts; ++part) {
      for (int k = 0; k < depth; ++k) {
        const bf16* rows = keys + k * stripe + part * kBlockSize;
        bf16* block = space.keys + (part * depth + k) * kBlockSize;
        transpose(rows, block);
        transpose(rows + kTileSize, block + kTileSize);
        interleave(values + k * stripe + part * kBlockSize, length - part * kBlock,
                   space.values + (k * parts + part) * kBlockSize);
      }
    }
    alignas(64) float sums[kBlockSize], factors[kBlock];
    for (int first = 0; first < length; first += kBlock) {
      for (int part = 0; part < parts; ++part) {
        multiply(queries + first * kBlock, stripe, space.keys + part * depth * kBlockSize, depth, space.scores + part * kBlock,
                 stride);
      }
      const int rows = std::min(kBlock, length - first);
      for (int row = 0; row < rows; row += 4) {
        softmax(space.scores + row * stride, stride, length, space.shares + row * kBlock, factors + row);
      }
      for (int k = 0; k < depth; ++k) {
        multiply(space.shares, kBlockSize, space.values + k * parts * kBlockSize, parts, sums, kBlock);
        for (int row = 0; row < rows; ++row) {
          const Vector factor = _mm512_set1_ps(factors[row]);
          store(row_of(space.context, start + first + row, shape_.width) + (head * depth + k) * kBlockSize,
                _mm512_mul_ps(load(sums + row * kBlock), factor), _mm512_mul_ps(load(sums + row * kBlock + kTile), factor));
        }
      }
    }
  }

  void widen(const Linear& layer, size_t rows, Workspace& space) const {
    for (size_t block = 0; block < blocks(rows); ++block) {
      bf16* to = space.inner + block * kBlock * shape_.inner;
      product(space.rounded + block * kBlock * shape_.width, layer, space.sums, [=](int column, int row, Vector low, Vector high) {
        store(to + column * kBlockSize + row * kBlock, gelu(low), gelu(high));
      });
    }
  }

  // A layer's output added to the stream, and the layer norm after it.
  void add(const Linear& layer, const bf16* input, const Norm& norm, size_t rows, Workspace& space) const {
    const int width = shape_.width;
    for (size_t block = 0; block < blocks(rows); ++block) {
      float* stream = space.stream + block * kBlock * width;
      product(input + block * kBlock * layer.inputs, layer, space.sums, [=](int column, int row, Vector low, Vector high) {
        float* to = stream + row * width + column * kBlock;
        store(to, _mm512_add_ps(load(to), low));
        store(to + kTile, _mm512_add_ps(load(to + kTile), high));
      });
      for (int row = 0; row < kBlock; ++row) {
        float* to = stream + row * width;
        normalize(to, width, norm, shape_.epsilon, to, row_of(space.rounded, block * kBlock + row, width));
      }
    }
  }

  void classify(size_t rows, const Workspace& space, float* logits) const {
    const int width = shape_.width, classes = shape_.classes;
    for (size_t row = 0; row < rows; ++row) {
      const float* from = space.stream + row * width;
      for (int label = 0; label < classes; ++label) {
        Vector sum = _mm512_setzero_ps();
        for (int at = 0; at < width; at += kTile) sum = _mm512_fmadd_ps(load(from + at), load(head_ + label * width + at), sum);
        logits[row * classes + label] = _mm512_reduce_add_ps(sum) + head_bias_[label];
      }
    }
  }

  const Shape shape_;
  const float* words_;
  Array<float> positions_;
  Norm after_embedding_;
  std::vector<Layer> layers_;
  Array<float> head_;
  std::vector<float> head_bias_;
  std::mutex mutex_;
  std::vector<std::unique_ptr<Workspace>> spaces_;
};

}  // namespace

extern "C" {

// Ask Linux for the tile registers, for the whole process; 0, or an errno.
int encoder_permit() {
  constexpr int kRequest = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequest, kTileData) == 0 ? 0 : errno;
}

// A network from its weights in float32, in the order that `Encoder` reads them; null without memory. The first of them, the word
// embeddings, are read at every run and must stay; the others are copied.
void* encoder_new(const Shape* shape, const float* const* weights) {
  try {
    return new Encoder(*shape, weights);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void encoder_free(void* encoder) { delete static_cast<Encoder*>(encoder); }

// The logits [tokens][classes] of windows whose token ids stand one after the other; in any number of threads at once. 0, -1 (an id
// or a length that the network has no embedding for) or -2 (no memory).
int encoder_run(void* encoder, const int64_t* ids, const int32_t* lengths, int32_t windows, float* logits) {
  try {
    return static_cast<Encoder*>(encoder)->run(ids, lengths, windows, logits);
  } catch (const std::bad_alloc&) {
    return -2;
  }
}
}
