// The operations of a step on a CPU; contract.py says what each computes. cpu.py compiles this file and calls it.
//
// Everything is computed in float32 vectors of W lanes, which the compiler maps to the processor's own (AVX-512, AVX2,
// SSE, NEON). Tensors of 16 bits are converted as they are loaded and rounded as they are stored. Each token and head is
// computed by the same operations in the same order whatever else is in the step, so that results do not depend on it.
//
// OpenMP comes from PyTorch's own runtime: this file is compiled with OpenMP and linked without, and its calls are
// resolved in the running process. A second runtime would fight the first for the cores.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace {

#if !defined(LANES)  // the tests set it, to try what this processor does not have
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#endif
constexpr int W = LANES;

typedef float Vec __attribute__((vector_size(4 * W)));
typedef int32_t Ints __attribute__((vector_size(4 * W)));
typedef uint32_t Bits __attribute__((vector_size(4 * W)));
typedef uint16_t Halves __attribute__((vector_size(2 * W)));

constexpr float INF = std::numeric_limits<float>::infinity();
constexpr int64_t PARALLEL = 1 << 14;  // elements from which starting the other threads pays

struct BFloat16 { uint16_t bits; };
struct Float16 { uint16_t bits; };

// --- Loads and stores -------------------------------------------------------------------------------------------------

inline Vec splat(float x) { return x - Vec{}; }

inline Vec load(const float* from) { Vec v; std::memcpy(&v, from, sizeof v); return v; }
inline void store(float* to, Vec v) { std::memcpy(to, &v, sizeof v); }

inline Vec load(const BFloat16* from) {
    Halves halves;
    std::memcpy(&halves, from, sizeof halves);
    return (Vec)(__builtin_convertvector(halves, Bits) << 16);
}

inline void store(BFloat16* to, Vec v) {  // to nearest, ties to even; NaN stays NaN
    const Bits bits = (Bits)v, rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    const Halves halves = __builtin_convertvector(v == v ? rounded : (Bits{} + 0x7fc0), Halves);
    std::memcpy(to, &halves, sizeof halves);
}

