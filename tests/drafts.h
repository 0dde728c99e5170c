/* drafts: a model file with more draft (MTP) blocks than it was made with. No fixture has more than
 * one; Step has three. */
#pragma once
#include "gguf_build.h"

/* The path of a file with n draft blocks: for n = 1 the fixture (of F32, its last block its one
 * draft block), else a file in the scratch folder whose further blocks hold the same numbers, each
 * in another order. NULL, and the open case failed. */
const char *drafts_file(const char *fixture_path, uint32_t n);
