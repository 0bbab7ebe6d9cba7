// RMSNorm, alone or with the residual sum before it: x is read once, and written once.
#include "rows.h"

// One row: total = x + residual (where there is one); y = total * rstd * weight. Returns rstd.
template <typename T>
Wide<T> norm_row(const T* x, const T* residual, const T* weight, T* total, T* y, int64_t C, double eps) {
  using W = Wide<T>;
  W squares = 0;
  if (residual) {
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < C; ++c) {
      total[c] = static_cast<T>(static_cast<W>(x[c]) + static_cast<W>(residual[c]));
      squares += static_cast<W>(total[c]) * static_cast<W>(total[c]);
    }
    x = total;  // still in the first-level cache: memory is not asked again
  } else {
#pragma omp simd reduction(+ : squares)
    for (int64_t c = 0; c < C; ++c) squares += static_cast<W>(x[c]) * static_cast<W>(x[c]);
  }
  const W rstd = 1 / std::sqrt(squares / C + static_cast<W>(eps));
#pragma omp simd
  for (int64_t c = 0; c < C; ++c) y[c] = static_cast<T>(static_cast<W>(x[c]) * rstd * static_cast<W>(weight[c]));
  return rstd;
}

std::tuple<Tensor, Tensor, Tensor> norm(const Tensor& x, const Tensor* residual, const Tensor& weight, double eps) {
  const int64_t C = x.size(-1), n = x.numel() / C;
  TORCH_CHECK(weight.numel() == C && (!residual || residual->sizes() == x.sizes()), "shapes do not fit together");
  Tensor y = at::empty_like(x), total = residual ? at::empty_like(x) : Tensor();
  Tensor rstd = at::empty({n}, x.options().dtype(x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat));
  each(x, [&](auto zero) {
    using T = decltype(zero);
    const T *from = x.const_data_ptr<T>(), *w = weight.const_data_ptr<T>();
    const T* other = residual ? residual->const_data_ptr<T>() : nullptr;
    T *out = y.data_ptr<T>(), *sum = residual ? total.data_ptr<T>() : nullptr;
    Wide<T>* r = rstd.data_ptr<Wide<T>>();
    rows(n, C, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin, at = begin * C; i < end; ++i, at += C)
        r[i] = norm_row(from + at, other ? other + at : nullptr, w, sum ? sum + at : nullptr, out + at, C, eps);
    });
  });
  return {y, total, rstd};
}

std::tuple<Tensor, Tensor> rms_norm(const Tensor& x, const Tensor& weight, double eps) {
  auto [y, total, rstd] = norm(x.contiguous(), nullptr, weight.contiguous(), eps);
  return {y, rstd};
}

std::tuple<Tensor, Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight,
                                                double eps) {
  const Tensor other = residual.contiguous();
  return norm(x.contiguous(), &other, weight.contiguous(), eps);
}

// With n = total * rstd, a row: dx = rstd * (dy * w - n * mean(dy * w * n)), plus what flows into total itself.
// dw sums dy * n over rows: each thread has a sum of its own, and they are added in the order of the threads.
std::tuple<Tensor, Tensor> rms_norm_backward(const Tensor& dy_, const std::optional<Tensor>& dtotal_, const Tensor& total,
                                             const Tensor& weight, const Tensor& rstd) {
  const int64_t C = total.size(-1), n = total.numel() / C;
  const Tensor dy = dy_.contiguous(), dtotal = dtotal_ ? dtotal_->contiguous() : Tensor();
  Tensor dx = at::empty_like(total), sums = at::zeros({at::get_num_threads(), C}, rstd.options());
  each(total, [&](auto zero) {
    using T = decltype(zero);
    using W = Wide<T>;
    rows(n, C, [&](int64_t begin, int64_t end) {
      W* dw = sums.data_ptr<W>() + at::get_thread_num() * C;
      const T* w = weight.const_data_ptr<T>();
      for (int64_t i = begin; i < end; ++i) {
        const T *g = dy.const_data_ptr<T>() + i * C, *x = total.const_data_ptr<T>() + i * C;
        const T* also = dtotal.defined() ? dtotal.const_data_ptr<T>() + i * C : nullptr;
        T* out = dx.data_ptr<T>() + i * C;
        const W r = rstd.const_data_ptr<W>()[i];
        W mean = 0;
#pragma omp simd reduction(+ : mean)
        for (int64_t c = 0; c < C; ++c) {
          const W term = static_cast<W>(g[c]) * static_cast<W>(x[c]) * r;
          dw[c] += term;
          mean += term * static_cast<W>(w[c]);
        }
        mean /= C;
        for (int64_t c = 0; c < C; ++c) {
          const W back = r * (static_cast<W>(g[c]) * static_cast<W>(w[c]) - static_cast<W>(x[c]) * r * mean);
          out[c] = static_cast<T>(also ? back + static_cast<W>(also[c]) : back);
        }
      }
    });
  });
  return {dx, sums.sum(0).to(weight.scalar_type())};
}

TORCH_LIBRARY_FRAGMENT(thirty, m) {
  m.def("rms_norm(Tensor x, Tensor weight, float eps) -> (Tensor, Tensor)");
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor, Tensor)");
  m.def("rms_norm_backward(Tensor dy, Tensor? dtotal, Tensor total, Tensor weight, Tensor rstd) -> (Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(thirty, CPU, m) {
  m.impl("rms_norm", &rms_norm);
  m.impl("add_rms_norm", &add_rms_norm);
  m.impl("rms_norm_backward", &rms_norm_backward);
}