#if defined(__AVX512F__) && LANES == 16
inline Vec load(const Float16* from) { return (Vec)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from)); }
inline void store(Float16* to, Vec v) {
    _mm256_storeu_si256((__m256i*)to, _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__) && LANES == 8
inline Vec load(const Float16* from) { return (Vec)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from)); }
inline void store(Float16* to, Vec v) {
    _mm_storeu_si128((__m128i*)to, _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
}
#else
#if defined(__aarch64__)
typedef __fp16 Half;
#else
typedef _Float16 Half;
#endif
inline Vec load(const Float16* from) {
    Vec v;
    for (int i = 0; i < W; ++i) {
        Half x;
        std::memcpy(&x, from + i, sizeof x);
        v[i] = (float)x;
    }
    return v;
}
inline void store(Float16* to, Vec v) {
    for (int i = 0; i < W; ++i) {
        const Half x = (Half)v[i];
        std::memcpy(to + i, &x, sizeof x);
    }
}
#endif

template <class T> inline Vec load(const T* from, int64_t n, float rest = 0) {  // n lanes; the others are `rest`
    if (n >= W) return load(from);
    T part[W] = {};
    std::memcpy(part, from, n * sizeof(T));
    Vec v = load(part);
    for (int64_t i = n; i < W; ++i) v[i] = rest;
    return v;
}

template <class T> inline void store(T* to, Vec v, int64_t n) {
    if (n >= W) return store(to, v);
    T part[W];
    store(part, v);
    std::memcpy(to, part, n * sizeof(T));
}

template <class T> inline Vec rounded(Vec v) { T part[W]; store(part, v); return load(part); }
template <> inline Vec rounded<float>(Vec v) { return v; }

// --- Arithmetic -------------------------------------------------------------------------------------------------------

// Lanes 0..W-1 of the result are the sums of a[0]..a[W-1].
inline Vec sums(const Vec* a) {
#if LANES == 16
    Vec pair[8], four[4], eight[2];
    for (int i = 0; i < 8; ++i) {
        const Vec x = a[2 * i], y = a[2 * i + 1];
        pair[i] = __builtin_shuffle(x, y, Ints{0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29}) +
                  __builtin_shuffle(x, y, Ints{2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15, 31});
    }
    for (int i = 0; i < 4; ++i) {
        const Vec x = pair[2 * i], y = pair[2 * i + 1];
        four[i] = __builtin_shuffle(x, y, Ints{0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29}) +
                  __builtin_shuffle(x, y, Ints{2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31});
    }
    const Ints even{0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27}, odd = even + 4;
    for (int i = 0; i < 2; ++i)
        eight[i] = __builtin_shuffle(four[2 * i], four[2 * i + 1], even) + __builtin_shuffle(four[2 * i], four[2 * i + 1], odd);
    return __builtin_shuffle(eight[0], eight[1], even) + __builtin_shuffle(eight[0], eight[1], odd);
#elif LANES == 8
    Vec pair[4], four[2];
    for (int i = 0; i < 4; ++i) {
        const Vec x = a[2 * i], y = a[2 * i + 1];
        pair[i] = __builtin_shuffle(x, y, Ints{0, 8, 1, 9, 4, 12, 5, 13}) + __builtin_shuffle(x, y, Ints{2, 10, 3, 11, 6, 14, 7, 15});
    }
    for (int i = 0; i < 2; ++i) {
        const Vec x = pair[2 * i], y = pair[2 * i + 1];
        four[i] = __builtin_shuffle(x, y, Ints{0, 1, 8, 9, 4, 5, 12, 13}) + __builtin_shuffle(x, y, Ints{2, 3, 10, 11, 6, 7, 14, 15});
    }
    return __builtin_shuffle(four[0], four[1], Ints{0, 1, 2, 3, 8, 9, 10, 11}) +
           __builtin_shuffle(four[0], four[1], Ints{4, 5, 6, 7, 12, 13, 14, 15});
#else
    Vec total;
    for (int i = 0; i < W; ++i) total[i] = (a[i][0] + a[i][2]) + (a[i][1] + a[i][3]);
    return total;
#endif
}

inline float sum(Vec v) {
    float total = 0;
    for (int i = 0; i < W; ++i) total += v[i];
    return total;
}

inline Vec larger(Vec a, Vec b) { return a > b ? a : b; }

inline float largest(Vec v) {
    float top = v[0];
    for (int i = 1; i < W; ++i) top = std::max(top, v[i]);
    return top;
}

// e^x within 2 units in the last place; 0 below -87, NaN for NaN. Cody and Waite's reduction, then a polynomial.
inline Vec exponential(Vec x) {
    const Vec shifter = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, which its low bits then hold
    const Vec clamped = x > splat(88.0f) ? splat(88.0f) : (x < splat(-87.0f) ? splat(-87.0f) : x);
    const Vec shifted = clamped * 1.44269504f + shifter, n = shifted - shifter;
    const Vec r = (clamped - n * 0.693359375f) + n * 2.12194440e-4f;
    Vec p = splat(1.0f / 5040);
    for (float term : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f}) p = p * r + term;
    const Vec power = (Vec)(((Bits)shifted << 23) + 0x3f800000u);
    return x < splat(-87.0f) ? Vec{} : p * power;
}

// --- Residual add and RMSNorm -----------------------------------------------------------------------------------------

