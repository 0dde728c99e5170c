#!/bin/sh
# lint: the rules of the house that a machine can check; prints file:line and the rule, fails on any.
#   Vulkan      Vk and vk names only in engine/gpu/; barriers only in gpu_cmd.c
#   rooms       a file includes only its own room and those before it
#   engine      no getenv, no exit, no printing in engine/ and models/
#   kernels     every row of kernels.def has its .comp, and every .comp a row
#   spv         prebuilt shaders were made from their sources as they are
#   functions   none has more than 60 lines between its braces
#   format      C is laid out as `make format` does it
#   text        no tabs, no trailing blanks, at most 100 columns (prose 120)
set -u

# The rooms of engine/, in order: a file includes its own room and those before it. models/*.c is model's.
rooms="base file text gpu ops lora model session train"

found=$(mktemp)
trap 'rm -f "$found" "$found.c" "$found.f"' EXIT
# grep's lines, each followed by the rule; the words of comments and strings do not count where code is searched.
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

sources=$(files 'engine/*.[ch]' 'models/*.[ch]' 'ui/*.[ch]' 'bench/*.[ch]' 'monitor/*.[ch]' \
    'tests/*.[ch]' 'tools/*.[ch]' |
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
# shellcheck disable=SC2086
files '*.[ch]' '*.def' '*.glsl' >"$found.f"
# shellcheck disable=SC2086
grep -nE '^ *# *include *"' $sources $tables /dev/null | awk -v rooms="$rooms" '
BEGIN { n = split(rooms, r, " "); for (i = 1; i <= n; i++) rank[r[i]] = i }
function room(path, part) { split(path, part, "/"); return part[1] == "models" ? rank["model"] : rank[part[2]] }
FILENAME != "-" { there[$0] = 1; next }
{
    split($0, at, ":"); file = at[1]
    split($0, q, "\""); inc = q[2]
    dir = file; sub(/[^\/]*$/, "", dir)
    target = (dir inc) in there ? dir inc : ("engine/" inc) in there ? "engine/" inc : \
             ("tests/" inc) in there ? "tests/" inc : inc
    why = ""
    if (!(target in there)) why = "no such file"
    else if (file ~ /^(tests|tools)\//) why = ""
    else if (file ~ /^(ui|bench|monitor)\//) {
        if (target !~ /^(ui|bench|monitor)\// && target !~ /^engine\/hlm[a-z_]*\.h$/)
            why = "programs include the public headers engine/hlm*.h and nothing else of the engine"
    } else if (target ~ /^(engine\/hlm[a-z_]*\.h$|shaders\/|models\/)/) why = ""
    else if (target !~ /^engine\/[a-z]+\//) why = "an include against the order of the rooms"
    else if (file ~ /^engine\/[^\/]*$/ || room(file) < room(target)) why = "a room that comes later"
    if (why != "") print file ":" at[2] ": " inc ": " why
}' "$found.f" - >>"$found"

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

# functions: in C as it is laid out, only their braces stand alone in the first column
# shellcheck disable=SC2086
awk -v most=60 '
FNR == 1 || $0 == "}" {
    if (FNR > 1 && at && FNR - at - 1 > most)
        print FILENAME ":" at ": a function of " FNR - at - 1 " lines, more than " most
    at = 0
}
$0 == "{" { at = FNR }' $sources >>"$found"

# spv, format
sh tools/spv.sh check 2>&1 | say 'a stale prebuilt shader'
sh tools/format.sh check 2>&1 | say 'the layout of C is clang-format'\''s'

# text: columns, not bytes; rows of a Markdown table cannot be broken
# shellcheck disable=SC2086
LC_ALL=C awk -v tab="$(printf '\t')" '
FNR == 1 {
    code = FILENAME ~ /\.(c|h|def|comp|glsl)$/
    max = code ? 100 : 120
}
{
    n = gsub(/[\200-\277]/, "&")
    at = FILENAME ":" FNR ": "
    if (FILENAME != "Makefile" && FILENAME !~ /\.mk$/ && length($0) - n > max && !/^\|/)
        print at length($0) - n " columns, more than " max
    if (code && index($0, tab)) print at "a tab"
    if ($0 ~ "[ " tab "]+$") print at "a blank at the end of the line"
}' $sources $tables $glsl $scripts $prose Makefile >>"$found"

if [ -s "$found" ]; then
    cat "$found"
    echo "lint: $(wc -l <"$found") found"
    exit 1
fi
echo "lint: clean"
