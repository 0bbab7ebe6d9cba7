// The residual sum and RMSNorm by hand, in CUDA C++: what Triton writes for us in triton_norm.py, written out.
// One block of threads to a row. Each thread loads 16 bytes at a time, keeps its numbers in registers between the
// two passes, and adds up squares; then threads of a warp hand their sums around, then warps through shared memory.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int kThreads = 256, kMost = 8;  // a thread holds up to kMost vectors: 16,384 bfloat16 numbers to a row

template <typename T>
struct alignas(16) Vector {
  static constexpr int N = 16 / sizeof(T);
  T at[N];
};

__device__ float wide(float x) { return x; }
__device__ float wide(__half x) { return __half2float(x); }
__device__ float wide(__nv_bfloat16 x) { return __bfloat162float(x); }
template <typename T>
__device__ T narrow(float x);
template <>
__device__ float narrow<float>(float x) { return x; }
template <>
__device__ __half narrow<__half>(float x) { return __float2half_rn(x); }
template <>
__device__ __nv_bfloat16 narrow<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// The sum over all threads of the block, for each of them. The order is fixed, so two runs give the same bits.
__device__ float total_of(float value) {
  __shared__ float warps[kThreads / 32];
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffu, value, step);
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < kThreads / 32; ++i) sum += warps[i];
  return sum;
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    add_rms_norm(const T* x, const T* residual, const T* weight, T* total, T* y, float* rstd, int C, float eps) {
  using V = Vector<T>;
  const int64_t row = blockIdx.x;
  const int vectors = C / V::N;
  const V* from = reinterpret_cast<const V*>(x + row * C);
  const V* other = reinterpret_cast<const V*>(residual + row * C);
  const V* gain = reinterpret_cast<const V*>(weight);
  V* sum = reinterpret_cast<V*>(total + row * C);
  V* out = reinterpret_cast<V*>(y + row * C);
  V held[kMost];
  float squares = 0;
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    const int at = i * kThreads + threadIdx.x;
    if (at >= vectors) break;
    const V a = from[at], b = other[at];
#pragma unroll
    for (int j = 0; j < V::N; ++j) {
      held[i].at[j] = narrow<T>(wide(a.at[j]) + wide(b.at[j]));
      squares += wide(held[i].at[j]) * wide(held[i].at[j]);
    }
    sum[at] = held[i];
  }
  const float factor = rsqrtf(total_of(squares) / C + eps);
  if (threadIdx.x == 0) rstd[row] = factor;
#pragma unroll
  for (int i = 0; i < kMost; ++i) {
    const int at = i * kThreads + threadIdx.x;
    if (at >= vectors) break;
    const V w = gain[at];
    V result;
#pragma unroll
    for (int j = 0; j < V::N; ++j) result.at[j] = narrow<T>(wide(held[i].at[j]) * factor * wide(w.at[j]));
    out[at] = result;
  }
}

template <typename T>
int launch(const void* x, const void* residual, const void* weight, void* total, void* y, float* rstd, int64_t rows,
           int C, float eps, cudaStream_t stream) {
  add_rms_norm<T><<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(
      static_cast<const T*>(x), static_cast<const T*>(residual), static_cast<const T*>(weight), static_cast<T*>(total),
      static_cast<T*>(y), rstd, C, eps);
  return static_cast<int>(cudaGetLastError());
}

}  // namespace

// type: 0 float32, 1 float16, 2 bfloat16. Returns CUDA's error number, 0 if all is well.
int add_rms_norm_cuda(int type, const void* x, const void* residual, const void* weight, void* total, void* y,
                      float* rstd, int64_t rows, int C, float eps, void* stream) {
  auto on = static_cast<cudaStream_t>(stream);
  if (type == 0) return launch<float>(x, residual, weight, total, y, rstd, rows, C, eps, on);
  if (type == 1) return launch<__half>(x, residual, weight, total, y, rstd, rows, C, eps, on);
  return launch<__nv_bfloat16>(x, residual, weight, total, y, rstd, rows, C, eps, on);
}