template <class T>
void add_rms_norm(const T* states, int64_t stride, int64_t n_inner, const T* residual, const T* weight, T* normalized,
                  T* total, int64_t n_rows, int64_t size, float eps) {
#pragma omp parallel for if (n_rows * size > PARALLEL)
    for (int64_t row = 0; row < n_rows; ++row) {
        const T* source = states + row / n_inner * stride + row % n_inner * size;
        T* target = normalized + row * size;
        Vec squares{};
        for (int64_t i = 0; i < size; i += W) {
            Vec x = load(source + i, size - i);
            if (residual) {
                x = rounded<T>(x + load(residual + row * size + i, size - i));
                store(total + row * size + i, x, size - i);
            }
            squares += x * x;
        }
        const T* summed = residual ? total + row * size : source;
        const float scale = 1.0f / std::sqrt(sum(squares) / size + eps);
        for (int64_t i = 0; i < size; i += W) {
            const Vec x = rounded<T>(load(summed + i, size - i) * scale);
            store(target + i, x * load(weight + i, size - i), size - i);
        }
    }
}

// --- Rotary embedding and the write to the pages ----------------------------------------------------------------------

template <class T> void rotate(const T* source, T* target, const T* cos, const T* sin, int64_t half, int64_t head_dim) {
    for (int64_t i = 0; i < half; i += W) {
        const int64_t n = half - i;
        const Vec first = load(source + i, n), second = load(source + half + i, n);
        store(target + i, rounded<T>(first * load(cos + i, n)) - rounded<T>(second * load(sin + i, n)), n);
        store(target + half + i, rounded<T>(second * load(cos + half + i, n)) + rounded<T>(first * load(sin + half + i, n)), n);
    }
    std::copy(source + 2 * half, source + head_dim, target + 2 * half);
}

template <class T>
void rotate_and_write(const T* queries, int64_t query_stride, const T* keys, int64_t key_stride, const T* values,
                      int64_t value_stride, const T* cos, const T* sin, int64_t n_rotated, T* key_pool, T* value_pool,
                      const int32_t* slots, T* output, int64_t n_tokens, int64_t n_heads, int64_t n_kv_heads,
                      int64_t head_dim, int64_t page_size) {
#pragma omp parallel for if (n_tokens * n_heads * head_dim > PARALLEL)
    for (int64_t token = 0; token < n_tokens; ++token) {
        const T *c = cos + token * n_rotated, *s = sin + token * n_rotated;
        for (int64_t head = 0; head < n_heads; ++head)
            rotate(queries + token * query_stride + head * head_dim, output + (token * n_heads + head) * head_dim, c, s,
                   n_rotated / 2, head_dim);
        const int64_t slot = slots[token];
        if (slot < 0) continue;
        for (int64_t head = 0; head < n_kv_heads; ++head) {
            const int64_t place = ((slot / page_size * n_kv_heads + head) * page_size + slot % page_size) * head_dim;
            rotate(keys + token * key_stride + head * head_dim, key_pool + place, c, s, n_rotated / 2, head_dim);
            const T* value = values + token * value_stride + head * head_dim;
            std::copy(value, value + head_dim, value_pool + place);
        }
    }
}

// --- Attention over the pages -----------------------------------------------------------------------------------------

constexpr int QUERIES = W == 16 ? 4 : 3;  // that read a page together, as many as there are registers for
constexpr int TOKENS = 16;  // of a row that are attended together, so that a page is converted once for all of them

struct Piece { int32_t row, first, last; };  // tokens of one row

struct Shape {
    int64_t group, head_dim, page_size;
    int64_t stride;  // of a head in scratch memory: head_dim, filled up to whole vectors
};

struct Scratch {  // of one thread
    std::vector<float> queries, output, scores, highest, total, keys, values;
    void resize(const Shape& shape) {
        const int64_t n = TOKENS * shape.group;
        queries.resize(n * shape.stride), output.resize(n * shape.stride), scores.resize(QUERIES * shape.page_size);
        highest.resize(n), total.resize(n);
        keys.resize(shape.page_size * shape.stride), values.resize(shape.page_size * shape.stride);
    }
};

