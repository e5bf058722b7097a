// Which fault the library was loaded with: the number of a mutation in cpu.py, or 0.
#pragma once

namespace attn_kernels {

int number_of_mutation();
inline const int mutation = number_of_mutation();

}  // namespace attn_kernels
