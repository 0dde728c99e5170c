/* ssm_in: rewrites a qwen3next file into the old layout, in which attn_qkv and attn_gate of a
 * linear layer are one tensor ssm_in in the order of the checkpoint (models/README.md, "DeltaNet
 * tensors"). It is the same model, so the logits must be the same bits. No old file is needed to
 * test that such files load. */
#pragma once
#include "gguf_build.h"

/* The file at path in the old layout, for gb_bytes or gb_write; the caller frees it with gb_free().
 * Quantised rows are moved unchanged. NULL with a reason when there is no layer to rewrite. */
struct gguf_build *ssm_in_build(const char *path, struct hlm_err *err);
