// The small operations of a step, token by token: all of contract.py but attention.

#pragma once

#include "cpu_vectors.h"

namespace {

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
