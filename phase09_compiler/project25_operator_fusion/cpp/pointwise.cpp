// RoPE, SwiGLU and AdamW: no number needs another row's, so each is one loop.
#include "rows.h"

// qkv (B, T, N D): each of the first `turned` heads by the angle of its position, the others copied. cos and sin
// (1 or B, T, D/2), of the type in which sums are kept. `back`: by the negative angle, which is the transpose.
Tensor rotate(const Tensor& qkv_, const Tensor& cos_, const Tensor& sin_, int64_t turned, bool back) {
  const Tensor qkv = qkv_.contiguous(), cos = cos_.contiguous(), sin = sin_.contiguous();
  const int64_t T_ = qkv.size(-2), D = 2 * cos.size(-1), N = qkv.size(-1) / D, n = qkv.numel() / (N * D);
  TORCH_CHECK(qkv.size(-1) % D == 0 && turned <= N && cos.size(-2) == T_, "angles do not fit to the heads");
  const bool alike = cos.numel() == T_ * D / 2;  // all rows at the same places
  Tensor y = at::empty_like(qkv);
  each(qkv, [&](auto zero) {
    using T = decltype(zero);
    using W = Wide<T>;
    const Tensor c_ = cos.to(std::is_same_v<W, double> ? at::kDouble : at::kFloat), s_ = sin.to(c_.scalar_type());
    const W *cosine = c_.const_data_ptr<W>(), *sine = s_.const_data_ptr<W>(), sign = back ? -1 : 1;
    rows(n, N * D, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const W *c = cosine + (alike ? i % T_ : i) * D / 2, *s = sine + (alike ? i % T_ : i) * D / 2;
        for (int64_t head = 0; head < N; ++head) {
          const T* x = qkv.const_data_ptr<T>() + (i * N + head) * D;
          T* out = y.data_ptr<T>() + (i * N + head) * D;
          if (head >= turned) {
            std::memcpy(out, x, D * sizeof(T));
            continue;
          }
#pragma omp simd
          for (int64_t d = 0; d < D / 2; ++d) {
            const W a = static_cast<W>(x[d]), b = static_cast<W>(x[d + D / 2]);
            out[d] = static_cast<T>(a * c[d] - sign * b * s[d]);
            out[d + D / 2] = static_cast<T>(b * c[d] + sign * a * s[d]);
          }
        }
      }
    });
  });
  return y;
}

// x (…, 2F), gate beside up -> silu(gate) * up (…, F)
Tensor swiglu(const Tensor& x_) {
  const Tensor x = x_.contiguous();
  const int64_t F = x.size(-1) / 2, n = x.numel() / (2 * F);
  auto shape = x.sizes().vec();
  shape.back() = F;
  Tensor y = at::empty(shape, x.options());
  each(x, [&](auto zero) {
    using T = decltype(zero);
    using W = Wide<T>;
    rows(n, 2 * F, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T *gate = x.const_data_ptr<T>() + i * 2 * F, *up = gate + F;
        T* out = y.data_ptr<T>() + i * F;
#pragma omp simd
        for (int64_t f = 0; f < F; ++f) {
          const W g = static_cast<W>(gate[f]);
          out[f] = static_cast<T>(g / (1 + exponential(-g)) * static_cast<W>(up[f]));
        }
      }
    });
  });
  return y;
}

// sigma = sigmoid(gate): d gate = dy up sigma (1 + gate (1 - sigma)), d up = dy gate sigma. sigma is made again.
Tensor swiglu_backward(const Tensor& dy_, const Tensor& x_) {
  const Tensor dy = dy_.contiguous(), x = x_.contiguous();
  const int64_t F = x.size(-1) / 2, n = x.numel() / (2 * F);
  Tensor dx = at::empty_like(x);
  each(x, [&](auto zero) {
    using T = decltype(zero);
    using W = Wide<T>;
    rows(n, 2 * F, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const T *gate = x.const_data_ptr<T>() + i * 2 * F, *up = gate + F, *g = dy.const_data_ptr<T>() + i * F;
        T *dgate = dx.data_ptr<T>() + i * 2 * F, *dup = dgate + F;
#pragma omp simd
        for (int64_t f = 0; f < F; ++f) {
          const W a = static_cast<W>(gate[f]), sigma = 1 / (1 + exponential(-a)), back = static_cast<W>(g[f]);
          dgate[f] = static_cast<T>(back * static_cast<W>(up[f]) * sigma * (1 + a * (1 - sigma)));
          dup[f] = static_cast<T>(back * a * sigma);
        }
      }
    });
  });
  return dx;
}

// Loshchilov and Hutter 2019: p, m and v of all parameters, in place, in one visit each. step counts from 1.
void adamw_(at::TensorList p, at::TensorList g, at::TensorList m, at::TensorList v, double lr, double beta1,
            double beta2, double eps, double decay, int64_t step) {
  const double fix1 = 1 - std::pow(beta1, step), fix2 = std::sqrt(1 - std::pow(beta2, step));
  for (size_t i = 0; i < p.size(); ++i) {
    TORCH_CHECK(p[i].is_contiguous() && m[i].is_contiguous() && v[i].is_contiguous(), "a parameter is not contiguous");
    const Tensor back = g[i].contiguous();
    each(p[i], [&](auto zero) {
      using T = decltype(zero);
      using W = Wide<T>;
      T *weight = p[i].data_ptr<T>(), *mean = m[i].data_ptr<T>(), *square = v[i].data_ptr<T>();
      const T* grad = back.const_data_ptr<T>();
      const W b1 = beta1, b2 = beta2, c1 = 1 - beta1, c2 = 1 - beta2, shrink = 1 - lr * decay;
      const W rate = lr / fix1, root = 1 / fix2, e = eps;
      rows(p[i].numel(), 1, [&](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t j = begin; j < end; ++j) {
          const W d = static_cast<W>(grad[j]);
          const W first = b1 * static_cast<W>(mean[j]) + c1 * d, second = b2 * static_cast<W>(square[j]) + c2 * d * d;
          mean[j] = static_cast<T>(first);
          square[j] = static_cast<T>(second);
          weight[j] = static_cast<T>(static_cast<W>(weight[j]) * shrink - rate * first / (std::sqrt(second) * root + e));
        }
      });
    });
  }
}

TORCH_LIBRARY_FRAGMENT(thirty, m) {
  m.def("rotate(Tensor qkv, Tensor cos, Tensor sin, int turned, bool back) -> Tensor");
  m.def("swiglu(Tensor x) -> Tensor");
  m.def("swiglu_backward(Tensor dy, Tensor x) -> Tensor");
  m.def("adamw_(Tensor(a!)[] p, Tensor[] g, Tensor(b!)[] m, Tensor(c!)[] v, float lr, float beta1, float beta2, "
        "float eps, float decay, int step) -> ()");
}
TORCH_LIBRARY_IMPL(thirty, CPU, m) {
  m.impl("rotate", &rotate);
  m.impl("swiglu", &swiglu);
  m.impl("swiglu_backward", &swiglu_backward);
  m.impl("adamw_", &adamw_);
}
