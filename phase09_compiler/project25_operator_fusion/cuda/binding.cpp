// The kernel as an operation of torch: checks, room for the results, the launch. No CUDA header is needed here: the
// stream comes as a number from Python, so this file also compiles where there is no CUDA at all.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/library.h>

#include <tuple>

int add_rms_norm_cuda(int type, const void* x, const void* residual, const void* weight, void* total, void* y,
                      float* rstd, int64_t rows, int C, float eps, void* stream);

std::tuple<at::Tensor, at::Tensor, at::Tensor> add_rms_norm(const at::Tensor& x, const at::Tensor& residual,
                                                            const at::Tensor& weight, double eps, int64_t stream) {
  const int64_t C = x.size(-1), rows = x.numel() / C, most = 256 * 8 * 16 / x.element_size();
  const int type = x.scalar_type() == at::kFloat ? 0 : x.scalar_type() == at::kHalf ? 1 : 2;
  TORCH_CHECK(type != 2 || x.scalar_type() == at::kBFloat16, "float32, float16 or bfloat16, not ", x.scalar_type());
  TORCH_CHECK(x.is_cuda() && residual.sizes() == x.sizes() && weight.numel() == C, "shapes or devices do not fit");
  TORCH_CHECK(residual.scalar_type() == x.scalar_type() && weight.scalar_type() == x.scalar_type(), "types differ");
  TORCH_CHECK(x.is_contiguous() && residual.is_contiguous() && weight.is_contiguous(), "rows must be contiguous");
  TORCH_CHECK(C * x.element_size() % 16 == 0 && C <= most, "rows of ", C, " numbers: whole 16 bytes, at most ", most);
  at::Tensor y = at::empty_like(x), total = at::empty_like(x);
  at::Tensor rstd = at::empty({rows}, x.options().dtype(at::kFloat));
  const int error = add_rms_norm_cuda(type, x.const_data_ptr(), residual.const_data_ptr(), weight.const_data_ptr(),
                                      total.data_ptr(), y.data_ptr(), rstd.data_ptr<float>(), rows,
                                      static_cast<int>(C), static_cast<float>(eps), reinterpret_cast<void*>(stream));
  TORCH_CHECK(error == 0, "the kernel could not be started: CUDA error ", error);
  return {y, total, rstd};
}

TORCH_LIBRARY_FRAGMENT(thirty_cuda, m) {
  m.def("add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps, int stream) -> (Tensor, Tensor, Tensor)");
}
TORCH_LIBRARY_IMPL(thirty_cuda, CUDA, m) { m.impl("add_rms_norm", &add_rms_norm); }
