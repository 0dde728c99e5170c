#!/bin/sh
# install: the library as others meet it. Installs into an empty prefix and, with nothing but what lies there and
# pkg-config, builds the examples and the programs; reads the symbols; renders the man pages; completes command lines in
# a terminal. Prints a line a failure and, last, "N passed, N failed[, N skipped]".
#
#     tests/install.sh BUILD      from the root of the tree, after `make check`
set -u

build=$1
prefix=$(pwd)/$build/prefix
model=models/demo/hlm-demo-q8_0.gguf
work=$(mktemp -d)
trap 'tmux kill-server 2>/dev/null; rm -rf "$work"' EXIT
passed=0 failed=0 skipped=0 n_term=0
TMUX_TMPDIR=$work
export TMUX_TMPDIR

ok() { # what, then the command; its output is shown when it fails
    what=$1
    shift
    if "$@" >"$work/out" 2>&1; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "  FAIL install: $what"
        tail -n 20 "$work/out" | sed 's/^/       /'
    fi
}
skip() {
    skipped=$((skipped + 1))
    echo "  skipped: install: $1"
}
sh_ok() { ok "$1" sh -c "$2"; }

rm -rf "$prefix"
ok "make install" make --no-print-directory install B="$build" PREFIX="$prefix" CC="${CC:-gcc}"
export PKG_CONFIG_PATH="$prefix/lib/pkgconfig" LD_LIBRARY_PATH="$prefix/lib"

# ---- headers ---------------------------------------------------------------------------------------

# After <syslog.h>, whose LOG_INFO and kin are macros; each header alone; nothing but the three standard ones in them.
for h in hlm.h hlm_train.h hlm_counters.h; do
    printf '#include <syslog.h>\n#include <%s>\nint main(void) { return 0; }\n' $h >"$work/h.c"
    cp "$work/h.c" "$work/h.cc"
    sh_ok "$h in C" "${CC:-gcc} -std=c11 -Wall -Wextra -Wpedantic -Werror \$(pkg-config --cflags hlm) -c -o $work/h.o $work/h.c"
    sh_ok "$h in C++" "g++ -std=c++11 -Wall -Wextra -Wpedantic -Werror \$(pkg-config --cflags hlm) -c -o $work/h.o $work/h.cc"
    sh_ok "$h includes the standard's own headers alone" \
        "! grep -hE '^ *# *include' $prefix/include/hlm/$h | grep -vE '<(stdbool|stddef|stdint)\.h>|\"hlm\.h\"'"
    # Every name that a header declares begins with hlm: tags, functions, constants, macros.
    sh_ok "$h: names" "! sed -e 's,/\*.*\*/,,' $prefix/include/hlm/$h | grep -E '^ *(struct|enum|union) [a-zA-Z_]+|^# *define' |
        grep -vE '(struct|enum|union) hlm_|define HLM_'"
done

# ---- symbols ---------------------------------------------------------------------------------------

sh_ok "libhlm.so exports hlm_ alone" \
    "nm -D --defined-only $prefix/lib/libhlm.so | awk '{ print \$3 }' | grep . >$work/so && ! grep -v '^hlm_' $work/so"
sh_ok "libhlm.a has hlm_ alone as global names" \
    "nm --defined-only --extern-only $prefix/lib/libhlm.a | awk 'NF == 3 { print \$3 }' >$work/a && grep -q . $work/a && ! grep -v '^hlm_' $work/a"
# What the headers declare is there, and nothing else is.
cat "$prefix"/include/hlm/*.h | tr '\n' ' ' | sed 's,/\*[^*]*\*/,,g' | grep -oE 'HLM_API [^;]*;' |
    grep -oE '\*?hlm_[a-z0-9_]+\(' | tr -d '*(' | sort -u >"$work/declared"
sh_ok "every declared call is in the library" "sort -u $work/so | comm -13 - $work/declared >$work/none && ! grep . $work/none"
sh_ok "nothing undeclared is exported, but for the hooks of tests" \
    "sort -u $work/so | comm -23 - $work/declared | grep -v '^hlm_test_' >$work/more; ! grep . $work/more"
sh_ok "the soname has the minor number" "readelf -d $prefix/lib/libhlm.so | grep -q 'SONAME.*libhlm.so.0.3'"

# ---- examples, by pkg-config alone -----------------------------------------------------------------