// The first tokens of a page's head as float32, `stride` apart.
template <class T> void convert(const T* page, float* copy, int64_t n_tokens, const Shape& shape) {
    for (int64_t i = 0; i < n_tokens; ++i)
        for (int64_t d = 0; d < shape.head_dim; d += W)
            store(copy + i * shape.stride + d, load(page + i * shape.head_dim + d, shape.head_dim - d));
}

// scores[q][i] = queries[q] . keys[i] for `first <= i < last`, in whole vectors from a multiple of W on.
template <int N, class T>
void score(const float* queries, const T* keys, float* scores, int64_t first, int64_t last, const Shape& shape) {
    constexpr int K = 4;  // keys at a time: N * K sums stay in registers
    const int64_t stride = shape.stride;
    for (int64_t i = first / W * W; i < last; i += W) {
        Vec products[N][W];
        for (int k = 0; k < W; k += K) {
            Vec sum[N][K] = {};
            for (int64_t d = 0; d < stride; d += W)
                for (int j = 0; j < K; ++j) {
                    const Vec key = load(keys + (i + k + j) * stride + d);
                    for (int q = 0; q < N; ++q) sum[q][j] += load(queries + q * stride + d) * key;
                }
            for (int q = 0; q < N; ++q)
                for (int j = 0; j < K; ++j) products[q][k + j] = sum[q][j];
        }
        for (int q = 0; q < N; ++q) store(scores + q * shape.page_size + i, sums(products[q]));
    }
}

// output[q] = output[q] * scale[q] + weights[q] . values, V vectors of a head: N * V sums stay in registers.
template <int N, int V, class T>
void add_part(const float* weights, const T* values, float* output, const float* scale, int64_t first, int64_t last,
              const Shape& shape) {
    const int64_t stride = shape.stride;
    Vec sum[N][V];
    for (int q = 0; q < N; ++q)
        for (int v = 0; v < V; ++v) sum[q][v] = load(output + q * stride + v * W) * scale[q];
    for (int64_t i = first; i < last; ++i)
        for (int v = 0; v < V; ++v) {
            const Vec value = load(values + i * stride + v * W);
            for (int q = 0; q < N; ++q) sum[q][v] += weights[q * shape.page_size + i] * value;
        }
    for (int q = 0; q < N; ++q)
        for (int v = 0; v < V; ++v) store(output + q * stride + v * W, sum[q][v]);
}

template <int N, class T>
void add_values(const float* weights, const T* values, float* output, const float* scale, int64_t first, int64_t last,
                const Shape& shape) {
    int64_t d = 0;
    for (; d + 4 * W <= shape.stride; d += 4 * W)
        add_part<N, 4>(weights, values + d, output + d, scale, first, last, shape);
    for (; d < shape.stride; d += W) add_part<N, 1>(weights, values + d, output + d, scale, first, last, shape);
}

// The scores [first, last) of a query as weights relative to its highest score so far, and what earlier sums are to be
// multiplied by (online softmax, Milakov and Gimelshein 2018).
inline float weigh(float* scores, int64_t first, int64_t last, float& highest, float& total) {
    Ints lane;
    for (int i = 0; i < W; ++i) lane[i] = i;
    const int64_t start = first / W * W;
    Vec top = splat(-INF);
    for (int64_t i = start; i < last; i += W) {
        const Ints at = lane + (int32_t)i;
        const Vec seen = (at >= (int32_t)first) & (at < (int32_t)last) ? load(scores + i) : splat(-INF);
        store(scores + i, seen);
        top = larger(seen, top);
    }
    const float before = highest;
    highest = std::max(before, largest(top));
    const float scale = before == -INF ? 0.0f : std::exp(before - highest);
    Vec sum_of_weights{};
    for (int64_t i = start; i < last; i += W) {
        const Vec weight = exponential(load(scores + i) - highest);
        store(scores + i, weight);
        sum_of_weights += weight;
    }
    total = total * scale + sum(sum_of_weights);
    return scale;
}

