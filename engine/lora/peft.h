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
 * which is the checkpoint's own name wherever that has one for each. */
#pragma once
#include "base/base.h"

struct hlm_peft_params {
    const char *model, *adapter; /* GGUF files */
    const char *out;             /* the folder; nothing may be there yet */
    bool (*progress)(void *user, uint64_t done, uint64_t total); /* bytes; false stops it */
    void *user;
};
/* Modules in the adapter, those of draft blocks, gates; bytes of all tensors. */
struct hlm_peft_sum {
    uint64_t n_module, n_draft, n_gate, bytes;
};

/* Writes a folder beside p->out, reads it back, and only then puts it there. False: nothing is left
 * behind; err unset: it was stopped. */
bool hlm_peft_export(const struct hlm_peft_params *p, struct hlm_peft_sum *sum,
                     struct hlm_err *err);
