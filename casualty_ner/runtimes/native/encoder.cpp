// A BERT encoder with a token-classification head for processors with AMX: token ids in, logits out, in bfloat16.
//
// What makes it fast:
// - No padding. The windows of a batch stand one after the other as rows of one matrix; only attention knows where each begins.
// - Every matrix product is one routine, `multiply`: 32 rows by 32 columns in four tile registers. Weights are laid out once as the
//   tile unit reads them, activations as they are produced, so that each tile is one stretch of 1 KiB.
// - The vector units work while the tile unit does: on what follows a product (bias, GELU, rounding to bfloat16), on the layer norms of
//   the rows before, on attention's exponentials.
// - Attention's scores stand keys by queries, so that all that belongs to one query lies in one lane and is summed without moving it; and
//   they need no maximum taken off as long as their exponentials cannot overflow.
// - One thread runs a whole batch and shares nothing that is written, so cores never wait for each other.
//
// Numbers: products take bfloat16 and sum in float32, in an order that depends on the layer only; so a token's logits do not depend
// on what else is in the batch, to the last bit. The residual stream, layer norms, softmax and the head are float32.
//
// Layout of activations ("blocked"): blocks of 32 rows, in each the 32-column blocks one after the other, in each 32 rows of 32
// values (in bfloat16 2 KiB, two tiles). Queries, keys and values are "striped" instead: 32-column blocks with all rows of the batch, because
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

// Where a row's value `column` lies in a blocked matrix, counted from its first.
inline int blocked(int column) { return column / kBlock * kBlockSize + column % kBlock; }

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

constexpr int kSumsRow = kBlock * sizeof(float);  // bytes

inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

inline void store_sums(float* sums) {
  _tile_stored(0, sums, kSumsRow);
  _tile_stored(1, sums + kTile, kSumsRow);
  _tile_stored(2, sums + kTile * kBlock, kSumsRow);
  _tile_stored(3, sums + kTile * kBlock + kTile, kSumsRow);
}

// sums[32][32] = left x right, over `depth` blocks; added to what is there if `more`. A block of `left`
// is 32 rows of 32 values, the next is `step` values on; a block of `right` is two tiles of 16 columns, each 16 rows of pairs
// (values 2r and 2r + 1 of a column). `between(k)` is called after the k-th blocks have been handed to the tile unit.
template <class Between>
inline void multiply(const bf16* left, size_t step, const bf16* right, int depth, float* sums, bool more, Between between) {
  asm volatile("" ::: "memory");  // the compiler does not know that tile loads read what was stored before
  if (more) {
    _tile_loadd(0, sums, kSumsRow);
    _tile_loadd(1, sums + kTile, kSumsRow);
    _tile_loadd(2, sums + kTile * kBlock, kSumsRow);
    _tile_loadd(3, sums + kTile * kBlock + kTile, kSumsRow);
  } else {
    zero_sums();
  }
  // Tiles are not renamed: each is loaded again as soon as the last product that reads it has begun, those from afar first.
  // `right` passes the first cache by, which is for `left`.
  _tile_stream_loadd(6, right, 64);
  _tile_loadd(4, left, 64);
  _tile_loadd(5, left + kTileSize, 64);
  _tile_stream_loadd(7, right + kTileSize, 64);
  for (int k = 1; k < depth; ++k) {
    left += step;
    right += kBlockSize;
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(2, 5, 6);
    _tile_stream_loadd(6, right, 64);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(4, left, 64);
    _tile_dpbf16ps(3, 5, 7);
    _tile_stream_loadd(7, right + kTileSize, 64);
    _tile_loadd(5, left + kTileSize, 64);
    between(k - 1);
  }
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(3, 5, 7);
  between(depth - 1);
  store_sums(sums);
}

inline void multiply(const bf16* left, size_t step, const bf16* right, int depth, float* sums) {
  multiply(left, step, right, depth, sums, false, [](int) {});
}

// ---- layers ----