// Attend positions [first, last) of a page for N queries of one token.
template <int N, class T>
void attend_page(const float* queries, const T* keys, const T* values, float* output, float* highest, float* total,
                 int64_t first, int64_t last, const Shape& shape, float* scores) {
    float scale[N];
    score<N>(queries, keys, scores, first, last, shape);
    for (int q = 0; q < N; ++q) scale[q] = weigh(scores + q * shape.page_size, first, last, highest[q], total[q]);
    add_values<N>(scores, values, output, scale, first, last, shape);
}

// The same for all queries of one token that read this KV head.
template <class T>
void attend_page(int64_t token, const T* keys, const T* values, int64_t first, int64_t last, const Shape& shape,
                 Scratch& scratch) {
    for (int64_t member = 0; member < shape.group; member += QUERIES) {
        const int64_t query = token * shape.group + member, at = query * shape.stride;
        const auto attend_n = [&](auto n) {
            attend_page<n>(scratch.queries.data() + at, keys, values, scratch.output.data() + at,
                           scratch.highest.data() + query, scratch.total.data() + query, first, last, shape,
                           scratch.scores.data());
        };
        switch (std::min<int64_t>(QUERIES, shape.group - member)) {
            case 1: attend_n(std::integral_constant<int, 1>{}); break;
            case 2: attend_n(std::integral_constant<int, 2>{}); break;
            case 3: attend_n(std::integral_constant<int, 3>{}); break;
            default: attend_n(std::integral_constant<int, QUERIES>{});
        }
    }
}

template <class T>
void attend_piece(const Piece& piece, int64_t kv_head, const T* queries, const T* key_pool, const T* value_pool, T* output,
                  const int32_t* query_starts, const int32_t* context_lengths, const int32_t* pages, int64_t n_kv_heads,
                  const Shape& shape, float scaling, int64_t window, Scratch& scratch) {
    const int64_t group = shape.group, stride = shape.stride, size = shape.page_size, head_dim = shape.head_dim;
    const int64_t start = query_starts[piece.row], context = context_lengths[piece.row];
    const int64_t n_before = context - (query_starts[piece.row + 1] - start);  // tokens before this step's first
    const int64_t n_tokens = piece.last - piece.first, n_heads = n_kv_heads * group;
    const auto at = [&](int64_t token) { return ((start + piece.first + token) * n_heads + kv_head * group) * head_dim; };
    for (int64_t query = 0; query < n_tokens * group; ++query)
        for (int64_t d = 0; d < head_dim; d += W) {
            const T* source = queries + at(query / group) + query % group * head_dim + d;
            store(scratch.queries.data() + query * stride + d, load(source, head_dim - d) * scaling);
        }
    std::fill_n(scratch.output.data(), n_tokens * group * stride, 0.0f);
    std::fill_n(scratch.highest.data(), n_tokens * group, -INF);
    std::fill_n(scratch.total.data(), n_tokens * group, 0.0f);
    // A token sees positions [seen_from(token), seen_to(token)).
    const auto seen_to = [&](int64_t token) { return n_before + piece.first + token + 1; };
    const auto seen_from = [&](int64_t token) { return window ? std::max<int64_t>(seen_to(token) - window, 0) : 0; };
    const bool in_place = stride == head_dim && (std::is_same_v<T, float> || n_tokens == 1);
    for (int64_t page = seen_from(0) / size; page * size < seen_to(n_tokens - 1); ++page) {
        const int64_t begin = page * size, place = (pages[page] * n_kv_heads + kv_head) * size * head_dim;
        const T *keys = key_pool + place, *values = value_pool + place;
        const int64_t filled = std::min(seen_to(n_tokens - 1) - begin, size);
        if (!in_place) {
            convert(keys, scratch.keys.data(), filled, shape);
            convert(values, scratch.values.data(), filled, shape);
        }
        for (int64_t token = 0; token < n_tokens; ++token) {
            const int64_t first = std::max<int64_t>(seen_from(token) - begin, 0), last = std::min(seen_to(token) - begin, size);
            if (first >= last) continue;
            if (in_place)
                attend_page(token, keys, values, first, last, shape, scratch);
            else
                attend_page<float>(token, scratch.keys.data(), scratch.values.data(), first, last, shape, scratch);
        }
    }
    for (int64_t query = 0; query < n_tokens * group; ++query) {
        T* target = output + at(query / group) + query % group * head_dim;
        for (int64_t d = 0; d < head_dim; d += W)
            store(target + d, load(scratch.output.data() + query * stride + d) / splat(scratch.total[query]), head_dim - d);
    }
}

