/* kernels: the list of kernels (kernels.def) as an enum and as a table. */
#pragma once
#include "base/base.h"

#include "shaders/push.h"

enum kernel {
#define KERNEL(name, push) K_##name,
#include "gpu/kernels.def"
#undef KERNEL
    KERNEL_COUNT
};

struct kernel_info {
    const char *name; /* shaders/<name>.comp */
    uint32_t push_bytes;
};
extern const struct kernel_info kernel_table[KERNEL_COUNT];

#define KERNEL(name, push)                                                                         \
    _Static_assert(sizeof(struct push) <= 128,                                                     \
                   #name ": Vulkan promises 128 bytes of push constants");
#include "gpu/kernels.def"
#undef KERNEL