struct Norm {
  Array<float> scale, shift;
  const float* next = nullptr;  // the bias of the layer whose output will be added to the result
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
// sums, the bias added; it works on one block of outputs while the tile unit works on the next.
template <class Finish>
inline void product(const bf16* left, const Linear& layer, Finish finish) {
  alignas(64) float sums[2][kBlockSize];
  const int depth = layer.inputs / kBlock, count = layer.outputs / kBlock;
  const int share = (kBlock + depth - 1) / depth;  // rows to finish between two steps
  auto rows = [&](int block, int from, int to) {
    const float* values = sums[block % 2];
    const Vector low = load(layer.bias + block * kBlock), high = load(layer.bias + block * kBlock + kTile);
    for (int row = from; row < to; ++row) {
      finish(block, row, _mm512_add_ps(load(values + row * kBlock), low), _mm512_add_ps(load(values + row * kBlock + kTile), high));
    }
  };
  for (int block = 0; block < count; ++block) {
    multiply(left, kBlockSize, layer.panel(block), depth, sums[block % 2], false,
             [&](int k) { if (block > 0) rows(block - 1, k * share, std::min(k * share + share, kBlock)); });
  }
  rows(count - 1, 0, kBlock);
}

// The same product, without bias, added to `sums`, which is blocked. Many inputs are taken in chunks, so that the rows' part of one
// stays in the first cache. `between(step)` is called after each of the `steps(layer)` steps.
template <class Between>
inline void accumulate(const bf16* left, const Linear& layer, float* sums, Between between) {
  constexpr int kChunk = 12;
  const int depth = layer.inputs / kBlock;
  int step = 0;
  for (int first = 0; first < depth; first += kChunk) {
    for (int block = 0; block < layer.outputs / kBlock; ++block) {
      multiply(left + first * kBlockSize, kBlockSize, layer.panel(block) + first * kBlockSize, std::min(kChunk, depth - first),
               sums + block * kBlockSize, true, [&](int) { between(step++); });
    }
  }
}

inline int steps(const Linear& layer) { return layer.inputs / kBlock * (layer.outputs / kBlock); }

// Layer norm of one row, in place; its 32-column blocks are `kBlockSize` apart, and so are those of `rounded`, which is given the result
// in bfloat16. The row is left with the next layer's bias added. The variance is that of squares less the mean's: a row's mean is
// small beside its deviation.
inline void normalize(float* row, int width, const Norm& norm, float epsilon, bf16* rounded) {
  Vector sums[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()}, squares[2] = {sums[0], sums[1]};
  for (int at = 0; at < width / kBlock * kBlockSize; at += kBlockSize) {
    for (int half = 0; half < 2; ++half) {
      const Vector value = load(row + at + half * kTile);
      sums[half] = _mm512_add_ps(sums[half], value);
      squares[half] = _mm512_fmadd_ps(value, value, squares[half]);
    }
  }
  const float mean = _mm512_reduce_add_ps(_mm512_add_ps(sums[0], sums[1])) / width;
  const float square = _mm512_reduce_add_ps(_mm512_add_ps(squares[0], squares[1])) / width;
  const float scale = 1 / std::sqrt(std::max(square - mean * mean, 0.0f) + epsilon);
  const Vector factor = _mm512_set1_ps(scale), shift = _mm512_set1_ps(-mean * scale);
  for (int block = 0; block < width / kBlock; ++block) {
    Vector parts[2];
    for (int half = 0; half < 2; ++half) {
      float* at = row + block * kBlockSize + half * kTile;
      const int column = block * kBlock + half * kTile;
      const Vector value = _mm512_fmadd_ps(load(at), factor, shift);
      parts[half] = _mm512_fmadd_ps(value, load(norm.scale + column), load(norm.shift + column));
      store(at, _mm512_add_ps(parts[half], load(norm.next + column)));
    }
    store(rounded + block * kBlockSize, parts[0], parts[1]);
  }
}

// ---- attention ----

using Rows = __m512i[kTile];  // of 16 pairs of bfloat16

// A transpose of 16 x 16 pairs.
inline void transpose(Rows& a) {
  Rows b;
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
    a[i] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0x88);
    a[i + 8] = _mm512_shuffle_i32x4(b[i], b[i + 8], 0xdd);
    a[i + 4] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0x88);
    a[i + 12] = _mm512_shuffle_i32x4(b[i + 4], b[i + 12], 0xdd);
  }
}

