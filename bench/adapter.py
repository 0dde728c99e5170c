"""adapter.py: adapters outside of hlm; adapter.sh calls it, in a place that has torch, transformers,
safetensors and gguf-py.

    adapter.py make FIXTURES ARCH DIR       DIR/model.gguf, DIR/lora.gguf, DIR/ids.txt, DIR/ids.bin
    adapter.py compare FIXTURES ARCH DIR    DIR/plain.bin, DIR/lora.bin (hlm's logits), DIR/peft (hlm's export),
                                            DIR/llama.bin (llama.cpp's logits, if there)

The models are those of the reference fixtures, with three V heads for each K head where they have V heads;
the adapter reaches every matrix and every gate. Weights go back to the checkpoint's order here, by code of
its own; that hlm's logits without an adapter are transformers' shows that this is right.
"""
import json
import os
import re
import sys
import warnings

import numpy as np

RANK, ALPHA, N_TOK = 5, 8.0, 60
NOT_ADAPTED = ("_norm.weight", "token_embd.weight", "ssm_conv1d.weight", "rope_freqs.weight")
GATES = (".ssm_a", ".ssm_dt.bias", ".ssm_d")


def config_of(fixtures, arch):
    config = json.load(open(f"{fixtures}/{arch}/base/manifest.json"))["hf_config"]
    config.pop("dtype", None)
    if "linear_num_key_heads" in config:
        config["linear_num_value_heads"] = 3 * config["linear_num_key_heads"]
    return config


def read(path):
    import gguf
    reader = gguf.GGUFReader(path)
    return reader, {t.name: np.array(t.data).reshape([int(n) for n in t.shape][::-1]) for t in reader.tensors}


# ---- make ---------------------------------------------------------------------------------------


def widen(config, tensors, rng):
    """Linear attention with three V heads for each K head, its weights made anew."""
    nk, nv = config["linear_num_key_heads"], config["linear_num_value_heads"]
    s, d = config["linear_key_head_dim"], config["hidden_size"]
    kd, vd = nk * s, nv * s
    shapes = {"attn_qkv.weight": (2 * kd + vd, d), "attn_gate.weight": (vd, d), "ssm_ba.weight": (2 * nv, d),
              "ssm_alpha.weight": (nv, d), "ssm_beta.weight": (nv, d), "ssm_out.weight": (d, vd),
              "ssm_conv1d.weight": (2 * kd + vd, config["linear_conv_kernel_dim"])}
    for name, t in tensors.items():
        stem = name.split(".", 2)[-1]
        if stem in shapes:
            tensors[name] = rng.normal(0, 0.7 / np.sqrt(shapes[stem][1]), shapes[stem])
        elif stem == "ssm_a":
            tensors[name] = -np.exp(rng.uniform(-3, 1, nv))
        elif stem == "ssm_dt.bias":
            tensors[name] = rng.normal(0, 1, nv)
        tensors[name] = np.asarray(tensors[name], np.float32)


def make(fixtures, arch, out):
    import gguf
    config, rng = config_of(fixtures, arch), np.random.default_rng(7)
    reader, tensors = read(f"{fixtures}/{arch}/base/model-f32.gguf")
    keys = {}
    if "linear_num_key_heads" in config:
        widen(config, tensors, rng)
        nv = config["linear_num_value_heads"]
        keys = {f"{arch}.ssm.time_step_rank": nv,
                f"{arch}.ssm.inner_size": nv * config["linear_value_head_dim"]}
    writer = gguf.GGUFWriter(f"{out}/model.gguf", arch)
    for f in reader.fields.values():
        if f.name.startswith("GGUF.") or f.name == "general.architecture":
            continue
        sub = f.types[-1] if f.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(f.name, keys.get(f.name, f.contents()), f.types[0], sub_type=sub)
    for name, t in tensors.items():
        writer.add_tensor(name, t)
    finish(writer)

    writer = gguf.GGUFWriter(f"{out}/lora.gguf", arch)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", ALPHA)
    for name, t in tensors.items():
        draft = ".nextn." in name or re.match(r"blk\.(\d+)\.", name) and \
            f"blk.{name.split('.')[1]}.nextn.eh_proj.weight" in tensors
        if any(name.endswith(g) for g in GATES):
            writer.add_tensor(name + ".delta", rng.normal(0, 0.3, t.size).astype(np.float32))
        elif name.endswith(".weight") and not name.endswith(NOT_ADAPTED) and not draft:
            t = t.reshape(1, -1) if t.ndim == 1 else t
            a = t.shape[:-2] + (RANK, t.shape[-1])
            b = t.shape[:-1] + (RANK,)
            gain = 0.4 * t.std() / np.sqrt(RANK) * RANK / ALPHA
            writer.add_tensor(name + ".lora_a", rng.normal(0, 1, a).astype(np.float32))
            writer.add_tensor(name + ".lora_b", rng.normal(0, gain, b).astype(np.float32))
    finish(writer)
    ids = rng.integers(0, config["vocab_size"], N_TOK)
    ids.astype(np.int32).tofile(f"{out}/ids.bin")
    open(f"{out}/ids.txt", "w").write(" ".join(map(str, ids)))