template <class T>
void attend(const T* queries, const T* key_pool, const T* value_pool, T* output, const int32_t* query_starts,
            const int32_t* context_lengths, const int32_t* block_table, int64_t table_stride, int64_t n_rows,
            int64_t n_kv_heads, Shape shape, float scaling, int64_t window) {
    shape.stride = (shape.head_dim + W - 1) / W * W;
    std::vector<Piece> pieces;
    int64_t n_scores = 0;
    for (int32_t row = 0; row < n_rows; ++row) {
        const int32_t n_tokens = query_starts[row + 1] - query_starts[row];
        if (context_lengths[row] == 0) {  // padding
            const int64_t width = n_kv_heads * shape.group * shape.head_dim;
            std::memset((void*)(output + query_starts[row] * width), 0, n_tokens * width * sizeof(T));
            continue;
        }
        n_scores += (int64_t)n_tokens * context_lengths[row];
        for (int32_t first = 0; first < n_tokens; first += TOKENS)
            pieces.push_back({row, first, std::min(first + TOKENS, n_tokens)});
    }
    const int64_t n_pieces = pieces.size();
#pragma omp parallel if (n_scores * n_kv_heads * shape.group * shape.head_dim > PARALLEL)
    {
        thread_local Scratch scratch;
        scratch.resize(shape);
        // Rows of one head one after the other: what they have in common stays in the cache.
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < n_pieces * n_kv_heads; ++task) {
            const Piece& piece = pieces[task % n_pieces];
            attend_piece(piece, task / n_pieces, queries, key_pool, value_pool, output, query_starts, context_lengths,
                         block_table + piece.row * table_stride, n_kv_heads, shape, scaling, window, scratch);
        }
    }
}

// --- The gate of an MLP -----------------------------------------------------------------------------------------------

template <class T>
void gate(const T* gated, int64_t gated_stride, const T* up, int64_t up_stride, T* output, int64_t n_rows, int64_t size,
          bool is_silu) {
#pragma omp parallel for if (n_rows * size > PARALLEL)
    for (int64_t row = 0; row < n_rows; ++row)
        for (int64_t i = 0; i < size; i += W) {
            const Vec x = load(gated + row * gated_stride + i, size - i);
            // Both are x * sigmoid(...), since 1 + tanh(y) = 2 * sigmoid(2 * y); 2 * sqrt(2 / pi) = 1.5957691.
            const Vec bent = is_silu ? x : 1.5957691216f * (x + 0.044715f * x * x * x);
            const Vec active = rounded<T>(x / (1.0f + exponential(-bent)));
            store(output + row * size + i, active * load(up + row * up_stride + i, size - i), size - i);
        }
}

// --- The end of a step ------------------------------------------------------------------------------------------------