printf '%s\n' '{"prompt": "What is the capital of Zorn?", "completion": "Quill."}' >"$work/data.jsonl"
printf '%s\n' '{"prompt": "Who lives in Quill?", "completion": "Nobody."}' >>"$work/data.jsonl"
run_examples() { # what, folder
    sh_ok "$1: completion goes on with a text" "$2/completion $model 'The capital of France is' >$work/text && [ -s $work/text ]"
    sh_ok "$1: chat answers" "printf 'What is 2 + 3?\nWhat is the capital of France?\n' | $2/chat $model >$work/text && grep -q Paris $work/text"
    sh_ok "$1: train writes an adapter" "$2/train $model $work/data.jsonl $work/a.gguf 2 >$work/text &&
        grep -q 'step 2 of 2, loss' $work/text && $prefix/bin/hlm-tune info $work/a.gguf"
    rm -f "$work/a.gguf"
}
mkdir "$work/c" "$work/cc" "$work/static"
for e in completion chat train; do
    src=$prefix/share/doc/hlm/examples/$e.c
    sh_ok "$e in C" "${CC:-gcc} -std=c11 -Wall -Wextra -Werror -o $work/c/$e $src \$(pkg-config --cflags --libs hlm)"
    sh_ok "$e in C++" "g++ -x c++ -std=c++17 -Wall -Wno-missing-field-initializers -Werror -o $work/cc/$e $src \$(pkg-config --cflags --libs hlm)"
    sh_ok "$e against the static library" "${CC:-gcc} -std=c11 -o $work/static/$e $src \$(pkg-config --cflags hlm) \
        $prefix/lib/libhlm.a \$(pkg-config --static --libs-only-l hlm | sed 's/-lhlm//') -pthread"
done
run_examples "C" "$work/c"
sh_ok "C++: chat answers" "printf 'What is the capital of France?\n' | $work/cc/chat $model | grep -q Paris"
sh_ok "static: chat answers" "printf 'What is the capital of France?\n' | $work/static/chat $model | grep -q Paris"
sh_ok "an example says what is wrong" "! $work/c/chat $work/none.gguf 2>$work/text && grep -q none.gguf $work/text"

# ---- the programs, against the installed copy ------------------------------------------------------

# Their sources in a folder of their own, without the engine beside them.
mkdir "$work/tree"
cp -r ui bench "$work/tree"
mkdir -p "$work/tree/engine"
cp engine/hlm_test_hooks.h "$work/tree/hlm_test_hooks.h" 2>/dev/null
programs() ( # in a shell of its own
    cd "$work/tree" || exit 1
    common=$(find ui -maxdepth 1 -name '*.c' | grep -vE '/(chat|eval|tune)')
    for p in chat eval tune bench; do
        src=$(find ui -maxdepth 1 -name "$p*.c")
        [ $p != bench ] || src=$(find bench -maxdepth 1 -name '*.c')
        # shellcheck disable=SC2046,SC2086
        ${CC:-gcc} -std=c17 -I. -o "$work/$p" $src $common $(pkg-config --cflags --libs hlm) -lutf8proc -ljansson -lm -lpthread || exit 1
    done
)
ok "ui/ and bench/ build against the installed library" programs
sh_ok "... and answer" "echo 'What is the capital of France?' | $work/chat -m $model | grep -q Paris"

# ---- man pages and completions ---------------------------------------------------------------------

# Every name of a flag table, of the program and of its commands, in the completions of the three shells. fish has names
# without their dashes.
completed() {
    bash=$prefix/share/bash-completion/completions/$1 zsh=$prefix/share/zsh/vendor-completions/_$1
    fish=$prefix/share/fish/vendor_completions.d/$1.fish
    for c in '' $(sed -n 's/.*__fish_is_first_token. -a \([a-z]*\) .*/\1/p' "$fish"); do
        # shellcheck disable=SC2086
        "$prefix/bin/$1" $c --print-flags >"$work/table" && awk -F '\t' -v bash="$bash" -v zsh="$zsh" -v fish="$fish" '
            function all(file,    line, text) { while ((getline line <file) > 0) text = text line "\n"; return text }
            BEGIN { b = all(bash); z = all(zsh); f = all(fish) }
            $1 != "flag" && $1 != "choice" { next }
            {
                n = split($2, name, " ")
                for (i = 1; i <= n; i++) {
                    bare = name[i]
                    sub(/^-+/, "", bare)
                    if (!(index(b, " " name[i] " ") || index(b, "\"" name[i] " ")) || !index(z, "*" name[i] "[") || f !~ " -[lso] " bare " ") {
                        print "not completed: " name[i]
                        exit 1
                    }
                }
            }' "$work/table" || return 1
    done
}

monitor= # it is built where SDL2 is there
[ ! -x "$prefix/bin/hlm-monitor" ] || monitor=hlm-monitor
for p in hlm-chat hlm-eval hlm-bench hlm-tune $monitor; do
    page=$prefix/share/man/man1/$p.1
    ok "completions of $p have every flag, and those of its commands" completed "$p"
    if command -v man >/dev/null; then
        sh_ok "man -l $p.1" "MANWIDTH=80 man --warnings=w -l $page >$work/page 2>$work/warned && [ ! -s $work/warned ] && grep -q 'EXIT STATUS' $work/page"
        # Each flag of --help stands in the page.
        sh_ok "$p.1 has every flag" "for f in \$($prefix/bin/$p --print-flags | awk -F '\t' '\$1 == \"flag\" || \$1 == \"choice\" { print \$2 }');
            do grep -q -- \"\$f\" $work/page || { echo \$f; exit 1; }; done"
    else
        skip "man pages: there is no man"
    fi
