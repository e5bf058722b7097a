#include "switch.h"

#include <cstdlib>

namespace attn_kernels {

int number_of_mutation() {
  const char* number = std::getenv("ATTN_KERNELS_MUTATION");
  return number != nullptr ? std::atoi(number) : 0;
}

}  // namespace attn_kernels