def finish(writer):
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---- compare ------------------------------------------------------------------------------------


def checkpoint(config, arch, tensors):
    """The GGUF's weights under the names of transformers' modules."""
    nk, nv = config.get("linear_num_key_heads", 1), config.get("linear_num_value_heads", 1)
    r, tiled = nv // nk, arch != "qwen3next"
    nemotron = arch.startswith("nemotron")
    layers = config.get("num_hidden_layers") or len(config["layers_block_type"])

    def grouped(x):
        """Rows of V heads, from the file's order to [K head][head of it][row]."""
        x = x.reshape(*((r, nk) if tiled else (nk, r)), x.shape[0] // nv, *x.shape[1:])
        return x.swapaxes(0, 1) if tiled else x

    def heads(x):
        g = grouped(x)
        return g.reshape(-1, *x.shape[1:])

    def qkv(x):
        kd = nk * config["linear_key_head_dim"]
        return np.concatenate([x[:2 * kd], heads(x[2 * kd:])])

    out = {}

    def put(name, x):
        out[name] = np.asarray(x, np.float64)

    for name, x in tensors.items():
        if not name.startswith("blk."):
            continue
        n, stem = name.split(".")[1], name.split(".", 2)[2]
        if int(n) >= layers:
            continue
        base = f"model.layers.{n}."
        g = lambda other: tensors.get(f"blk.{n}.{other}.weight")  # noqa: E731
        if nemotron:
            same = {"ssm_in.weight": "in_proj.weight", "ssm_out.weight": "out_proj.weight",
                    "ssm_conv1d.bias": "conv1d.bias", "ssm_dt.bias": "dt_bias", "attn_q.weight": "q_proj.weight",
                    "attn_k.weight": "k_proj.weight", "attn_v.weight": "v_proj.weight",
                    "attn_output.weight": "o_proj.weight", "ffn_up.weight": "up_proj.weight",
                    "ffn_down.weight": "down_proj.weight", "ffn_gate_inp.weight": "gate.weight",
                    "exp_probs_b.bias": "gate.e_score_correction_bias",
                    "ffn_up_exps.weight": "experts.up_proj", "ffn_down_exps.weight": "experts.down_proj",
                    "ffn_up_shexp.weight": "shared_experts.up_proj.weight",
                    "ffn_down_shexp.weight": "shared_experts.down_proj.weight"}
            if stem == "attn_norm.weight":
                put(base + "norm.weight", x)
            elif stem == "ssm_conv1d.weight":
                put(base + "mixer.conv1d.weight", x[:, None])
            elif stem == "ssm_a":
                put(base + "mixer.A_log", np.log(-x.astype(np.float64).ravel()))
            elif stem == "ssm_d":
                put(base + "mixer.D", x.ravel())
            elif stem == "ssm_norm.weight":
                put(base + "mixer.norm.weight", x.ravel())
            else:
                put(base + "mixer." + same[stem], x)
            continue
        same = {"attn_q.weight": "self_attn.q_proj.weight", "attn_k.weight": "self_attn.k_proj.weight",
                "attn_v.weight": "self_attn.v_proj.weight", "attn_output.weight": "self_attn.o_proj.weight",
                "ffn_gate.weight": "mlp.gate_proj.weight", "ffn_up.weight": "mlp.up_proj.weight",
                "ffn_down.weight": "mlp.down_proj.weight", "ffn_gate_inp.weight": "mlp.gate.weight",
                "ffn_down_exps.weight": "mlp.experts.down_proj",
                "ffn_gate_shexp.weight": "mlp.shared_expert.gate_proj.weight",
                "ffn_up_shexp.weight": "mlp.shared_expert.up_proj.weight",
                "ffn_down_shexp.weight": "mlp.shared_expert.down_proj.weight",
                "ssm_ba.weight": "linear_attn.in_proj_ba.weight", "ssm_norm.weight": "linear_attn.norm.weight"}
        plus = {"attn_norm.weight": "input_layernorm.weight", "attn_q_norm.weight": "self_attn.q_norm.weight",
                "attn_k_norm.weight": "self_attn.k_norm.weight",
                "post_attention_norm.weight": "post_attention_layernorm.weight"}
        if stem in same:
            put(base + same[stem], x)
        elif stem in plus:
            put(base + plus[stem], x.astype(np.float64) - 1)
        elif stem == "ffn_gate_inp_shexp.weight":
            put(base + "mlp.shared_expert_gate.weight", x.reshape(1, -1))
        elif stem == "ffn_gate_exps.weight":
            put(base + "mlp.experts.gate_up_proj", np.concatenate([x, g("ffn_up_exps")], 1))
        elif stem == "ssm_conv1d.weight":
            put(base + "linear_attn.conv1d.weight", qkv(x)[:, None])
        elif stem == "ssm_a":
            put(base + "linear_attn.A_log", heads(np.log(-x.astype(np.float64))))
        elif stem == "ssm_dt.bias":
            put(base + "linear_attn.dt_bias", heads(x))
        elif stem == "ssm_out.weight":
            put(base + "linear_attn.out_proj.weight", heads(x.T).T)
        elif stem == "ssm_alpha.weight":
            put(base + "linear_attn.in_proj_a.weight", heads(x))
        elif stem == "ssm_beta.weight":
            put(base + "linear_attn.in_proj_b.weight", heads(x))
        elif stem == "attn_qkv.weight" and tiled:
            put(base + "linear_attn.in_proj_qkv.weight", qkv(x))
        elif stem == "attn_gate.weight" and tiled:
            put(base + "linear_attn.in_proj_z.weight", heads(x))
        elif stem == "attn_qkv.weight":
            kd = nk * config["linear_key_head_dim"]
            d = x.shape[1]
            parts = [x[:kd].reshape(nk, -1, d), x[kd:2 * kd].reshape(nk, -1, d),
                     grouped(x[2 * kd:]).reshape(nk, -1, d), grouped(g("attn_gate")).reshape(nk, -1, d)]
            put(base + "linear_attn.in_proj_qkvz.weight", np.concatenate(parts, 1).reshape(-1, d))
        elif stem not in ("ffn_up_exps.weight", "attn_gate.weight"):
            raise SystemExit(f"adapter.py: {name}: unknown")
    embed = "model.embeddings.weight" if nemotron else "model.embed_tokens.weight"
    put(embed, tensors["token_embd.weight"])
    put("lm_head.weight", tensors.get("output.weight", tensors["token_embd.weight"]))
    if nemotron:
        put("model.norm_f.weight", tensors["output_norm.weight"])
    else:
        put("model.norm.weight", tensors["output_norm.weight"].astype(np.float64) - 1)
    return out


def pattern(patterns, name, usual):
    """As PEFT looks a module up."""
    for key, value in patterns.items():
        if re.match(rf"(.*\.)?({key})$", name):
            return value
    return usual


def module(name):
    """A checkpoint's name as transformers has it in memory."""
    return name.replace("model.language_model.", "model.").replace("backbone.", "model.")


def apply(state, folder):
    """W + scale B A, and gates. Returns how much each was changed."""
    from safetensors.numpy import load_file
    config = json.load(open(f"{folder}/adapter_config.json"))
    ab = load_file(f"{folder}/adapter_model.safetensors")
    n = 0
    for key in ab:
        if not key.endswith(".lora_A.weight"):
            continue
        name = key.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = ab[key].astype(np.float64), ab[key.replace("lora_A", "lora_B")].astype(np.float64)
        rank = pattern(config["rank_pattern"], name, config["r"])
        alpha = pattern(config["alpha_pattern"], name, config["lora_alpha"])
        assert rank == a.shape[0] == b.shape[1], (name, rank, a.shape, b.shape)
        assert name.rsplit(".", 1)[-1] in config["target_modules"], name
        delta, to = alpha / rank * (b @ a), module(name)
        expert = re.match(r"(.*\.experts)\.(\d+)\.(\w+)$", to)
        if expert:
            stack, e, leaf = expert.group(1), int(expert.group(2)), expert.group(3)
            if f"{stack}.{leaf}" in state:
                state[f"{stack}.{leaf}"][e] += delta
            else:
                both = state[f"{stack}.gate_up_proj"][e]
                half = slice(0, len(both) // 2) if leaf == "gate_proj" else slice(len(both) // 2, None)
                both[half] += delta
        else:
            state[to + ".weight"] += delta
        n += 1
    extra = f"{folder}/hlm_extra.safetensors"
    gates = 0
    for key, x in load_file(extra).items() if os.path.exists(extra) else ():
        if key.split(".")[-1] in ("A_log", "dt_bias", "D"):
            assert state[module(key)].shape == x.shape
            state[module(key)] = x.astype(np.float64)
            gates += 1
    return n, gates


def logits(config, state, ids):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config), dtype=torch.float64,
                                             experts_implementation="eager")
    missing, unexpected = model.load_state_dict({k: torch.tensor(v) for k, v in state.items()}, strict=False)
    missing = [k for k in missing if "rotary" not in k]
    assert not missing and not unexpected, (missing, unexpected)
    with torch.no_grad():
        return model.eval()(torch.tensor([ids]), use_cache=False).logits[0].double().numpy()


