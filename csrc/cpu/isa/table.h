// The tables of one instruction set, by storage type; see ../dispatch.cpp.
namespace attn_kernels::ATTN_ISA {

template <class T, class G>
constexpr GamPasses<T, G> kGamPasses = {
    gam_copy<T, G>, gam_fill<T, G>,          gam_relu<T, G>,
    gam_gate<T, G>, gam_gate_backward<T, G>, gam_hidden_backward<T, G>,
    gam_dx<T, G>,   gam_add_pixels<T, G>,    gam_add<T, G>,
};

template <class T>
constexpr Kernels<T> kTable = {
    spatial_forward<T>,
    spatial_backward<T>,
    weight_backward<acc_t<T>>,
    channel_pool<T>,
    channel_pool_backward<T>,
    kGamPasses<T, acc_t<T>>,
    kGamPasses<T, native_t<T>>,
    scale_gate<T>,
    scale_gate_backward<T>,
    squeeze<T>,
    squeeze_backward<T>,
    affine_gate<T>,
    affine_gate_sums<T>,
    excite_hidden<acc_t<T>>,
    excite_scale<acc_t<T>>,
    excite_logit_backward<acc_t<T>>,
    excite_hidden_backward<acc_t<T>>,
    excite_mean_backward<acc_t<T>>,
    excite_weights_backward<acc_t<T>>,
};

extern const Kernels<float> float_kernels = kTable<float>;
extern const Kernels<double> double_kernels = kTable<double>;
extern const Kernels<Half> half_kernels = kTable<Half>;
extern const Kernels<BFloat16> bfloat16_kernels = kTable<BFloat16>;

}  // namespace attn_kernels::ATTN_ISA
