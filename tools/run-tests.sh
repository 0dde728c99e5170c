#!/bin/sh
# run-tests: the whole test program, the kernels on all subgroup sizes that lavapipe can have (8 is its
# default; LP_NATIVE_VECTOR_WIDTH is read by no other driver).
#
#     run-tests.sh build/tests [arguments of the test program]
#
# The last line sums all runs. Fails when a case did, when a run died, or when a validation layer spoke.
set -u

tests=$1
shift
out=$(dirname "$tests")
# Compiled shaders of the driver stay in build/: a second run finds them, and a home is left alone.
MESA_SHADER_CACHE_DIR=$out/cache/mesa
export MESA_SHADER_CACHE_DIR
mkdir -p "$MESA_SHADER_CACHE_DIR"

passed=0 failed=0 skipped=0
# What is run, with what it says in a log of its own.
run() {
    log=$out/tests-$1.log
    shift
    { "$tests" "$@"; echo "status $?"; } 2>&1 | tee "$log" | grep -v '^status [0-9]*$'
}

# Takes the counts of a log.
count() {
    log=$out/tests-$1.log
    last=$(grep -E '^[0-9]+ passed, [0-9]+ failed' "$log" | tail -n 1)
    status=$(sed -n 's/^status //p' "$log" | tail -n 1)
    if [ -z "$last" ] || { [ "$status" != 0 ] && [ "$status" != 1 ] && [ "$status" != 77 ]; }; then
        echo "FAIL: the run ended with status $status and no count of its own" >&2
        failed=$((failed + 1))
    fi
    # "N passed, N failed[, N skipped]"
    set -- $(echo "$last" | tr -cd '0-9 ')
    passed=$((passed + ${1:-0})) failed=$((failed + ${2:-0})) skipped=$((skipped + ${3:-0}))
    if grep -qE 'VUID-|SYNC-HAZARD|UNASSIGNED-|Validation (Error|Warning)' "$log"; then
        echo "FAIL: validation messages, see $log" >&2
        failed=$((failed + 1))
    fi
}

# The kernels, on subgroups of 8, 4 and 16.
kernels() {
    for bits in 256 128 512; do
        echo "kernels on subgroups of $((bits / 32)) (LP_NATIVE_VECTOR_WIDTH=$bits):"
        LP_NATIVE_VECTOR_WIDTH=$bits
        export LP_NATIVE_VECTOR_WIDTH
        brief=--brief
        [ $bits != 256 ] || brief=
        # shellcheck disable=SC2086
        run $bits --only ops $brief
    done
}

# Tests that take long, so that both cores have work for about the same time.
long=train,demo

if [ $# -eq 0 ]; then
    # Most of the kernels' time goes into compiling shaders on one core: side by side with everything else.
    { kernels; LP_NATIVE_VECTOR_WIDTH=256; run long --only $long; } >"$out/tests-kernels.log" 2>&1 &
    echo "the library as installed:"
    { sh tests/install.sh "$out"; echo "status $?"; } 2>&1 | tee "$out/tests-install.log" | grep -v '^status [0-9]*$'
    echo "what the build refuses:"
    { sh tests/embed.sh "$out"; echo "status $?"; } 2>&1 | tee "$out/tests-embed.log" | grep -v '^status [0-9]*$'
    run all --skip ops,$long
    wait
    cat "$out/tests-kernels.log"
    for name in install embed all 256 128 512 long; do count $name; done
else
    run all "$@"
    count all
fi

line="$passed passed, $failed failed"
[ $skipped -eq 0 ] || line="$line, $skipped skipped"
echo "$line"
[ $failed -eq 0 ] && [ $passed -gt 0 ]
