// The tables of one instruction set, by storage type; see ../dispatch.cpp.
namespace attn_kernels::ATTN_ISA {

template <class T>
constexpr Kernels<T> kTable = {
    spatial_forward<T>, spatial_backward<T>,      weight_backward<acc_t<T>>,
    channel_pool<T>,    channel_pool_backward<T>, gam_forward<T>,
    gam_backward<T>,    gam_weight_backward<T>,   transpose<acc_t<T>>,
    scale_gate<T>,      scale_gate_backward<T>,
};

extern const Kernels<float> float_kernels = kTable<float>;
extern const Kernels<double> double_kernels = kTable<double>;
extern const Kernels<Half> half_kernels = kTable<Half>;
extern const Kernels<BFloat16> bfloat16_kernels = kTable<BFloat16>;

}  // namespace attn_kernels::ATTN_ISA
