#!/bin/sh
# lint: the rules of the house that a machine can check; prints file:line and the rule, fails on any.
#   Vulkan      Vk and vk names only in engine/gpu/; barriers only in gpu_cmd.c
#   rooms       a file includes only its own room and those before it
#   engine      no getenv, no exit, no printing in engine/ and models/
#   kernels     every row of kernels.def has its .comp, and every .comp a row
#   spv         prebuilt shaders were made from their sources as they are
#   format      C is laid out as `make format` does it
#   text        no tabs, no trailing blanks, at most 100 columns (prose 120)
set -u

# The rooms of engine/, in order: a file includes its own room and those before it. models/*.c is model's.
rooms="base file text gpu ops lora model session train"

found=$(mktemp)
trap 'rm -f "$found" "$found.c"' EXIT
# grep's lines, with the rule behind; the words of comments and strings do not count where code is searched.
say() { while IFS= read -r line; do echo "$line: $1" >>"$found"; done; }
code() { # blanks out comments, strings and characters, keeps the lines: file:line:text
    awk '
    FNR == 1 { inside = 0 }
    {
        s = $0; out = ""
        while (s != "") {
            if (inside) {
                i = index(s, "*/")
                if (!i) break
                s = substr(s, i + 2); inside = 0
            } else if (match(s, /\/\*|\/\/|"|\047/)) {
                out = out substr(s, 1, RSTART - 1)
                c = substr(s, RSTART, RLENGTH); s = substr(s, RSTART + RLENGTH)
                if (c == "//") break
                if (c == "/*") { inside = 1; out = out " "; continue }
                if (c == "\"") { if (!match(s, /^([^"\\]|\\.)*"/)) break }
                else if (!match(s, /^([^\047\\]|\\.)*\047/)) continue
                s = substr(s, RLENGTH + 1); out = out "\"\""
            } else { out = out s; s = "" }
        }
        print FILENAME ":" FNR ":" out
    }' "$@" /dev/null
}
files() { # what git would commit of these patterns; all of it where there is no git
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files --cached --others --exclude-standard -- "$@" | while read -r f; do
            [ ! -f "$f" ] || echo "$f"
        done | sort -u
    else
        for p in "$@"; do find . -path "./$p" -not -path './build/*' | sed 's,^\./,,'; done | sort -u
    fi
}

sources=$(files 'engine/*.[ch]' 'models/*.[ch]' 'ui/*.[ch]' 'bench/*.[ch]' 'tests/*.[ch]' 'tools/*.[ch]' |
    grep -v '^models/demo/')
tables=$(files 'engine/*.def' 'models/*.def' 'tests/*.def')
glsl=$(files 'shaders/*.comp' 'shaders/*.glsl' 'shaders/*.h' 'shaders/*.def')
scripts=$(files 'tools/*.sh' '.ci/run' .clang-format)
prose=$(files '*.md' | grep -vE '^(models/demo|tests/fixtures)/')

# shellcheck disable=SC2086
code $sources >"$found.c"

# Vulkan
grep -E '(^|[^A-Za-z0-9_])(Vk[A-Z]|vk[A-Z])|# *include *<vulkan' "$found.c" |
    grep -vE '^engine/gpu/' | say 'Vulkan outside engine/gpu/'
grep -E 'vkCmdPipelineBarrier' "$found.c" | grep -v '^engine/gpu/gpu_cmd\.c:' |
    say 'a barrier outside gpu_cmd.c'

# engine
grep -E '^(engine|models)/' "$found.c" |
    grep -E '(^|[^A-Za-z0-9_])(getenv|secure_getenv|_?exit|v?printf|puts|putchar|perror) *\(|(stdout|stderr)' |
    grep -vE '^engine/base/base\.c:[0-9]+: *fprintf\(stderr, "", ' | # hlm_assert_failed
    say 'the engine reads no environment, prints nothing and never exits'

# rooms
rank() { # of a path's room: 1 to 9; 0: none
    room=${1#engine/}
    room=${room%%/*} n=0
    case $1 in models/*) room=model ;; esac
    for r in $rooms; do
        n=$((n + 1))
        [ "$r" != "$room" ] || { echo $n; return; }
    done
    echo 0
}
# shellcheck disable=SC2086
grep -nE '^ *# *include *"' $sources $tables /dev/null | sed 's/: *# *include *"\([^"]*\)".*/ \1/; s/:/ /' |
while read -r file line inc; do
    at="$file:$line: $inc"
    target=
    for dir in "${file%/*}/" engine/ tests/ ''; do
        [ ! -f "$dir$inc" ] || { target=$dir$inc; break; }
    done
    [ "$target" ] || { echo "$at" | say 'no such file'; continue; }
    case $file:$target in
    engine/*.h:engine/hlm*.h | engine/*:shaders/* | engine/*:models/models.def | tests/* | tools/*) ;;
    engine/*/*:engine/hlm*.h | engine/*:engine/*/* | models/*:engine/*/*)
        b=$(rank "$target")
        [ "$(rank "$file")" -ge "$b" ] || echo "$at" | say 'a room that comes later' ;;
    ui/*:ui/* | bench/*:ui/* | bench/*:bench/* | ui/*:engine/hlm*.h | bench/*:engine/hlm*.h) ;;
    ui/* | bench/*) echo "$at" | say 'programs include the public headers engine/hlm*.h and nothing else' ;;
    *) echo "$at" | say 'an include against the order of the rooms' ;;
    esac
done

# kernels
if [ -f engine/gpu/kernels.def ]; then
    rows=$(sed -n 's/^KERNEL(\([A-Za-z0-9_]*\).*/\1/p' engine/gpu/kernels.def)
    for k in $rows; do
        [ -f "shaders/$k.comp" ] || echo "engine/gpu/kernels.def: $k" | say "no shaders/$k.comp"
    done
    for f in $(files 'shaders/*.comp'); do
        echo "$rows" | grep -qx "$(basename "$f" .comp)" || echo "$f" | say 'no row in engine/gpu/kernels.def'
    done
fi

# The library does not know the command line: programs say which flag a refusal is about.
for f in $(files 'engine/*.[ch]' 'models/*.[ch]' | grep -v '^models/.*/'); do
    awk -F'"' '{ gsub(/\\"/, "")
        for (i = 2; i <= NF; i += 2)
            if ($i ~ /(^-|[ (])-?-[a-z]/) { print FILENAME ":" FNR; break } }' "$f"
done | say 'a text of the library that names a flag'

# spv, format
sh tools/spv.sh check 2>&1 | say 'a stale prebuilt shader'
sh tools/format.sh check 2>&1 | say 'the layout of C is clang-format'\''s'

# text
columns=100
tab=$(printf '\t')
long() { # columns, not bytes; rows of a Markdown table cannot be broken
    awk -v max="$1" '
    { n = gsub(/[\200-\277]/, "&"); if (length($0) - n > max && !/^\|/) print FILENAME ":" FNR ": " length($0) - n }
    ' "$2"
}
for f in $sources $tables $glsl; do
    grep -n "$tab" "$f" | sed "s,^\([0-9]*\):.*,$f:\1," | say 'a tab'
    LC_ALL=C long $columns "$f" | say "columns, more than $columns"
done
for f in $prose $scripts; do
    LC_ALL=C long 120 "$f" | say 'columns, more than 120'
done
for f in $sources $tables $glsl $scripts $prose Makefile; do
    grep -nE "[ $tab]+\$" "$f" | sed "s,^\([0-9]*\):.*,$f:\1," | say 'a blank at the end of the line'
done

if [ -s "$found" ]; then
    cat "$found"
    echo "lint: $(wc -l <"$found") found"
    exit 1
fi
echo "lint: clean"