def nmse(got, want):
    return float(((got - want) ** 2).sum() / (want ** 2).sum())


def compare(fixtures, arch, out):
    config = config_of(fixtures, arch)
    ids = list(map(int, open(f"{out}/ids.txt").read().split()))
    _, tensors = read(f"{out}/model.gguf")
    hlm = [np.fromfile(f"{out}/{f}.bin", np.float32).reshape(len(ids), -1).astype(np.float64)
           for f in ("plain", "lora")]
    state = checkpoint(config, arch, tensors)
    plain = logits(config, state, ids)
    n, gates = apply(state, f"{out}/peft")
    lora = logits(config, state, ids)
    heads = f", {config['linear_num_value_heads']} V heads for {config['linear_num_key_heads']} K heads" \
        if "linear_num_key_heads" in config else ""
    worst, llama = max(nmse(hlm[0], plain), nmse(hlm[1], lora)), ""
    if os.path.exists(f"{out}/llama.bin"):
        other = np.fromfile(f"{out}/llama.bin", np.float32).reshape(hlm[1].shape).astype(np.float64)
        worst, llama = max(worst, nmse(hlm[1], other)), f"; llama.cpp with the pair {nmse(hlm[1], other):.2g}"
    print(f"{arch}: without {nmse(hlm[0], plain):.2g}, with the exported adapter {nmse(hlm[1], lora):.2g} "
          f"(it moves them by {nmse(lora, plain):.2g}), at most {np.abs(hlm[1] - lora).max():.2g} off; "
          f"{n} modules, {gates} gates{heads}{llama}")
    if not worst < 1e-9:
        raise SystemExit(f"adapter.py: {arch}: NMSE {worst:.2g}, expected at most 1e-9")


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    {"make": make, "compare": compare}[sys.argv[1]](*sys.argv[2:])
