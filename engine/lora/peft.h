/* peft: an adapter as a folder that Hugging Face's PEFT can load, and such a folder as an adapter.
 * The calls, hlm_peft_export() and hlm_peft_import(), are in hlm.h.
 *
 *   adapter_config.json         ranks and scales
 *   adapter_model.safetensors   base_model.model.MODULE.lora_A.weight [r, n_in] and .lora_B.weight
 *                               [n_out, r], F32; MODULE is the name in the model's checkpoint
 *   hlm_extra.safetensors       what PEFT does not support, if there is any of it: gates (A_log,
 *                               dt_bias, D, under the checkpoint's names) with their deltas added,
 *                               and MTP.lora_A.weight, MTP.lora_B.weight of draft blocks, whose
 *                               ranks and scales are in the file's metadata
 *
 * Heads are in the checkpoint's order. Where the checkpoint fuses matrices that GGUF keeps apart
 * (in_proj_qkvz, in_proj_ba, Qwen3.5's gate_up_proj), their A are stacked and their B are blocks of
 * one matrix. Where GGUF fuses matrices that the checkpoint keeps apart, A is written twice. A
 * stack of experts S.NAME becomes S.E.NAME for expert E: the checkpoint's own name, wherever it has
 * one for each expert.
 *
 * Importing reads the first two files, with F32, F16 or BF16. It computes what PEFT would, or
 * refuses (peft_config.c). */
#pragma once
#include "base/base.h"
