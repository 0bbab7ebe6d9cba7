// What the kernels share: types, an exponential that the compiler can do sixteen of at once, rows in parallel.
#pragma once
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/zeros.h>
#include <c10/util/BFloat16.h>
#include <torch/library.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <tuple>
#include <type_traits>

using at::Tensor;

// Sums are kept in float32, and of float64 in float64.
template <typename T>
using Wide = std::conditional_t<std::is_same_v<T, double>, double, float>;

// Calls body with a value of the tensor's type: each(x, [&](auto zero) { using T = decltype(zero); … });
template <typename Body>
void each(const Tensor& x, const Body& body) {
  switch (x.scalar_type()) {
    case at::kFloat: return body(float());
    case at::kDouble: return body(double());
    case at::kBFloat16: return body(c10::BFloat16());
    default: TORCH_CHECK_NOT_IMPLEMENTED(false, "the C++ kernels compute in float32, float64 and bfloat16, not ",
                                         x.scalar_type(), ": use chains.py");
  }
}

// n rows of `width` numbers, shared out among torch's threads; short work stays on this one.
template <typename Body>
void rows(int64_t n, int64_t width, const Body& body) {
  const int64_t grain = std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width));
  if (n <= grain) return body(0, n);
  at::parallel_for(0, n, grain, body);
}

// e^x = 2^n * e^r with |r| <= ln(2) / 2: n goes into the exponent bits, e^r is a polynomial (Cephes, Moshier).
// libm's expf is a call for each number; this is eleven operations that fill a vector. Within 2 ulp.
inline float exponential(float x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: adding it leaves the nearest whole number in the last bits
  const float inside = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  const float shifted = inside * 1.44269504f + magic;
  const float n = shifted - magic;
  const float r = (inside - n * 0.693359375f) + n * 2.12194440e-4f;
  float y = 1.9875691500e-4f;
  y = y * r + 1.3981999507e-3f;
  y = y * r + 8.3334519073e-3f;
  y = y * r + 4.1665795894e-2f;
  y = y * r + 1.6666665459e-1f;
  y = y * r + 5.0000001201e-1f;
  y = y * r * r + r + 1.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, 4);
  bits = static_cast<int32_t>((static_cast<uint32_t>(bits) - 0x4B400000u + 127u) << 23);
  float power;
  std::memcpy(&power, &bits, 4);
  return x < -87.0f ? 0.0f : x > 88.0f ? std::numeric_limits<float>::infinity() : y * power;
}
inline double exponential(double x) { return std::exp(x); }