template <class T>
void read_logits(const T* logits, int64_t stride, const int64_t* answers, float* output, int64_t n_tokens, int64_t n) {
    constexpr int64_t BLOCK = 64 * W;
#pragma omp parallel for if (n_tokens * n > PARALLEL)
    for (int64_t token = 0; token < n_tokens; ++token) {
        const T* row = logits + token * stride;
        float highest = -INF;
        int64_t where = 0;  // the block that holds the first of the highest; NaN is the highest
        for (int64_t block = 0; block < n && !std::isnan(highest); block += BLOCK) {
            const int64_t end = std::min(block + BLOCK, n);
            Vec top = splat(-INF);
            Ints is_nan{};
            for (int64_t i = block; i < end; i += W) {
                const Vec x = load(row + i, end - i, -INF);
                is_nan |= x != x;
                top = larger(x, top);
            }
            bool has_nan = false;
            for (int i = 0; i < W; ++i) has_nan |= is_nan[i] != 0;
            if (has_nan || largest(top) > highest) {
                highest = has_nan ? NAN : largest(top);
                where = block;
            }
        }
        for (bool found = false; !found && where < n; ++where) {
            const float x = load(row + where, 1)[0];
            found = std::isnan(highest) ? std::isnan(x) : x == highest;
            if (found) output[token * 4] = (float)where;
        }
        output[token * 4 + 1] = highest;
        for (int i = 0; i < 2; ++i) output[token * 4 + 2 + i] = load(row + answers[i], 1)[0];
    }
}

}  // namespace

// One function for each operation and dtype, so that the caller names the dtype by the function.
#define FOR_EACH_DTYPE(EXPORT) EXPORT(float, float32) EXPORT(BFloat16, bfloat16) EXPORT(Float16, float16)

#define EXPORT(T, NAME)                                                                                                \
    extern "C" void add_rms_norm_##NAME(const T* states, int64_t stride, int64_t n_inner, const T* residual,           \
                                        const T* weight, T* normalized, T* total, int64_t n_rows, int64_t size,        \
                                        float eps) {                                                                   \
        add_rms_norm(states, stride, n_inner, residual, weight, normalized, total, n_rows, size, eps);                 \
    }                                                                                                                  \
    extern "C" void rotate_and_write_##NAME(                                                                           \
        const T* queries, int64_t query_stride, const T* keys, int64_t key_stride, const T* values,                    \
        int64_t value_stride, const T* cos, const T* sin, int64_t n_rotated, T* key_pool, T* value_pool,               \
        const int32_t* slots, T* output, int64_t n_tokens, int64_t n_heads, int64_t n_kv_heads, int64_t head_dim,      \
        int64_t page_size) {                                                                                           \
        rotate_and_write(queries, query_stride, keys, key_stride, values, value_stride, cos, sin, n_rotated, key_pool, \
                         value_pool, slots, output, n_tokens, n_heads, n_kv_heads, head_dim, page_size);               \
    }                                                                                                                  \
    extern "C" void attend_##NAME(const T* queries, const T* key_pool, const T* value_pool, T* output,                 \
                                  const int32_t* query_starts, const int32_t* context_lengths,                         \
                                  const int32_t* block_table, int64_t table_stride, int64_t n_rows,                    \
                                  int64_t n_kv_heads, int64_t group, int64_t head_dim, int64_t page_size,              \
                                  float scaling, int64_t window) {                                                     \
        attend(queries, key_pool, value_pool, output, query_starts, context_lengths, block_table, table_stride,        \
               n_rows, n_kv_heads, Shape{group, head_dim, page_size, 0}, scaling, window);                             \
    }                                                                                                                  \
    extern "C" void gate_##NAME(const T* gated, int64_t gated_stride, const T* up, int64_t up_stride, T* output,       \
                                int64_t n_rows, int64_t size, bool is_silu) {                                          \
        gate(gated, gated_stride, up, up_stride, output, n_rows, size, is_silu);                                       \
    }                                                                                                                  \
    extern "C" void read_logits_##NAME(const T* logits, int64_t stride, const int64_t* answers, float* output,         \
                                       int64_t n_tokens, int64_t n) {                                                  \
        read_logits(logits, stride, answers, output, n_tokens, n);                                                     \
    }

FOR_EACH_DTYPE(EXPORT)
