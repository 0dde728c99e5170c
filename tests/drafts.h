/* drafts: a model file with more draft (MTP) blocks than its fixture. No fixture has more than one;
 * Step has three. */
#pragma once
#include "gguf_build.h"

/* The path of a file with n draft blocks. For n = 1 it is the fixture, an F32 file whose last block
 * is its draft block. Otherwise it is a file in the scratch folder; the further blocks have the
 * same numbers, each in another order. NULL: the open case has failed. */
const char *drafts_file(const char *fixture_path, uint32_t n);
