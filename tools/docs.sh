#!/bin/sh
# docs: man pages and shell completions, made from the flag tables of the programs as they print them
# (`hlm-chat --print-flags`), so that neither can say another thing than --help.
#
#     docs.sh BUILD       writes BUILD/man/*.1 and BUILD/completions/{bash,zsh,fish}/
#
# A program of several commands has one page and one completion.
set -eu

b=$1
programs="hlm-chat hlm-eval hlm-bench hlm-tune"
[ ! -x "$b/hlm-monitor" ] || programs="$programs hlm-monitor" # where SDL2 is there
mkdir -p "$b/man" "$b/completions/bash" "$b/completions/zsh" "$b/completions/fish"

commands() { # of a program, with what each is for
    case $1 in
    hlm-tune) echo "info merge export import plot" ;;
    hlm-bench) echo "make" ;;
    esac
}
what() {
    case $1 in
    hlm-chat) echo "chat with a hybrid language model" ;;
    hlm-eval) echo "logits, ids, perplexity and prompts of a language model" ;;
    hlm-bench) echo "measure how fast a language model is" ;;
    hlm-tune) echo "train LoRA adapters of a language model" ;;
    hlm-monitor) echo "watch hlm-chat, hlm-tune, hlm-bench and hlm-eval in a window" ;;
    esac
}
others() {
    for p in $programs; do [ "$p" = "$1" ] || echo "$p"; done
}

# Rows of a flag table to stdout: the program's own, or (command given) those of one command.
table() { "$b/$1" ${2:+"$2"} --print-flags; }

man_flags() { # a flag table to roff, without the groups that every command shares
    awk -F '\t' -v shared="$1" '
    function esc(s) { gsub(/\\/, "\\e", s); gsub(/-/, "\\-", s); sub(/^[.\047]/, "\\\\\\&&", s); return s }
    $1 == "group" { skip = !shared && $2 == "Device and output"; if (!skip) print ".SS " esc($2); next }
    skip { next }
    $1 == "flag" || $1 == "choice" {
        n = split($2, name, " ")
        line = ""
        for (i = 1; i <= n; i++) line = line (i > 1 ? ", " : "") "\\fB" esc(name[i]) "\\fR"
        print ".TP"
        print line ($3 != "" ? " \\fI" esc($3) "\\fR" : "")
        print esc($4) "."
    }'
}

man_page() {
    p=$1
    version=$(table "$p" | sed -n 's/^version\t//p')
    up=$(echo "$p" | tr '[:lower:]' '[:upper:]')
    esc() { sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e 's/^\([.'"'"']\)/\\\&\1/'; }
    cat <<EOF
.TH $up 1 "" "hlm $version" "User Commands"
.SH NAME
$(echo "$p" | sed 's/-/\\-/g') \\- $(what "$p")
.SH SYNOPSIS
.B $(echo "$p" | sed 's/-/\\-/g')
$(table "$p" | sed -n 's/^usage\t//p' | sed 's/; --help lists them//; s/; each has --help//' | esc)
EOF
    for c in $(commands "$p"); do
        printf '.br\n.B %s\n%s\n' "$(echo "$p" | sed 's/-/\\-/g')" \
            "$(table "$p" "$c" | sed -n 's/^usage\t//p' | sed 's/; --help lists them//' | esc)"
    done
    echo '.SH DESCRIPTION'
    table "$p" | sed -n 's/^about\t//p' | esc | sed 's/^ *$/.PP/; s/^  /.br\n/'
    echo '.SH OPTIONS'
    table "$p" | man_flags 1
    for c in $(commands "$p"); do
        echo ".SH THE COMMAND $(echo "$c" | tr '[:lower:]' '[:upper:]')"
        table "$p" "$c" | sed -n 's/^about\t//p' | esc | sed 's/^ *$/.PP/; s/^  /.br\n/'
        table "$p" "$c" | man_flags ''
    done
    cat <<EOF
.SH EXIT STATUS
0: done. 1: failed. 2: a wrong flag. 128 + N: ended by signal N, as 130 by Ctrl-C and 143 by SIGTERM.
EOF
    environment "$p"
    echo '.SH SEE ALSO'
    others "$p" | sed 's/-/\\-/g; s/.*/.BR & (1),/; $s/,$//'
}