// 32 rows of 32 bfloat16 to a right-hand block, of which they become the columns. The result is the largest sum of a row's squares
// among the first `length`.
inline float to_right(const bf16* rows, int length, bf16* block) {
  Vector most = _mm512_setzero_ps();
  for (int half = 0; half < 2; ++half) {
    Rows pairs;
    for (int i = 0; i < kTile; ++i) pairs[i] = _mm512_loadu_si512(rows + (half * kTile + i) * kBlock);
    transpose(pairs);
    Vector squares = _mm512_setzero_ps();
    for (int i = 0; i < kTile; ++i) {
      squares = _mm512_dpbf16_ps(squares, (__m512bh)pairs[i], (__m512bh)pairs[i]);
      _mm512_store_si512(block + half * kTileSize + i * kBlock, pairs[i]);
    }
    const int rest = std::max(std::min(length - half * kTile, kTile), 0);
    most = _mm512_mask_max_ps(most, __mmask16((1u << rest) - 1), most, squares);
  }
  return _mm512_reduce_max_ps(most);
}

// The first `length` of 32 rows of 32 bfloat16 to a left-hand block, of which they become the columns; the others count as zero.
inline void to_left(const bf16* rows, int length, bf16* block) {
  alignas(64) static constexpr uint16_t kFirsts[kBlock] = {0,  2,  4,  6,  8,  10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30,
                                                           32, 34, 36, 38, 40, 42, 44, 46, 48, 50, 52, 54, 56, 58, 60, 62};
  const __m512i firsts = _mm512_load_si512(kFirsts), seconds = _mm512_add_epi16(firsts, _mm512_set1_epi16(1));
  Rows pairs[2];
  for (int half = 0; half < 2; ++half) {
    for (int i = 0; i < kTile; ++i) {
      const int row = half * kTile + i;
      pairs[half][i] = row < length ? _mm512_loadu_si512(rows + row * kBlock) : _mm512_setzero_si512();
    }
    transpose(pairs[half]);
  }
  for (int i = 0; i < kTile; ++i) {
    _mm512_store_si512(block + 2 * i * kBlock, _mm512_permutex2var_epi16(pairs[0][i], firsts, pairs[1][i]));
    _mm512_store_si512(block + (2 * i + 1) * kBlock, _mm512_permutex2var_epi16(pairs[0][i], seconds, pairs[1][i]));
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

// For the scores of 32 keys by 32 queries 2^((score + shift) / 128) in bfloat16, as `multiply` takes it on the right; for keys from
// `length` on it is zero. Scores are rounded to whole numbers, of which seven bits select the mantissa and the others are the
// exponent: an error below 0.3 %, less than rounding to bfloat16 makes, and 32 values at a time. To each of `totals` its query's sum is
// added, that of the rounded values. `between(step)` is called before each of 16 steps. If `kSimple`, there are 32 keys, and no score
// and shift together lie below -2^126.
template <bool kSimple, class Between>
inline void exponentials(const float* scores, int length, const Vector (&shift)[2], bf16* shares, Vector (&totals)[2], Between between) {
  const __m512i low = _mm512_load_si512(kMantissas.bits), high = _mm512_load_si512(kMantissas.bits + 64);
  const __m512i mantissa = _mm512_set1_epi16(0x7f), ones = _mm512_set1_epi16(0x3f80), lower = _mm512_set1_epi32(0xffff);
  // The scores of odd keys are raised to the upper half of 32 bits, where they are cut, not rounded.
  const Vector up = _mm512_set1_ps(65536), none = _mm512_setzero_ps();
  const Vector raised[2] = {_mm512_mul_ps(_mm512_add_ps(shift[0], _mm512_set1_ps(0.5f)), up),
                            _mm512_mul_ps(_mm512_add_ps(shift[1], _mm512_set1_ps(0.5f)), up)};
  auto whole = [&](Vector value) { return _mm512_cvtps_epi32(kSimple ? value : _mm512_max_ps(value, none)); };
#pragma GCC unroll 16
  for (int key = 0; key < kBlock; key += 2) {
    between(key / 2);
    for (int half = 0; half < 2; ++half) {
      const float* from = scores + key * kBlock + half * kTile;
      __m512i bits = _mm512_setzero_si512();
      if (kSimple || key < length) {
        bits = whole(_mm512_add_ps(load(from), shift[half]));
        if (kSimple || key + 1 < length) {
          bits = _mm512_ternarylogic_epi32(lower, bits, whole(_mm512_fmadd_ps(load(from + kBlock), up, raised[half])), 0xca);
        }
        bits = _mm512_ternarylogic_epi32(mantissa, _mm512_permutex2var_epi8(low, bits, high), bits, 0xca);  // mantissa ? table : bits
        totals[half] = _mm512_dpbf16_ps(totals[half], (__m512bh)bits, (__m512bh)ones);
      }
      _mm512_store_si512(shares + half * kTileSize + key / 2 * kBlock, bits);
    }
  }
}

// What the tile unit does for heads of 32 during `exponentials`, in 16 steps: it multiplies the next 32 keys with the queries, and adds the
// last 32 values times their shares to the mixture, which stays in tiles 0 to 3. Either may be null.
struct Meanwhile {
  const bf16 *keys, *queries;
  float* scores;
  const bf16 *values, *shares;

  [[gnu::always_inline]] void operator()(int step) const {
    if (keys) {
      const int half = step / 8;  // 16 keys
      float* to = scores + half * kTile * kBlock;
      if (step % 8 == 0) {
        _tile_zero(4);
        _tile_zero(5);
        _tile_loadd(6, keys + half * kTileSize, 64);
        _tile_loadd(7, queries, 64);
        _tile_dpbf16ps(4, 6, 7);
      }
      if (step % 8 == 1) {
        _tile_loadd(7, queries + kTileSize, 64);
        _tile_dpbf16ps(5, 6, 7);
      }
      if (step % 8 == 6) _tile_stored(4, to, kSumsRow);
      if (step % 8 == 7) _tile_stored(5, to + kTile, kSumsRow);
    }
    if (values) {
      if (step == 2) {
        _tile_loadd(6, values, 64);
        _tile_loadd(7, shares, 64);
        _tile_dpbf16ps(0, 6, 7);
      }
      if (step == 3) {
        _tile_loadd(7, shares + kTileSize, 64);
        _tile_dpbf16ps(1, 6, 7);
      }
      if (step == 4) {
        _tile_loadd(6, values + kTileSize, 64);
        _tile_dpbf16ps(3, 6, 7);
      }
      if (step == 5) {
        _tile_loadd(7, shares, 64);
        _tile_dpbf16ps(2, 6, 7);
      }
    }
  }
};

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
  Array<float> stream;                                          // blocked: the residual stream, the next layer's bias added
  Array<bf16> rounded, context, inner;                          // blocked: the stream, attention's output, the widened rows
  Array<bf16> projections;                                      // striped
  Array<bf16> queries, values, shares;                          // of one head and window, as `multiply` takes them
};

// Attention of one head in one window.
struct Attention {
  static constexpr float kOne = 127 * 128;   // the bits of 1 in bfloat16
  static constexpr float kSafe = 100 * 128;  // shares between 2^-100 and 2^100 can be summed as they are

  const bf16* keys;
  const size_t stripe;
  const int length, depth, parts;
  Workspace& space;
  float longest_key = 0;  // its sum of squares
  bool simple = true;
  Vector shift[2], totals[2];
  alignas(64) float scores[2][kBlockSize], mixture[kBlockSize];

  Attention(const bf16* keys, const bf16* values, size_t stripe, int length, int depth, Workspace& space)
      : keys(keys), stripe(stripe), length(length), depth(depth), parts(int(blocks(length))), space(space) {
    for (int k = 0; k < depth; ++k) {
      for (int part = 0; part < parts; ++part) {
        to_left(values + k * stripe + part * kBlockSize, length - part * kBlock, space.values + (k * parts + part) * kBlockSize);
      }
    }
    for (int row = 0; row < length; ++row) {
      Vector squares = _mm512_setzero_ps();
      for (int k = 0; k < depth; ++k) {
        const __m512bh key = (__m512bh)_mm512_loadu_si512(keys + k * stripe + row * kBlock);
        squares = _mm512_dpbf16_ps(squares, key, key);
      }
      longest_key = std::max(longest_key, _mm512_reduce_add_ps(squares));
    }
  }

  // The shares of all keys for 32 queries, of which `count` are of this window; with heads of 32 their mixture of the values too.
  void ask(const bf16* queries, int count) {
    float longest_query = 0;
    for (int k = 0; k < depth; ++k) longest_query += to_right(queries + k * stripe, count, space.queries + k * kBlockSize);
    simple = longest_query * longest_key <= kSafe * kSafe;  // no score is larger (Cauchy and Schwarz)
    for (int half = 0; half < 2; ++half) {
      shift[half] = _mm512_set1_ps(kOne);
      totals[half] = _mm512_setzero_ps();
    }
    if (!simple) take_off_maximum();
    score(0);
    if (depth > 1) {
      for (int part = 0; part < parts; ++part) {
        if (part > 0) score(part);
        share(part, [](int) {});
      }
      return;
    }
    zero_sums();
    Meanwhile meanwhile{nullptr, space.queries, nullptr, nullptr, nullptr};
    for (int part = 0; part < parts; ++part) {
      meanwhile.keys = part + 1 < parts ? keys + (part + 1) * kBlockSize : nullptr;
      meanwhile.scores = scores[(part + 1) % 2];
      share(part, meanwhile);
      meanwhile.values = space.values + part * kBlockSize;
      meanwhile.shares = space.shares + part * kBlockSize;
    }
    meanwhile.keys = nullptr;
    for (int step = 0; step < kTile; ++step) meanwhile(step);
  }

  // The k-th 32 columns of the mixture, columns by queries.
  void mix(int k) {
    if (depth > 1) {
      multiply(space.values + k * parts * kBlockSize, kBlockSize, space.shares, parts, mixture);
    } else {
      store_sums(mixture);
    }
  }

 private:
  // Of the part-th 32 keys with all queries, keys by queries.
  void score(int part) { multiply(keys + part * kBlockSize, stripe, space.queries, depth, scores[part % 2]); }

  void take_off_maximum() {
    Vector most[2] = {_mm512_set1_ps(-INFINITY), _mm512_set1_ps(-INFINITY)};
    for (int row = 0; row < length; ++row) {
      if (row % kBlock == 0) score(row / kBlock);
      const float* from = scores[row / kBlock % 2] + row % kBlock * kBlock;
      for (int half = 0; half < 2; ++half) most[half] = _mm512_max_ps(most[half], load(from + half * kTile));
    }
    for (int half = 0; half < 2; ++half) shift[half] = _mm512_sub_ps(shift[half], most[half]);
  }

  template <class Between>
  void share(int part, Between between) {
    const int rest = length - part * kBlock;
    bf16* shares = space.shares + part * kBlockSize;
    if (simple && rest >= kBlock) {
      exponentials<true>(scores[part % 2], rest, shift, shares, totals, between);
    } else {
      exponentials<false>(scores[part % 2], rest, shift, shares, totals, between);
    }
    asm volatile("" ::: "memory");  // as in `multiply`
  }
};

class Encoder {
 public:
  Encoder(const Shape& shape, const float* const* weights) : shape_(shape), words_(*weights++) {
    const int width = shape.width;
    const float *positions = *weights++, *types = *weights++;
    positions_ = Array<float>(size_t(shape.positions) * width);
    for (size_t i = 0; i < size_t(shape.positions) * width; ++i) positions_[i] = positions[i] + types[i % width];
    auto norm = [&] {
      Norm made{Array<float>(width), Array<float>(width), no_bias_};
      std::memcpy(made.scale, *weights++, width * sizeof(float));
      std::memcpy(made.shift, *weights++, width * sizeof(float));
      return made;
    };
    auto take = [&](Linear& layer, int first, int count, float factor = 1) {
      layer.take(weights[0], weights[1], first, count, factor);
      weights += 2;
    };
    no_bias_ = Array<float>(width);
    after_embedding_ = norm();
    // Scores come out as `exponentials` wants them: divided by sqrt(head), in 128ths of a power of two.
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
    Norm* before = &after_embedding_;
    for (Layer& layer : layers_) {
      before->next = layer.output.bias;
      layer.after_attention.next = layer.narrow.bias;
      before = &layer.after_feed_forward;
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
    }
    if (longest > space->longest) {
      const size_t room = blocks(longest) * kBlock, head = width / shape_.heads;
      space->longest = room;
      space->queries = Array<bf16>(kBlock * head);
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
  template <class T>
  static T* row_of(const Array<T>& blocked, size_t row, int width) {
    return blocked + row / kBlock * kBlock * width + row % kBlock * kBlock;
  }

  void embed(const int64_t* ids, const int32_t* lengths, int windows, Workspace& space) const {
    const int width = shape_.width;
    size_t row = 0;
    for (int window = 0; window < windows; ++window) {
      for (int position = 0; position < lengths[window]; ++position, ++row) {
        const float *word = words_ + size_t(ids[row]) * width, *place = positions_ + size_t(position) * width;
        float* to = row_of(space.stream, row, width);
        for (int at = 0; at < width; at += kTile) {
          store(to + blocked(at), _mm512_add_ps(load(word + at), load(place + at)));
        }
        normalize(to, width, after_embedding_, shape_.epsilon, row_of(space.rounded, row, width));
      }
    }
  }

  // Queries, keys and values.
  void project(const Layer& layer, size_t rows, Workspace& space) const {
    const size_t stripe = (space.rows + kBlock) * kBlock;
    for (size_t block = 0; block < blocks(rows); ++block) {
      bf16* to = space.projections + block * kBlockSize;
      product(space.rounded + block * kBlock * shape_.width, layer.projections,
              [=](int column, int row, Vector low, Vector high) { store(to + column * stripe + row * kBlock, low, high); });
    }
  }

  // One head of one window, 32 queries at a time.
  void attend(int head, size_t start, int length, Workspace& space) const {
    const size_t stripe = (space.rows + kBlock) * kBlock, part = shape_.width / kBlock * stripe;
    const int depth = shape_.width / shape_.heads / kBlock;
    const bf16* queries = space.projections + head * depth * stripe + start * kBlock;
    Attention attention(queries + part, queries + 2 * part, stripe, length, depth, space);
    for (int first = 0; first < length; first += kBlock) {
      attention.ask(queries + first * kBlock, length - first);
      for (int k = 0; k < depth; ++k) {
        attention.mix(k);
        put(attention, head * depth + k, start + first, std::min(kBlock, length - first), space);
      }
    }
  }

  // 32 columns of attention's output for up to 32 queries: the mixture, columns by queries, divided by each query's total.
  void put(const Attention& attention, int column, size_t row, int count, Workspace& space) const {
    alignas(64) static constexpr uint16_t kPairs[kBlock] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                                            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    for (int half = 0; half < 2; ++half) {
      const Vector factor = _mm512_div_ps(_mm512_set1_ps(1), attention.totals[half]);
      Rows pairs;
      for (int i = 0; i < kTile; ++i) {
        const float* from = attention.mixture + 2 * i * kBlock + half * kTile;
        const __m512bh both = _mm512_cvtne2ps_pbh(_mm512_mul_ps(load(from + kBlock), factor), _mm512_mul_ps(load(from), factor));
        pairs[i] = _mm512_permutexvar_epi16(_mm512_load_si512(kPairs), (__m512i)both);
      }
      transpose(pairs);
      for (int i = 0; i < kTile && half * kTile + i < count; ++i) {
        _mm512_storeu_si512(row_of(space.context, row + half * kTile + i, shape_.width) + column * kBlockSize, pairs[i]);
      }
    }
  }

  void widen(const Linear& layer, size_t rows, Workspace& space) const {
    for (size_t block = 0; block < blocks(rows); ++block) {
      bf16* to = space.inner + block * kBlock * shape_.inner;
      product(space.rounded + block * kBlock * shape_.width, layer, [=](int column, int row, Vector low, Vector high) {
        store(to + column * kBlockSize + row * kBlock, gelu(low), gelu(high));
      });
    }
  }

  // A layer's output added to the stream, and the layer norm after it, which works on one block of rows while the tile unit works on the
  // next.
  void add(const Linear& layer, const bf16* input, const Norm& norm, size_t rows, Workspace& space) const {
    const int width = shape_.width, every = std::max(steps(layer) / kBlock, 1);
    const size_t count = blocks(rows) * kBlock;
    size_t done = 0;
    auto finish = [&](size_t stop) {
      for (; done < stop; ++done) {
        normalize(row_of(space.stream, done, width), width, norm, shape_.epsilon, row_of(space.rounded, done, width));
      }
    };
    for (size_t first = 0; first < count; first += kBlock) {
      accumulate(input + first * layer.inputs, layer, space.stream + first * width, [&](int step) {
        if (step % every == 0) finish(std::min(done + 1, first));
      });
      finish(first);
    }
    finish(count);
  }

  void classify(size_t rows, const Workspace& space, float* logits) const {
    const int width = shape_.width, classes = shape_.classes;
    for (size_t row = 0; row < rows; ++row) {
      const float* from = row_of(space.stream, row, width);
      for (int label = 0; label < classes; ++label) {
        Vector sum = _mm512_setzero_ps();
        for (int at = 0; at < width; at += kTile) {
          sum = _mm512_fmadd_ps(load(from + blocked(at)), load(head_ + label * width + at), sum);
        }
        logits[row * classes + label] = _mm512_reduce_add_ps(sum) + head_bias_[label];
      }
    }
  }

  const Shape shape_;
  const float* words_;
  Array<float> positions_;
  Array<float> no_bias_;
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
