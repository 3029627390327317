// The operations of a step on a CPU; contract.py says what each computes. cpu.py compiles this file and calls it.
//
// Each token and head is computed by the same operations in the same order whatever else is in the step, so that results
// do not depend on it.
//
// OpenMP comes from PyTorch's own runtime: this file is compiled with OpenMP and linked without, and its calls are
// resolved in the running process. A second runtime would fight the first for the cores.

#include "cpu_attention.h"
#include "cpu_products.h"
#include "cpu_small.h"

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
    extern "C" void multiply_##NAME(const T* states, const T* panels, const T* bias, T* output, int64_t n_rows,         \
                                    int64_t n_in, int64_t n_out) {                                                     \
        multiply(states, panels, bias, output, n_rows, n_in, n_out);                                                   \
    }                                                                                                                  \
    extern "C" void read_logits_##NAME(const T* logits, int64_t stride, const int64_t* answers, float* output,         \
                                       int64_t n_tokens, int64_t n) {                                                  \
        read_logits(logits, stride, answers, output, n_tokens, n);                                                     \
    }

FOR_EACH_DTYPE(EXPORT)
extern "C" int64_t panel_width() { return COLUMNS; }