environment() {
    if [ "$1" = hlm-monitor ]; then
        cat <<EOF
.SH ENVIRONMENT
.TP
\\fBXDG_CONFIG_HOME\\fR
How the window was left is kept in \\fIhlm/monitor\\fR below it; \\fI~/.config\\fR when it is not set.
EOF
        return
    fi
    cat <<EOF
.SH ENVIRONMENT
.TP
\\fBXDG_CACHE_HOME\\fR
Compiled pipelines are kept in \\fIhlm/\\fR below it; \\fI~/.cache\\fR when it is not set.
.TP
\\fBXDG_STATE_HOME\\fR
The history of the line editor is kept in \\fIhlm/\\fR below it; \\fI~/.local/state\\fR when it is not set.
.TP
\\fBXDG_CONFIG_HOME\\fR
hlm-chat reads \\fIhlm/config\\fR below it, settings with the names of flags; \\fI~/.config\\fR when it is not set.
.TP
\\fBHLM_MODELS\\fR
Folders, with colons between, where hlm-chat looks for models by name.
.TP
\\fBNO_COLOR\\fR
No colours when it is set.
EOF
}

flag_words() { # every name of a flag table
    awk -F '\t' '$1 == "flag" || $1 == "choice" {
        n = split($2, w, " ")
        for (i = 1; i <= n; i++) print w[i]
    }'
}
choices() { # bash and zsh cases: names of a flag that takes words, and the words
    awk -F '\t' '$1 == "choice" {
        gsub(/ /, "|", $2)
        gsub(/\|/, " ", $3)
        print "        " $2 ") words=\"" $3 "\" ;;"
    }'
}
free_values() { # names of flags that take a value that cannot be completed
    awk -F '\t' '$1 == "flag" && $3 != "" && $3 !~ /FILE|DIR|OUT|FOLDER|MODEL/ {
        gsub(/ /, "|", $2)
        printf "%s%s", sep, $2
        sep = "|"
    }'
}
file_values() {
    awk -F '\t' '$1 == "flag" && $3 ~ /FILE|DIR|OUT|FOLDER|MODEL/ {
        gsub(/ /, "|", $2)
        printf "%s%s", sep, $2
        sep = "|"
    }'
}

# One case of completion: what a table offers. $1 program, $2 command or nothing.
bash_case() {
    t=$(table "$1" "$2")
    files=$(echo "$t" | file_values)
    free=$(echo "$t" | free_values)
    cat <<EOF
    case \$prev in
$(echo "$t" | choices)
        ${free:---none}) return 0 ;;
        ${files:---none}) files=1 ;;
    esac
    flags="$(echo "$t" | flag_words | tr '\n' ' ')"
EOF
}

bash_completion() {
    p=$1
    f=_$(echo "$p" | tr - _)
    first='[ -n "$cur" ]' # a word without a flag is the model
    [ -z "$(commands "$p")" ] || first='[ "$COMP_CWORD" != 1 ]'
    cat <<EOF
# bash completion of $p, made by tools/docs.sh
$f()
{
    local cur=\${COMP_WORDS[COMP_CWORD]} prev=\${COMP_WORDS[COMP_CWORD-1]} words= flags= files=
    COMPREPLY=()
EOF
    if [ -n "$(commands "$p")" ]; then
        echo '    case ${COMP_WORDS[1]} in'
        for c in $(commands "$p"); do
            echo "    $c)"
            bash_case "$p" "$c"
            echo '    ;;'
        done
        echo '    *)'
        bash_case "$p" ''
        echo "    [ \"\$COMP_CWORD\" != 1 ] || flags=\"\$flags $(commands "$p")\""
        echo '    ;;'
        echo '    esac'
    else
        bash_case "$p" ''
    fi
    cat <<EOF
    if [ -n "\$words" ]; then
        COMPREPLY=(\$(compgen -W "\$words" -- "\$cur"))
    elif [ -n "\$files" ] || { [ "\${cur#-}" = "\$cur" ] && $first; }; then
        compopt -o filenames
        mapfile -t COMPREPLY < <(compgen -f -- "\$cur")
    else
        COMPREPLY=(\$(compgen -W "\$flags" -- "\$cur"))
    fi
}
complete -F $f $p
EOF
}

