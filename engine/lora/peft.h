/* peft: an adapter as a folder that Hugging Face's PEFT and what reads its files take.
 *
 *   adapter_config.json         ranks and scales
 *   adapter_model.safetensors   base_model.model.MODULE.lora_A.weight [r, n_in] and .lora_B.weight
 *                               [n_out, r], F32, MODULE as in the model's checkpoint
 *   hlm_extra.safetensors       only where there is something that PEFT has no place for: trained
 *                               gates as they are now (A_log, dt_bias, D, under the checkpoint's
 *                               names), and MTP.lora_A.weight, MTP.lora_B.weight of draft blocks,
 *                               whose ranks and scales stand in the file's metadata
 *
 * Heads are in the checkpoint's order. Where it fuses what GGUF keeps apart (in_proj_qkvz,
 * in_proj_ba, Qwen3.5's gate_up_proj), A are stacked and B stand block by block; where it keeps
 * apart what GGUF fuses, A stands twice. A stack of experts S.NAME becomes S.E.NAME for expert E,
 * which is the checkpoint's own name wherever that has one for each.
 *
 * The call, hlm_peft_export(), is in hlm.h. */
#pragma once
#include "base/base.h"
