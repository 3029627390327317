// The product of a linear layer, whatever the number of tokens: `multiply` of cpu.py.
//
// Weights lie in panels: COLUMNS outputs side by side, input by input, so that they are read once and in order. Each
// output is one sum over the inputs from the first to the last, in float32 registers: it does not depend on the other
// tokens, on the threads, or on how the work is divided (Goto and van de Geijn 2008 divide it alike).

#pragma once

#include <type_traits>
#include <vector>

#include "cpu_vectors.h"

namespace {

constexpr int COLUMNS = W == 16 ? 32 : 16;
constexpr int V = COLUMNS / W;
constexpr int ROWS = W == 16 ? 12 : W == 8 ? 6 : 4;  // ROWS * V sums stay in registers
constexpr int64_t GROUP = 16 * ROWS;  // rows that a panel is read for, so that their inputs stay in the cache
constexpr int64_t DEPTH = 256;        // inputs of a panel that are converted together: 16 or 32 KB

// What is fetched into the cache meanwhile: an address for each input, `stride` elements apart.
template <class T> struct Ahead { const T* start; int64_t stride; };

// sums[r] += inputs[.][r] * weights[.], for R rows and the outputs of a panel.
template <int R, class T, class Stored>
void add_products(const float* inputs, const T* weights, float* sums, int64_t depth, Ahead<Stored> ahead) {
    Vec sum[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sum[r][v] = load(sums + r * COLUMNS + v * W);
    for (int64_t i = 0; i < depth; ++i) {
        Vec weight[V];
        __builtin_prefetch(ahead.start + i * ahead.stride, 0, 2);
        for (int v = 0; v < V; ++v) weight[v] = load(weights + i * COLUMNS + v * W);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) sum[r][v] += splat(inputs[i * R + r]) * weight[v];
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(sums + r * COLUMNS + v * W, sum[r][v]);
}

template <class T, class Stored>
void add_products(int64_t n_rows, const float* inputs, const T* weights, float* sums, int64_t depth,
                  Ahead<Stored> ahead) {
    switch (n_rows) {
#define CASE(R) case R: return add_products<R>(inputs, weights, sums, depth, ahead);
        CASE(1) CASE(2) CASE(3) CASE(4)
#if LANES >= 8
        CASE(5) CASE(6)
#endif
#if LANES == 16
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
#undef CASE
    }
}

// Rows in blocks of at most ROWS, whose sizes differ by one at most.
struct Blocks {
    int64_t n_rows, n;
    explicit Blocks(int64_t n_rows) : n_rows(n_rows), n((n_rows + ROWS - 1) / ROWS) {}
    int64_t start(int64_t block) const { return block * n_rows / n; }
    int64_t size(int64_t block) const { return start(block + 1) - start(block); }
};

// A block's inputs as float32, those of its rows side by side.
template <class T> void interleave(const T* states, float* inputs, int64_t n_rows, int64_t n_in) {
    float part[W];
    for (int64_t r = 0; r < n_rows; ++r)
        for (int64_t i = 0; i < n_in; i += W) {
            const int64_t n = std::min<int64_t>(W, n_in - i);
            store(part, load(states + r * n_in + i, n));
            for (int64_t j = 0; j < n; ++j) inputs[(i + j) * n_rows + r] = part[j];
        }
}

// sums[row] = the row's inputs * a panel, for the rows of blocks [first, last). Weights of 16 bits are converted once
// for all of these, unless they are so few that converting them in registers takes less. Each block fetches its share of
// the weights that come next, so that memory is read all the time.
template <class T>
void sum_panel(const T* panel, const float* inputs, int64_t n_in, const Blocks& blocks, int64_t first, int64_t last,
               float* sums, float* converted) {
    const bool converts = !std::is_same<T, float>::value && last - first > 2;
    const int64_t stride = (COLUMNS + last - first - 1) / (last - first);
    std::fill_n(sums, (blocks.start(last) - blocks.start(first)) * COLUMNS, 0.0f);
    for (int64_t i = 0; i < n_in; i += DEPTH) {
        const int64_t depth = std::min(DEPTH, n_in - i);
        const T *weights = panel + i * COLUMNS, *next = weights + depth * COLUMNS;
        if (converts)
            for (int64_t j = 0; j < depth * COLUMNS; j += W) store(converted + j, load(weights + j));
        for (int64_t b = first; b < last; ++b) {
            const int64_t start = blocks.start(b), size = blocks.size(b);
            const float* block = inputs + start * n_in + i * size;
            float* target = sums + (start - blocks.start(first)) * COLUMNS;
            const Ahead<T> ahead{next + (b - first) * depth * stride, stride};
            if (converts) add_products(size, block, converted, target, depth, ahead);
            else add_products(size, block, weights, target, depth, ahead);
        }
    }
}

// Rounds a panel's sums, with the bias, to its `n` outputs of each row.
template <class T>
void store_panel(const float* sums, const T* bias, T* output, int64_t n_rows, int64_t n_out, int64_t n) {
    for (int64_t row = 0; row < n_rows; ++row)
        for (int64_t j = 0; j < std::min<int64_t>(n, COLUMNS); j += W) {
            Vec sum = load(sums + row * COLUMNS + j);
            if (bias) sum += load(bias + j, n - j);
            store(output + row * n_out + j, sum, n - j);
        }
}

// output[rows, outputs] = states[rows, inputs] * panels[panel, inputs, COLUMNS] + bias[outputs], which may be null.
template <class T>
void multiply(const T* states, const T* panels, const T* bias, T* output, int64_t n_rows, int64_t n_in, int64_t n_out) {
    const Blocks blocks(n_rows);
    const int64_t n_panels = (n_out + COLUMNS - 1) / COLUMNS, per_group = GROUP / ROWS;
    std::vector<float> inputs(n_rows * n_in);
#pragma omp parallel if (n_rows * n_in * n_out > 4 * PARALLEL)
    {
        std::vector<float> sums(GROUP * COLUMNS), converted(DEPTH * COLUMNS);
#pragma omp for
        for (int64_t b = 0; b < blocks.n; ++b)
            interleave(states + blocks.start(b) * n_in, inputs.data() + blocks.start(b) * n_in, blocks.size(b), n_in);
        for (int64_t first = 0; first < blocks.n; first += per_group) {
            const int64_t last = std::min(first + per_group, blocks.n), row = blocks.start(first);
#pragma omp for nowait
            for (int64_t p = 0; p < n_panels; ++p) {
                const int64_t at = p * COLUMNS;
                sum_panel(panels + at * n_in, inputs.data(), n_in, blocks, first, last, sums.data(), converted.data());
                store_panel(sums.data(), bias ? bias + at : bias, output + row * n_out + at, blocks.start(last) - row,
                            n_out, n_out - at);
            }
        }
    }
}

}  // namespace
