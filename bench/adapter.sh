#!/bin/sh
# adapter.sh ROOT: adapters outside of hlm, for every family - an export in transformers' own modules, and the pair
# of hlm-tune merge --gates-only in llama.cpp. ROOT is a system's root in which python3 has torch, transformers,
# safetensors and gguf; llama.cpp is asked where /usr/local/bin/lora_eval (MODEL ADAPTER full IDS OUT: logits) is.
# Prints the NMSE of logits, without and with an adapter on everything, gates too; fails above 1e-9.
set -eu
root=${1:?usage: adapter.sh ROOT}
here=$(cd "$(dirname "$0")/.." && pwd)
work=$root/tmp/hlm-adapter
trap 'rm -rf "$work"' EXIT
rm -rf "$work"
mkdir -p "$work/fixtures"
cp "$here/bench/adapter.py" "$work/"
in_root() {
    chroot "$root" env OMP_NUM_THREADS=1 TRANSFORMERS_VERBOSITY=error TORCHINDUCTOR_CACHE_DIR=/tmp/hlm-adapter "$@"
}
for arch in qwen35 qwen35moe qwen3next nemotron_h nemotron_h_moe; do
    dir=$work/$arch
    there=/tmp/hlm-adapter/$arch
    mkdir -p "$work/fixtures/$arch/base" "$dir"
    cp "$here/tests/fixtures/$arch/base/manifest.json" "$here/tests/fixtures/$arch/base/model-f32.gguf" \
        "$work/fixtures/$arch/base/"
    in_root python3 /tmp/hlm-adapter/adapter.py make /tmp/hlm-adapter/fixtures $arch "$there"
    "$here/build/hlm-tune" export -m "$dir/model.gguf" --lora "$dir/lora.gguf" -o "$dir/peft"
    "$here/build/hlm-eval" -m "$dir/model.gguf" --ids "$dir/ids.txt" --logits "$dir/plain.bin"
    "$here/build/hlm-eval" -m "$dir/model.gguf" --lora "$dir/lora.gguf" --ids "$dir/ids.txt" --logits "$dir/lora.bin"
    if [ -x "$root/usr/local/bin/lora_eval" ]; then
        "$here/build/hlm-tune" merge -m "$dir/model.gguf" --lora "$dir/lora.gguf" -o "$dir/gates.gguf" \
            --gates-only "$dir/rest.gguf" >"$dir/log"
        in_root /usr/local/bin/lora_eval "$there/gates.gguf" "$there/rest.gguf" full "$there/ids.bin" \
            "$there/llama.bin" >"$dir/log" 2>&1 || { cat "$dir/log"; exit 1; }
    fi
    in_root python3 /tmp/hlm-adapter/adapter.py compare /tmp/hlm-adapter/fixtures $arch "$there" >"$dir/log" 2>&1 ||
        { cat "$dir/log"; exit 1; }
    grep "^$arch:" "$dir/log"
done
