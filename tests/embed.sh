#!/bin/sh
# embed: what the build refuses where C and GLSL disagree. Makes tools/embed.c with tables that do not fit a compiled
# shader, gives it modules that are broken, and reads why it stops. Prints a line a failure and, last,
# "N passed, N failed".
#
#     tests/embed.sh BUILD      from the root of the tree, after `make check`
set -u

linear=$1/shaders/linear.spv # a kernel with push constants, constants of several kinds, and many bindings
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0 line='
'

fail() { # what, why
    failed=$((failed + 1))
    echo "  FAIL embed: $1"
    echo "$2" | sed 's/^/       /'
}
# The program, with tables changed by sed scripts: $work/NAME/embed.
make_embed() { # name, then files, each with its script
    dir=$work/$1
    mkdir -p "$dir/tools" "$dir/engine/gpu" "$dir/shaders"
    for f in tools/embed.c engine/gpu/kernels.def shaders/push.h shaders/enums.h shaders/spec.def; do
        cp $f "$dir/$f"
    done
    name=$1
    shift
    while [ $# -gt 0 ]; do
        sed "$2" "$1" >"$dir/$1"
        shift 2
    done
    (cd "$dir" && ${CC:-gcc} -std=c17 -O0 -I. -o embed tools/embed.c) || fail "$name" "it does not compile"
}

# It stops, writes nothing, and says why in one line: the module, and all of the words.
refuses() { # what, program, words separated by '|', modules
    what=$1 program=$work/$2/embed words=$3
    shift 3
    rm -f "$work/out.c"
    if "$program" "$work/out.c" "$@" >"$work/said" 2>&1; then
        fail "$what" 'was accepted'
        return
    fi
    said=$(cat "$work/said") missing=
    for last; do :; done # the module that is wrong comes last
    IFS='|'
    for w in $last $words; do
        case $said in
        *"$w"*) ;;
        *) missing="it does not say: $w" ;;
        esac
    done
    unset IFS
    case $said in *"$line"*) missing='it says more than one line' ;; esac
    [ ! -e "$work/out.c" ] || missing='it has written something'
    if [ -n "$missing" ]; then
        fail "$what" "$said$line$missing"
    else
        passed=$((passed + 1))
    fi
}
shader() { # name, declarations: a module with the push constants of linear
    printf '#version 450\n#extension GL_GOOGLE_include_directive : require\n#include "common.glsl"\n%s\n%s\nvoid main() {}\n' \
        'layout(push_constant) uniform Push { push_linear p; };' "$2" >"$work/linear.comp"
    mkdir -p "$work/$1"
    glslangValidator -V --target-env vulkan1.2 -Ishaders -o "$work/$1/linear.spv" "$work/linear.comp" >"$work/glslang" ||
        fail "$1" "$(cat "$work/glslang")"
}

# ---- the tables ------------------------------------------------------------------------------------

make_embed sound
if "$work/sound/embed" "$work/out.c" "$linear" && grep -q 'K_linear' "$work/out.c"; then
    passed=$((passed + 1))
else
    fail 'tables that fit' 'were refused'
fi
make_embed row engine/gpu/kernels.def '/^KERNEL(linear,/d'
refuses 'a module without a row' row 'kernels.def' "$linear"
make_embed push engine/gpu/kernels.def 's/push_linear)/push_other)/' shaders/push.h 's/struct push_linear {/struct push_other {/'
refuses 'a struct with another name' push 'push_linear|push_other' "$linear"
make_embed member shaders/push.h '/^struct push_linear {/a uint32_t more;'
refuses 'a struct with another size' member 'push_linear|68|72' "$linear"
make_embed name shaders/spec.def 's/^CONSTANT(3, w_type)/CONSTANT(3, other)/'
refuses 'a constant with another name' name 'constant 3|W_TYPE|OTHER' "$linear"
make_embed order shaders/spec.def 's/^CONSTANT(14, rows)/CONSTANT(15, rows)/; s/^CONSTANT(15, cols)/CONSTANT(14, cols)/'
refuses 'constants in another order' order 'constant 14|ROWS|COLS' "$linear"
make_embed short shaders/spec.def '/^CONSTANT([1-9][0-9]/d'
refuses 'a constant that is not in the table' short 'constant 21|LANES|it is not' "$linear"

# ---- modules ---------------------------------------------------------------------------------------

mkdir "$work/again" "$work/text" "$work/cut"
cp "$linear" "$work/again"
refuses 'two modules of one kernel' sound 'a second module' "$linear" "$work/again/linear.spv"
echo 'this is a text, and no module' >"$work/text/linear.spv"
refuses 'a file of another kind' sound 'is not a SPIR-V module' "$work/text/linear.spv"
{ cat "$linear" && printf '\001\000\002\000'; } >"$work/cut/linear.spv" # an instruction of two words: one is there
refuses 'a module that was cut short' sound 'is not a whole SPIR-V module' "$work/cut/linear.spv"
refuses 'a module that is not there' sound 'cannot open' "$work/linear.spv"
shader gap 'layout(binding = 0) buffer A { float a[]; }; layout(binding = 2) buffer B { float b[]; };'
refuses 'a gap in the bindings' sound 'bound at 1|higher' "$work/gap/linear.spv"
shader none ''
refuses 'no bindings' sound 'nothing is bound at 0' "$work/none/linear.spv"
shader uniform 'layout(binding = 0) uniform A { vec4 a; };'
refuses 'a binding of another kind' sound 'binding 0|storage buffer' "$work/uniform/linear.spv"
shader set 'layout(set = 1, binding = 0) buffer A { float a[]; };'
refuses 'a binding of another set' sound 'binding 0|set 0' "$work/set/linear.spv"
shader kind 'layout(constant_id = 3) const bool W_TYPE = false; layout(binding = 0) buffer A { float a[]; };'
refuses 'a constant that is no number' sound 'specialization constant|32 bits' "$work/kind/linear.spv"

echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
