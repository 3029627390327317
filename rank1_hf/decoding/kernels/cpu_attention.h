// Attention of a step over the pages of the KV cache: `attend` of contract.py.

#pragma once

#include <type_traits>
#include <vector>

#include "cpu_vectors.h"

namespace {

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

// Fetches what is computed with next into the cache, `n` elements of it, while something else is computed with: a page
// is too short for the processor to guess it.
template <class T> void fetch(const T* next, int64_t n) {
    for (int64_t i = 0; i < n; i += 64 / sizeof(T)) __builtin_prefetch(next + i, 0, 2);
}

// scores[q][i] = queries[q] . keys[i] for `first <= i < last`, in whole vectors from a multiple of W on. Meanwhile the
// page's values are fetched.
template <int N, class T>
void score(const float* queries, const T* keys, const T* values, float* scores, int64_t first, int64_t last,
           const Shape& shape) {
    constexpr int K = 4;  // keys at a time: N * K sums stay in registers
    const int64_t stride = shape.stride;
    for (int64_t i = first / W * W; i < last; i += W) {
        Vec products[N][W];
        fetch(values + i * stride, W * stride);
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

// output[q] = output[q] * scale[q] + weights[q] . values, V vectors of a head: N * V sums stay in registers. Meanwhile
// the next page's keys are fetched.
template <int N, int V, class T>
void add_part(const float* weights, const T* values, const T* next_keys, float* output, const float* scale,
              int64_t first, int64_t last, const Shape& shape) {
    const int64_t stride = shape.stride;
    Vec sum[N][V];
    for (int q = 0; q < N; ++q)
        for (int v = 0; v < V; ++v) sum[q][v] = load(output + q * stride + v * W) * scale[q];
    for (int64_t i = first; i < last; ++i) {
        fetch(next_keys + i * stride, V * W);
        for (int v = 0; v < V; ++v) {
            const Vec value = load(values + i * stride + v * W);
            for (int q = 0; q < N; ++q) sum[q][v] += weights[q * shape.page_size + i] * value;
        }
    }
    for (int q = 0; q < N; ++q)
        for (int v = 0; v < V; ++v) store(output + q * stride + v * W, sum[q][v]);
}

template <int N, class T>
void add_values(const float* weights, const T* values, const T* next_keys, float* output, const float* scale,
                int64_t first, int64_t last, const Shape& shape) {
    int64_t d = 0;
    for (; d + 4 * W <= shape.stride; d += 4 * W)
        add_part<N, 4>(weights, values + d, next_keys + d, output + d, scale, first, last, shape);
    for (; d < shape.stride; d += W)
        add_part<N, 1>(weights, values + d, next_keys + d, output + d, scale, first, last, shape);
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
void attend_page(const float* queries, const T* keys, const T* values, const T* next_keys, float* output,
                 float* highest, float* total, int64_t first, int64_t last, const Shape& shape, float* scores) {
    float scale[N];
    score<N>(queries, keys, values, scores, first, last, shape);
    for (int q = 0; q < N; ++q) scale[q] = weigh(scores + q * shape.page_size, first, last, highest[q], total[q]);
    add_values<N>(scores, values, next_keys, output, scale, first, last, shape);
}

// The same for all queries of one token that read this KV head.
template <class T>
void attend_page(int64_t token, const T* keys, const T* values, const T* next_keys, int64_t first, int64_t last,
                 const Shape& shape, Scratch& scratch) {
    for (int64_t member = 0; member < shape.group; member += QUERIES) {
        const int64_t query = token * shape.group + member, at = query * shape.stride;
        const auto attend_n = [&](auto n) {
            attend_page<n>(scratch.queries.data() + at, keys, values, next_keys, scratch.output.data() + at,
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
    const auto place = [&](int64_t page) { return (pages[page] * n_kv_heads + kv_head) * size * head_dim; };
    for (int64_t page = seen_from(0) / size; page * size < seen_to(n_tokens - 1); ++page) {
        const int64_t begin = page * size;
        const bool is_last = begin + size >= seen_to(n_tokens - 1);
        const T *keys = key_pool + place(page), *values = value_pool + place(page);
        const T* next_keys = is_last ? keys : key_pool + place(page + 1);
        const int64_t filled = std::min(seen_to(n_tokens - 1) - begin, size);
        if (!in_place) {
            convert(keys, scratch.keys.data(), filled, shape);
            convert(values, scratch.values.data(), filled, shape);
        }
        for (int64_t token = 0; token < n_tokens; ++token) {
            const int64_t first = std::max<int64_t>(seen_from(token) - begin, 0), last = std::min(seen_to(token) - begin, size);
            if (first >= last) continue;
            if (in_place)
                attend_page(token, keys, values, next_keys, first, last, shape, scratch);
            else
                attend_page<float>(token, scratch.keys.data(), scratch.values.data(), scratch.keys.data(), first, last,
                                   shape, scratch);
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

}  // namespace
