#!/bin/sh
# shots: pictures of hlm-monitor, from real runs on the demo model and on a mixture with random weights.
#
#     shots.sh BUILD MODEL.gguf OUT       writes OUT/*.png, dark and light
#
# Conversations are watched while they go on; a training is read from its log, after 120 steps. The README shows
# chat-overview, training-training and experts-layers (monitor/pictures/).
set -eu

b=$1 model=$2 out=$3
work=$(mktemp -d)
chat='' feed=''
finish() {
    for p in $chat $feed; do kill "$p" 2>/dev/null || :; done
    rm -rf "$work"
}
trap finish EXIT
mkdir -p "$out"

shot() { # name, panel, what to watch
    for theme in dark light; do
        "$b/hlm-monitor" --shot "$out/$1-$2-$theme.png" --panel "$2" --theme $theme --size 1180x760 "$3"
    done
}

# ---- conversations ----------------------------------------------------------------------------------

talk() { # model, answers to wait for
    rm -f "$work/in" && mkfifo "$work/in"
    {
        for i in $(seq 40); do
            printf '%s\n' "Hello! My name is Clara." "What is $i + 30?" "What is the capital of France?" \
                "Please spell cat."
            sleep 4
        done
    } >"$work/in" &
    feed=$!
    "$b/hlm-chat" -m "$1" --lines -n 60 <"$work/in" >"$work/answers" 2>/dev/null &
    chat=$!
    for _ in $(seq 240); do
        [ "$(wc -l <"$work/answers")" -lt "$2" ] || break
        sleep 0.5
    done
}
hush() {
    kill $chat $feed 2>/dev/null || :
    wait $chat $feed 2>/dev/null || :
    chat='' feed=''
}

talk "$model" 14
for panel in overview tokens memory kernels layers; do shot chat $panel $chat; done
hush
"$b/hlm-bench" make qwen35moe-tiny q8_0 "$work/experts.gguf" >/dev/null 2>&1
talk "$work/experts.gguf" 4
shot experts layers $chat
hush

# ---- a training ------------------------------------------------------------------------------------

awk 'BEGIN {
    for (i = 0; i < 400; i++) {
        a = i % 37; b = i * 7 % 29
        printf "{\"prompt\": \"What is %d + %d?\", \"completion\": \"%d, my friend.\"}\n", a, b, a + b
    }
}' >"$work/data.jsonl"
"$b/hlm-tune" -m "$model" -d "$work/data.jsonl" -o "$work/adapter.gguf" --steps 120 \
    --valid 0.1 --valid-every 20 --sample "What is 5 + 9?" --log-json "$work/run.jsonl" >/dev/null 2>&1
for panel in overview training memory; do shot training $panel "$work/run.jsonl"; done

ls -l "$out"
