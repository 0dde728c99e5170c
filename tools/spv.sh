#!/bin/sh
# spv: optional shaders, which need a newer glslang than the oldest that hlm builds with, are compiled
# beforehand and committed. shaders/spv/list names them, one a line, # for comments;
# shaders/spv/hashes holds for each the SHA-256 of its source with all that it includes, comments left out.
#
#     spv.sh build GLSLANG FLAGS...   compiles all of the list into shaders/spv/
#     spv.sh check                    fails, naming them, when modules and sources do not fit
set -eu

dir=shaders/spv
names=$(sed 's/#.*//' $dir/list 2>/dev/null | tr -s ' \t' '\n' | sed '/^$/d')

# The file and, each once, what it includes, at any depth.
sources() {
    todo=$1 seen=
    while [ -n "$todo" ]; do
        next=
        for f in $todo; do
            case " $seen " in *" $f "*) continue ;; esac
            seen="$seen $f"
            next="$next $(sed -n 's/^[ \t]*#[ \t]*include[ \t]*"\([^"]*\)".*/shaders\/\1/p' "$f")"
        done
        todo=$(echo $next)
    done
    echo $seen
}
# Of what the compiler sees: comments and blank lines do not count.
hash_of() {
    cat $(sources "shaders/$1.comp") | sed -e 's,//.*,,' -e 's,/\*[^*]*\*/,,g' -e '/\/\*/,/\*\//d' -e 's,[ \t]*$,,' \
        -e '/^$/d' | sha256sum | cut -d' ' -f1
}

case ${1:-} in
build)
    shift
    : >$dir/hashes.new
    for n in $names; do
        "$@" -o $dir/$n.spv shaders/$n.comp
        echo "$(hash_of $n)  $n" >>$dir/hashes.new
    done
    for f in $dir/*.spv; do
        n=$(basename "$f" .spv)
        echo "$names" | grep -qx "$n" || rm -f "$f"
    done
    mv $dir/hashes.new $dir/hashes
    [ -s $dir/hashes ] || { rm $dir/hashes; echo "no optional shader is listed in $dir/list"; }
    ;;
check)
    bad=0
    for n in $names; do
        if [ ! -f $dir/$n.spv ] || ! grep -qx "$(hash_of $n)  $n" $dir/hashes; then
            echo "$dir/$n.spv: not made from shaders/$n.comp as it is now: run make spv" >&2
            bad=1
        fi
    done
    for f in $dir/*.spv; do
        [ ! -f "$f" ] || echo "$names" | grep -qx "$(basename "$f" .spv)" || {
            echo "$f: not in $dir/list" >&2
            bad=1
        }
    done
    exit $bad
    ;;
*)
    echo "usage: spv.sh build GLSLANG FLAGS... | check" >&2
    exit 2
    ;;
esac
