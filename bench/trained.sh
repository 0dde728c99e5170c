#!/bin/sh
# trained.sh ROOT [CASE...]: what hlm-tune has trained, in llama.cpp. Adapters of tests/fixtures/train go through STEPS
# (8) steps of their case, gates left alone; then the logits of the longest row, hlm's beside llama.cpp's. ROOT is a
# system's root with python3 and numpy, and /usr/local/bin/lora_eval (MODEL ADAPTER full IDS OUT: logits).
# Prints NMSE, and how far training moved the logits; fails above 1e-9, or where training moved nothing.
set -eu
root=${1:?usage: trained.sh ROOT [CASE...]}
shift
here=$(cd "$(dirname "$0")/.." && pwd)
work=$root/tmp/hlm-trained
trap 'rm -rf "$work"' EXIT
for case in ${*:-qwen35 nemotron_h_moe}; do
    rm -rf "$work"
    mkdir -p "$work"
    from=$here/tests/fixtures/train/$case
    cp "$from/model.gguf" "$from/init-lora.gguf" "$work/"
    sed 's/"train_gates": *true/"train_gates": false/' "$from/data.json" >"$work/data.json"
    chroot "$root" python3 - <<'EOF'
import json
import struct
rows = json.load(open("/tmp/hlm-trained/data.json"))["rows"]
ids = max((r["ids"] for r in rows), key=len)
open("/tmp/hlm-trained/ids.txt", "w").write(" ".join(map(str, ids)))
open("/tmp/hlm-trained/ids.bin", "wb").write(struct.pack(f"<{len(ids)}i", *ids))
EOF
    "$here/build/hlm-tune" -m "$work/model.gguf" --ids-json "$work/data.json" --init-lora "$work/init-lora.gguf" \
        --no-shuffle --steps "${STEPS:-8}" --log-json "$work/log.json" -o "$work/trained.gguf" >"$work/log" 2>&1 ||
        { cat "$work/log"; exit 1; }
    for lora in init-lora trained; do
        "$here/build/hlm-eval" -m "$work/model.gguf" --lora "$work/$lora.gguf" --ids "$work/ids.txt" \
            --logits "$work/$lora.bin"
    done
    chroot "$root" /usr/local/bin/lora_eval /tmp/hlm-trained/model.gguf /tmp/hlm-trained/trained.gguf full \
        /tmp/hlm-trained/ids.bin /tmp/hlm-trained/llama.bin >"$work/log" 2>&1 || { cat "$work/log"; exit 1; }
    chroot "$root" python3 - "$case" <<'EOF'
import json
import sys
import numpy as np
at = "/tmp/hlm-trained/"
init, hlm, llama = (np.fromfile(at + f + ".bin", np.float32).astype(np.float64)
                    for f in ("init-lora", "trained", "llama"))
loss = [r["loss"] for r in map(json.loads, open(at + "log.json")) if r.get("event") == "step"]
n = len(open(at + "ids.txt").read().split())
nmse = ((hlm - llama) ** 2).sum() / (llama ** 2).sum()
moved = ((hlm - init) ** 2).sum() / (init ** 2).sum()
print(f"{sys.argv[1]}: {len(loss)} steps, loss {loss[0]:.4f} to {loss[-1]:.4f}; {n} tokens, logits NMSE {nmse:.2g} against "
      f"llama.cpp, at most {abs(hlm - llama).max():.2g} off (largest logit {abs(llama).max():.2g}); training moved "
      f"them by {moved:.2g}")
if not (nmse < 1e-9 < moved):
    raise SystemExit("trained.sh: expected at most 1e-9, and training to move them by more")
EOF
done
