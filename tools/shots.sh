#!/bin/sh
# shots: pictures of hlm-monitor, from real runs on the demo model.
#
#     shots.sh BUILD MODEL.gguf OUT       writes OUT/*.png, dark and light
#
# A conversation is watched while it goes on; a training is read from its log, after 60 steps.
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

# ---- a conversation --------------------------------------------------------------------------------

mkfifo "$work/in"
{
    for i in 1 2 3 4; do
        for q in "Hello! My name is Clara." "What is $i + 30?" "What is the capital of France?" "Please spell cat."; do
            echo "$q"
            sleep 1
        done
    done
    sleep 600
} >"$work/in" &
feed=$!
"$b/hlm-chat" -m "$model" --lines <"$work/in" >"$work/answers" 2>/dev/null &
chat=$!
for _ in $(seq 120); do
    [ "$(wc -l <"$work/answers")" -lt 14 ] || break
    sleep 0.5
done
for panel in overview tokens; do shot chat $panel $chat; done

# ---- a training ------------------------------------------------------------------------------------

awk 'BEGIN {
    for (i = 0; i < 400; i++) {
        a = i % 37; b = i * 7 % 29
        printf "{\"prompt\": \"What is %d + %d?\", \"completion\": \"%d, my friend.\"}\n", a, b, a + b
    }
}' >"$work/data.jsonl"
"$b/hlm-tune" -m "$model" -d "$work/data.jsonl" -o "$work/adapter.gguf" --steps 60 --log-json "$work/run.jsonl" \
    >/dev/null 2>&1
for panel in overview; do shot training $panel "$work/run.jsonl"; done

ls -l "$out"
