// The tables of one instruction set, by storage type; see ../dispatch.cpp.
namespace attn_kernels::ATTN_ISA {

extern const Kernels<float> float_kernels = kTable<float>;
extern const Kernels<double> double_kernels = kTable<double>;
extern const Kernels<Half> half_kernels = kTable<Half>;
extern const Kernels<BFloat16> bfloat16_kernels = kTable<BFloat16>;

}  // namespace attn_kernels::ATTN_ISA
