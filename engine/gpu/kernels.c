/* kernels: the table of kernels.def. */
#include "gpu/kernels.h"

const struct kernel_info kernel_table[KERNEL_COUNT] = {
#define KERNEL(name, push) [K_##name] = { #name, sizeof(struct push) },
#include "gpu/kernels.def"
#undef KERNEL
};