zsh_specs() {
    awk -F '\t' '
    function q(s) {
        gsub(/\047/, "\047\\\047\047", s); gsub(/\[/, "\\[", s); gsub(/\]/, "\\]", s); gsub(/:/, "\\:", s)
        return s
    }
    $1 == "flag" || $1 == "choice" {
        act = ""
        if ($1 == "choice") { gsub(/\|/, " ", $3); act = ":word:(" $3 ")" }
        else if ($3 ~ /FILE|DIR|OUT|FOLDER|MODEL/) act = ":" q($3) ":_files"
        else if ($3 != "") act = ":" q($3) ": "
        n = split($2, w, " ")
        for (i = 1; i <= n; i++) print "        \047*" w[i] "[" q($4) "]" act "\047 \\"
    }'
}
zsh_completion() {
    p=$1
    echo "#compdef $p"
    echo "# zsh completion of $p, made by tools/docs.sh"
    if [ -n "$(commands "$p")" ]; then
        echo 'case $words[2] in'
        for c in $(commands "$p"); do
            echo "$c)"
            echo '    shift words; (( CURRENT-- ))'
            echo '    _arguments \'
            table "$p" "$c" | zsh_specs
            echo "        '*:file:_files' ;;"
        done
        echo '*)'
        echo "    (( CURRENT != 2 )) || compadd -- $(commands "$p")"
        echo '    _arguments \'
        table "$p" | zsh_specs
        echo "        && return 0 ;;"
        echo 'esac'
    else
        echo '_arguments \'
        table "$p" | zsh_specs
        echo "        '*:model:_files' && return 0"
    fi
}

fish_rows() { # $1 program, $2 condition
    awk -F '\t' -v p="$1" -v cond="$2" '
    function q(s) { gsub(/\\/, "\\\\", s); gsub(/\047/, "\\\047", s); return s }
    $1 == "flag" || $1 == "choice" {
        n = split($2, w, " ")
        line = "complete -c " p cond
        for (i = 1; i <= n; i++) {
            if (w[i] ~ /^--/) line = line " -l " substr(w[i], 3)
            else if (length(w[i]) == 2) line = line " -s " substr(w[i], 2)
            else line = line " -o " substr(w[i], 2)
        }
        if ($1 == "choice") { gsub(/\|/, " ", $3); line = line " -x -a \047" $3 "\047" }
        else if ($3 ~ /FILE|DIR|OUT|FOLDER|MODEL/) line = line " -r -F"
        else if ($3 != "") line = line " -x"
        print line " -d \047" q($4) "\047"
    }'
}
fish_completion() {
    p=$1
    all=$(commands "$p")
    echo "# fish completion of $p, made by tools/docs.sh"
    for c in $all; do
        echo "complete -c $p -n '__fish_is_first_token' -a $c -d 'a command of its own flags'"
        table "$p" "$c" | fish_rows "$p" " -n '__fish_seen_subcommand_from $c'"
    done
    table "$p" | fish_rows "$p" "${all:+ -n 'not __fish_seen_subcommand_from $all'}"
}

for p in $programs; do
    man_page "$p" >"$b/man/$p.1"
    bash_completion "$p" >"$b/completions/bash/$p"
    zsh_completion "$p" >"$b/completions/zsh/_$p"
    fish_completion "$p" >"$b/completions/fish/$p.fish"
done
