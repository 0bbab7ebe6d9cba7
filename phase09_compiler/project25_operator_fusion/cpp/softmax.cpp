// Softmax and cross-entropy: a row is read for its maximum and its sum, and once more for what comes of them.
#include "rows.h"

template <typename T>
Wide<T> largest(const T* x, int64_t C) {
  Wide<T> m = -std::numeric_limits<Wide<T>>::infinity();
#pragma omp simd reduction(max : m)
  for (int64_t c = 0; c < C; ++c) m = static_cast<Wide<T>>(x[c]) > m ? static_cast<Wide<T>>(x[c]) : m;
  return m;
}

Tensor softmax(const Tensor& x_) {
  const Tensor x = x_.contiguous();
  const int64_t C = x.size(-1), n = x.numel() / C;
  Tensor y = at::empty_like(x);
  each(x, [&](auto zero) {
    using T = decltype(zero);
    using W = Wide<T>;
    rows(n, C, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* row = x.const_data_ptr<T>() + i * C;
        T* out = y.data_ptr<T>() + i * C;
        const W m = largest(row, C);
        W sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < C; ++c) {
          const W p = exponential(static_cast<W>(row[c]) - m);
          out[c] = static_cast<T>(p);
          sum += p;
        }
        sum = 1 / sum;
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) out[c] = static_cast<T>(static_cast<W>(out[c]) * sum);
      }
    });
  });
  return y;
}

// dx = y (dy - sum(dy y))
Tensor softmax_backward(const Tensor& dy_, const Tensor& y_) {
  const Tensor dy = dy_.contiguous(), y = y_.contiguous();
  const int64_t C = y.size(-1), n = y.numel() / C;
  Tensor dx = at::empty_like(y);
  each(y, [&](auto zero) {
    using T = decltype(zero);
    using W = Wide<T>;
    rows(n, C, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T *g = dy.const_data_ptr<T>() + i * C, *p = y.const_data_ptr<T>() + i * C;
        T* out = dx.data_ptr<T>() + i * C;
        W dot = 0;
#pragma omp simd reduction(+ : dot)
        for (int64_t c = 0; c < C; ++c) dot += static_cast<W>(g[c]) * static_cast<W>(p[c]);
#pragma omp simd
        for (int64_t c = 0; c < C; ++c) out[c] = static_cast<T>(static_cast<W>(p[c]) * (static_cast<W>(g[c]) - dot));
      }
    });
  });
  return dx;
}

// logits (N, V), targets (N,): each row's loss and the log of its sum. A target below 0 is left out: its loss is 0.
std::tuple<Tensor, Tensor> cross_entropy(const Tensor& logits_, const Tensor& targets_) {
  const Tensor logits = logits_.contiguous(), targets = targets_.contiguous();
  const int64_t n = logits.size(0), V = logits.size(1);
  auto wide = logits.options().dtype(logits.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  Tensor loss = at::empty({n}, wide), lse = at::empty({n}, wide);
  const int64_t* t = targets.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < n; ++i) TORCH_CHECK_INDEX(t[i] < V, "target ", t[i], " is not among ", V, " classes");
  each(logits, [&](auto zero) {
    using T = decltype(zero);
    using W = Wide<T>;
    rows(n, V, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* row = logits.const_data_ptr<T>() + i * V;
        const W m = largest(row, V);
        W sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < V; ++c) sum += exponential(static_cast<W>(row[c]) - m);
        const W total = m + std::log(sum);
        lse.data_ptr<W>()[i] = total;
        loss.data_ptr<W>()[i] = t[i] < 0 ? 0 : total - static_cast<W>(row[t[i]]);
      }
    });
  });
  return {loss, lse};
}

// out = scale[i] (softmax(logits) - 1 at the target), which is the gradient; out may be the logits themselves.
void cross_entropy_backward(const Tensor& logits, const Tensor& targets, const Tensor& lse, const Tensor& scale,
                            Tensor out) {
  const int64_t n = logits.size(0), V = logits.size(1);
  TORCH_CHECK(logits.is_contiguous() && out.is_contiguous() && targets.is_contiguous(), "rows must be contiguous");
  const int64_t* t = targets.const_data_ptr<int64_t>();
  each(logits, [&](auto zero) {
    using T = decltype(zero);
    using W = Wide<T>;
    rows(n, V, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T* row = logits.const_data_ptr<T>() + i * V;
        T* to = out.data_ptr<T>() + i * V;
        const W total = lse.const_data_ptr<W>()[i], times = t[i] < 0 ? 0 : scale.const_data_ptr<W>()[i];
        for (int64_t c = 0; c < V; ++c) to[c] = static_cast<T>(times * exponential(static_cast<W>(row[c]) - total));
        if (t[i] >= 0) to[t[i]] = static_cast<T>(static_cast<W>(to[t[i]]) - times);
      }
    });
  });
}

TORCH_LIBRARY_FRAGMENT(thirty, m) {
  m.def("softmax(Tensor x) -> Tensor");
  m.def("softmax_backward(Tensor dy, Tensor y) -> Tensor");
  m.def("cross_entropy(Tensor logits, Tensor targets) -> (Tensor, Tensor)");
  m.def("cross_entropy_backward(Tensor logits, Tensor targets, Tensor lse, Tensor scale, Tensor(a!) out) -> ()");
}
TORCH_LIBRARY_IMPL(thirty, CPU, m) {
  m.impl("softmax", &softmax);
  m.impl("softmax_backward", &softmax_backward);
  m.impl("cross_entropy", &cross_entropy);
  m.impl("cross_entropy_backward", &cross_entropy_backward);
}
