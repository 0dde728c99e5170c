/* shaders: the SPIR-V modules inside the library, with what the build read from them. The table is
 * build/shaders.c, which tools/embed.c writes from build/shaders/ and shaders/spv/. Nothing is read
 * from disk at run time. */
#pragma once
#include "gpu/kernels.h"

struct shader {
    const uint32_t *words; /* NULL: this build has no module for the kernel */
    uint32_t n_bytes;
    uint32_t n_bind; /* storage buffers, at bindings 0 to n_bind - 1 of set 0 */
    /* Specialization constants as bits `id` of spec.def: all that the module has, and those that
     * every dispatch must set (sizes, whose default is not 0). */
    uint64_t constants, sizes;
};

extern const struct shader hlm_shaders[KERNEL_COUNT];
