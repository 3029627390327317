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

// sums[r] += inputs[.][r] * weights[.], for R rows and the outputs of a panel. `ahead` is what comes next from memory.
template <int R, class T, class Stored>
void add_products(const float* inputs, const T* weights, float* sums, int64_t depth, const Stored* ahead) {
    Vec sum[R][V];
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) sum[r][v] = load(sums + r * COLUMNS + v * W);
    for (int64_t i = 0; i < depth; ++i) {
        Vec weight[V];
        __builtin_prefetch(ahead + i * COLUMNS, 0, 2);
        for (int v = 0; v < V; ++v) weight[v] = load(weights + i * COLUMNS + v * W);
        for (int r = 0; r < R; ++r)
            for (int v = 0; v < V; ++v) sum[r][v] += splat(inputs[i * R + r]) * weight[v];
    }
    for (int r = 0; r < R; ++r)
        for (int v = 0; v < V; ++v) store(sums + r * COLUMNS + v * W, sum[r][v]);
}

template <class T, class Stored>
void add_products(int64_t n_rows, const float* inputs, const T* weights, float* sums, int64_t depth,
                  const Stored* ahead) {
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

// Rows in blocks of ROWS or one less, as even as can be.
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

// output[rows, outputs] = states[rows, inputs] * panels[panel, inputs, COLUMNS] + bias[outputs], which may be null.
template <class T>
void multiply(const T* states, const T* panels, const T* bias, T* output, int64_t n_rows, int64_t n_in, int64_t n_out) {
    const Blocks blocks(n_rows);
    const int64_t n_panels = (n_out + COLUMNS - 1) / COLUMNS, per_group = GROUP / ROWS;
    std::vector<float> inputs(n_rows * n_in);
#pragma omp parallel if (n_rows * n_in * n_out > 4 * PARALLEL)
    {
        std::vector<float> sums(GROUP * COLUMNS), converted;
        if (!std::is_same<T, float>::value) converted.resize(DEPTH * COLUMNS);
#pragma omp for
        for (int64_t b = 0; b < blocks.n; ++b)
            interleave(states + blocks.start(b) * n_in, inputs.data() + blocks.start(b) * n_in, blocks.size(b), n_in);
        for (int64_t group = 0; group < blocks.n; group += per_group) {
            const int64_t end = std::min(group + per_group, blocks.n), first = blocks.start(group);
#pragma omp for nowait
            for (int64_t p = 0; p < n_panels; ++p) {
                std::fill_n(sums.begin(), (blocks.start(end) - first) * COLUMNS, 0.0f);
                for (int64_t i = 0; i < n_in; i += DEPTH) {
                    const int64_t depth = std::min(DEPTH, n_in - i);
                    const T* panel = panels + (p * n_in + i) * COLUMNS;
                    const bool converts = end - group > 2 && !std::is_same<T, float>::value;
                    if (converts)
                        for (int64_t j = 0; j < depth * COLUMNS; j += W) store(converted.data() + j, load(panel + j));
                    for (int64_t b = group; b < end; ++b) {
                        const int64_t start = blocks.start(b), size = blocks.size(b);
                        const float* block = inputs.data() + start * n_in + i * size;
                        float* target = sums.data() + (start - first) * COLUMNS;
                        if (converts) add_products(size, block, converted.data(), target, depth, panel + depth * COLUMNS);
                        else add_products(size, block, panel, target, depth, panel + depth * COLUMNS);
                    }
                }
                for (int64_t row = first; row < blocks.start(end); ++row)
                    for (int64_t j = 0; j < COLUMNS && p * COLUMNS + j < n_out; j += W) {
                        const int64_t at = p * COLUMNS + j, n = n_out - at;
                        Vec sum = load(sums.data() + (row - first) * COLUMNS + j);
                        if (bias) sum += load(bias + at, n);
                        store(output + row * n_out + at, sum, n);
                    }
            }
        }
    }
}

}  // namespace
