// Vectors of W float32 lanes, which the compiler maps to the processor's own (AVX-512, AVX2, SSE, NEON). Tensors of 16
// bits are converted as they are loaded, and rounded as they are stored.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
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

}  // namespace
