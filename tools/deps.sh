#!/bin/sh
# deps: what building hlm needs (deps.sh), and testing it (deps.sh test), and its CI (deps.sh test ci),
# its Debian packages (deps.sh deb), and hlm-monitor (deps.sh monitor).
# Debian and Ubuntu: installs what is missing, as root or through sudo. Elsewhere, and where that cannot
# be done, names what is missing. Fails only if something is. Quiet and quick when nothing is.
set -eu

need="gcc libc6-dev make glslang-tools libvulkan-dev mesa-vulkan-drivers libpcre2-dev libutf8proc-dev
      libjansson-dev libxxhash-dev"
monitor="libsdl2-dev libsdl2-ttf-dev libpng-dev fonts-inter"
for list in "$@"; do
    case $list in
    monitor) need="$need $monitor" ;;
    test) need="$need $monitor xvfb vulkan-validationlayers spirv-tools g++ pkg-config libcairo2-dev
        man-db tmux" ;;
    ci) need="$need clang clang-format zsh fish" ;;
    deb) need="$need $monitor dpkg-dev debhelper lintian pkg-config libcairo2-dev" ;;
    *) echo "usage: deps.sh [monitor] [test] [ci] [deb]" >&2; exit 2 ;;
    esac
done

# Whether a package's files are there, whoever installed them.
have_header() { echo "#include <$1>" | "${CC:-cc}" -E - >/dev/null 2>&1; }
have() {
    case $1 in
    gcc) command -v "${CC:-cc}" ;;
    make | clang | clang-format | lintian | tmux | zsh | fish) command -v "$1" ;;
    libc6-dev) have_header stdio.h ;;
    dpkg-dev) command -v dpkg-buildpackage ;;
    debhelper) command -v dh ;;
    g++) command -v g++ ;;
    man-db) command -v man ;;
    pkg-config) command -v pkg-config ;;
    glslang-tools) command -v glslangValidator ;;
    spirv-tools) command -v spirv-val ;;
    libvulkan-dev) have_header vulkan/vulkan.h ;;
    libpcre2-dev) printf '#define PCRE2_CODE_UNIT_WIDTH 8\n#include <pcre2.h>\n' |
        "${CC:-cc}" -E - >/dev/null 2>&1 ;;
    libutf8proc-dev) have_header utf8proc.h ;;
    libjansson-dev) have_header jansson.h ;;
    libcairo2-dev) pkg-config --exists cairo ;;
    libxxhash-dev) have_header xxhash.h ;;
    libsdl2-dev) have_header SDL2/SDL.h ;;
    libsdl2-ttf-dev) have_header SDL2/SDL_ttf.h ;;
    libpng-dev) have_header png.h ;;
    fonts-inter) find /usr/share/fonts /usr/local/share/fonts -name 'Inter-Regular.otf' | grep . ;;
    xvfb) command -v Xvfb ;;
    mesa-vulkan-drivers) find /usr/share/vulkan /usr/local/share/vulkan /etc/vulkan \
        -path "*/icd.d/*.json" | grep . ;;
    vulkan-validationlayers) find /usr/share/vulkan /usr/local/share/vulkan /etc/vulkan \
        -name '*alidation*.json' | grep . ;;
    esac >/dev/null 2>&1
}

missing=
if command -v dpkg-query >/dev/null && command -v apt-get >/dev/null; then
    # shellcheck disable=SC2086
    there=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $need 2>/dev/null || :)
    for p in $need; do
        echo "$there" | grep -qx "installed $p" || missing="$missing $p"
    done
    [ -n "$missing" ] || exit 0
    as_root=none
    [ "$(id -u)" != 0 ] || as_root=
    if [ "$as_root" = none ] && command -v sudo >/dev/null; then as_root=sudo; fi
    if [ "$as_root" != none ]; then
        echo "installing$missing" >&2
        log=$(mktemp)
        install() {
            # shellcheck disable=SC2086
            $as_root env DEBIAN_FRONTEND=noninteractive \
                apt-get install -qq -y --no-install-recommends $missing >"$log" 2>&1
        }
        if install || { $as_root apt-get update -qq >"$log" 2>&1 && install; }; then
            rm -f "$log"
            exit 0
        fi
        tail -n 5 "$log" >&2
        rm -f "$log"
    fi
fi

missing=
for p in $need; do
    have "$p" || missing="$missing $p"
done
[ -z "$missing" ] || {
    echo "hlm needs these packages (Debian's names; install what your system calls them):$missing" >&2
    exit 1
}
