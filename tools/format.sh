#!/bin/sh
# format: lays out the C of the tree as .clang-format says.
#
#     format.sh           rewrites what is not laid out so
#     format.sh check     names it, and fails
#
# Versions of clang-format differ in details; 14, which Debian 12 has, is the one that counts.
set -eu

tool=
for t in clang-format-14 clang-format; do
    if command -v $t >/dev/null && $t --version | grep -q 'version 14\.'; then tool=$t; break; fi
done
[ -n "$tool" ] || {
    [ "${1:-}" = check ] && exit 0 # CI has it
    echo "format: clang-format 14 is needed (Debian 12: clang-format)" >&2
    exit 1
}
files=$(find engine models ui bench monitor tests tools -name '*.[ch]' -not -path 'models/demo/*')
case ${1:-} in
'')
    # shellcheck disable=SC2086
    $tool -i $files && $tool -i $files # a few comments settle at the second pass
    ;;
check)
    # shellcheck disable=SC2086
    bad=$($tool --dry-run -Werror $files 2>&1 | sed -n 's/^\([^:]*\):[0-9]*:[0-9]*: error: .*/\1/p' | sort -u)
    [ -z "$bad" ] || {
        echo "$bad" | sed 's/$/: not laid out as .clang-format says: run make format/'
        exit 1
    }
    ;;
*)
    echo "usage: format.sh [check]" >&2
    exit 2
    ;;
esac
