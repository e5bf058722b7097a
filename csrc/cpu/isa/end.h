// Nothing after this is for one instruction set.
#if defined(__clang__)
#pragma clang attribute pop
#endif
