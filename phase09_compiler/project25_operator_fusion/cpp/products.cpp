// Products of one token with a matrix: all the weights pass by once, and wait for memory. What is done with a sum
// while it is at hand, such as the gate of SwiGLU, costs nothing (an epilogue).
#include "rows.h"

// Four rows of w (4, C) with x (C,): four sums run side by side, so that none waits for its own last addition.
template <typename T>
inline void four(const T* x, const T* w, int64_t C, Wide<T>* y) {
  using W = Wide<T>;
  W a = 0, b = 0, c = 0, d = 0;
#pragma omp simd reduction(+ : a, b, c, d)
  for (int64_t i = 0; i < C; ++i) {
    const W v = static_cast<W>(x[i]);
    a += v * static_cast<W>(w[i]);
    b += v * static_cast<W>(w[i + C]);
    c += v * static_cast<W>(w[i + 2 * C]);
    d += v * static_cast<W>(w[i + 3 * C]);
  }
  y[0] = a, y[1] = b, y[2] = c, y[3] = d;
}

// The rows `begin` to `end` of w (N, C) with x: result(n, sum) for each. What is left of four goes one by one.
template <typename T, typename Result>
inline void walk(const T* x, const T* w, int64_t begin, int64_t end, int64_t C, const Result& result) {
  using W = Wide<T>;
  W y[4];
  int64_t n = begin;
  for (; n + 4 <= end; n += 4) {
    four(x, w + n * C, C, y);
    for (int64_t i = 0; i < 4; ++i) result(n + i, y[i]);
  }
  for (; n < end; ++n) {
    W sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < C; ++i) sum += static_cast<W>(x[i]) * static_cast<W>(w[n * C + i]);
    result(n, sum);
  }
}

void check(const Tensor& x, const Tensor& w) {
  TORCH_CHECK(x.numel() == w.size(1) && x.is_contiguous() && w.is_contiguous() && x.scalar_type() == w.scalar_type(),
              "one token (1, …, C) and weights (N, C), contiguous, of one type");
}

// x (…, C) of one token, w (N, C) -> x w^T, (…, N)
Tensor product(const Tensor& x, const Tensor& w) {
  check(x, w);
  auto shape = x.sizes().vec();
  shape.back() = w.size(0);
  Tensor y = at::empty(shape, x.options());
  each(x, [&](auto zero) {
    using T = decltype(zero);
    T* out = y.data_ptr<T>();
    rows(w.size(0), w.size(1), [&](int64_t begin, int64_t end) {
      walk(x.const_data_ptr<T>(), w.const_data_ptr<T>(), begin, end, w.size(1), [&](int64_t n, Wide<T> sum) {
        out[n] = static_cast<T>(sum);
      });
    });
  });
  return y;
}

// x (…, C) of one token, gate and up (F, C) -> silu(x gate^T) * (x up^T), (…, F)
Tensor gated(const Tensor& x, const Tensor& gate, const Tensor& up) {
  check(x, gate);
  check(x, up);
  auto shape = x.sizes().vec();
  shape.back() = gate.size(0);
  Tensor y = at::empty(shape, x.options());
  each(x, [&](auto zero) {
    using T = decltype(zero);
    using W = Wide<T>;
    const T* from = x.const_data_ptr<T>();
    T* out = y.data_ptr<T>();
    rows(gate.size(0), 2 * gate.size(1), [&](int64_t begin, int64_t end) {
      const int64_t C = gate.size(1);
      W sums[64];
      for (int64_t n = begin; n < end; n += 64) {  // few enough to stay in registers and the nearest cache
        const int64_t stop = std::min(end, n + 64);
        walk(from, gate.const_data_ptr<T>(), n, stop, C, [&](int64_t i, W sum) { sums[i - n] = sum; });
        walk(from, up.const_data_ptr<T>(), n, stop, C, [&](int64_t i, W sum) {
          const W g = sums[i - n];
          out[i] = static_cast<T>(g / (1 + exponential(-g)) * sum);
        });
      }
    });
  });
  return y;
}

TORCH_LIBRARY_FRAGMENT(thirty, m) {
  m.def("product(Tensor x, Tensor w) -> Tensor");
  m.def("gated(Tensor x, Tensor gate, Tensor up) -> Tensor");
}
TORCH_LIBRARY_IMPL(thirty, CPU, m) {
  m.impl("product", &product);
  m.impl("gated", &gated);
}
