// The kernels of one instruction set, and their table by storage type; see ../dispatch.cpp.
#include "../affine_gate_kernels.h"
#include "../blend_kernels.h"
#include "../broadcast_gate_kernels.h"
#include "../broadcast_squeeze_kernels.h"
#include "../channel_pool_kernels.h"
#include "../excite_kernels.h"
#include "../gam_kernels.h"
#include "../mix_kernels.h"
#include "../scale_gate_kernels.h"
#include "../self_gate_kernels.h"
#include "../spatial_kernels.h"
#include "../squeeze_backward_kernels.h"
#include "../squeeze_kernels.h"

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
    broadcast_gate<T>,
    broadcast_gate_sums<T>,
    broadcast_squeeze<T>,
    broadcast_squeeze_backward<T>,
    self_gate<T>,
    self_gate_sums<T>,
    self_gate_backward<T>,
    mix<T>,
    mix_sums<T>,
    mix_squeeze<T>,
    mix_backward<T>,
    blend<T>,
    blend_backward<T>,
};

}  // namespace attn_kernels::ATTN_ISA

#define ATTN_TABLE(type, name)                    \
  namespace attn_kernels::ATTN_ISA {              \
  extern const Kernels<type> name = kTable<type>; \
  }
