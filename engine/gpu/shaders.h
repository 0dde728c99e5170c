/* shaders: the SPIR-V modules inside the library. The table is build/shaders.c, which tools/embed.c
 * writes from build/shaders/ and shaders/spv/. Nothing is read from disk at run time. */
#pragma once
#include <stdint.h>

struct shader_blob {
    const char *name; /* of the kernel: rmsnorm for shaders/rmsnorm.comp */
    const uint32_t *words;
    uint32_t n_bytes;
};

extern const struct shader_blob hlm_shaders[]; /* sorted by name */
extern const uint32_t hlm_n_shaders;