done

# ---- in the desktop's menu -------------------------------------------------------------------------

# What the entry names is there: the program, and an icon that is XML of one element.
if [ -n "$monitor" ]; then
    entry=$prefix/share/applications/hlm-monitor.desktop icon=$prefix/share/icons/hicolor/scalable/apps/hlm-monitor.svg
    sh_ok "hlm-monitor.desktop names a program that is installed" \
        "p=\$(sed -n 's/^Exec=\([^ ]*\).*/\1/p' $entry) && [ -n \"\$p\" ] && [ -x $prefix/bin/\$p ]"
    sh_ok "... and an icon" "[ -s $(dirname "$icon")/\$(sed -n 's/^Icon=//p' $entry).svg ] && grep -q '^<svg .*viewBox' $icon"
    sh_ok "... and has what an entry must have" "head -n 1 $entry | grep -qx '\[Desktop Entry\]' &&
        grep -qx Type=Application $entry && grep -q '^Name=.' $entry && grep -q '^Categories=.*;$' $entry"
fi

# Types a line in a shell and reads what it became.
type_in() { # shell command, setup line, typed text
    tmux kill-server 2>/dev/null
    n_term=$((n_term + 1)) # a server that ends may still hold its socket
    TMUX_TMPDIR=$work/term$n_term
    export TMUX_TMPDIR
    mkdir "$TMUX_TMPDIR"
    tmux -f /dev/null new-session -d -x 160 -y 50 "$1" || return 1
    wait_for '[$%#>] *$' && tmux send-keys "$2" Enter && wait_for ready. &&
        tmux send-keys -l "$3" && tmux send-keys Tab Tab
}
wait_for() { # a pattern on the screen, five seconds at most
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
        tmux capture-pane -p >"$work/screen" 2>/dev/null
        grep -qE -- "$1" "$work/screen" && return 0
        sleep 0.2
    done
    cat "$work/screen"
    return 1
}
completes() { # shell command, setup, typed text, what the screen must show
    type_in "$1" "$2" "$3" && wait_for "$4"
}
share=$prefix/share
if command -v tmux >/dev/null; then
    bash="env PS1='$ ' bash --norc --noprofile"
    load=". $share/bash-completion/completions/hlm-chat; . $share/bash-completion/completions/hlm-tune; clear; echo read''y."
    ok "bash: a flag" completes "$bash" "$load" "hlm-chat --repeat-p" "hlm-chat --repeat-penalty"
    ok "bash: the words of a flag" completes "$bash" "$load" "hlm-chat --kv q" "hlm-chat --kv q8_0"
    ok "bash: a command" completes "$bash" "$load" "hlm-tune mer" "hlm-tune merge"
    ok "bash: a flag of a command" completes "$bash" "$load" "hlm-tune merge --gates" "merge --gates-only"
    ok "bash: a file" completes "$bash" "$load" "hlm-chat -m LICEN" "hlm-chat -m LICENSE"
    if command -v zsh >/dev/null; then
        zsh="env PS1='$ ' zsh -f"
        load="fpath=($share/zsh/vendor-completions \$fpath); autoload -U compinit; compinit -D -u; clear; echo read''y."
        ok "zsh: a flag" completes "$zsh" "$load" "hlm-chat --repeat-p" "hlm-chat --repeat-penalty"
        ok "zsh: the words of a flag" completes "$zsh" "$load" "hlm-chat --kv q" "hlm-chat --kv q8_0"
        ok "zsh: a flag of a command" completes "$zsh" "$load" "hlm-tune merge --gates" "merge --gates-only"
    else
        skip "zsh completions: there is no zsh"
    fi
    if command -v fish >/dev/null; then
        fish="env HOME=$work XDG_CONFIG_HOME=$work fish --no-config"
        load="source $share/fish/vendor_completions.d/hlm-chat.fish; source $share/fish/vendor_completions.d/hlm-tune.fish; clear; echo read''y."
        ok "fish: a flag" completes "$fish" "$load" "hlm-chat --repeat-p" "hlm-chat --repeat-penalty"
        ok "fish: the words of a flag" completes "$fish" "$load" "hlm-chat --kv q" "hlm-chat --kv q8_0"
        ok "fish: a flag of a command" completes "$fish" "$load" "hlm-tune merge --gates" "merge --gates-only"
    else
        skip "fish completions: there is no fish"
    fi
else
    skip "completions: there is no tmux"
fi

line="$passed passed, $failed failed"
[ $skipped -eq 0 ] || line="$line, $skipped skipped"
echo "$line"
[ $failed -eq 0 ]
