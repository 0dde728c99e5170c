#!/bin/sh
# deb: the Debian packages, built from a copy of the tree; then what lintian says of them.
#
#     deb.sh BUILD/deb VERSION
#
# The packages lie in BUILD/deb afterwards. Fails when lintian finds an error.
set -eu

out=$1 version=$2
# Who packages says so as for all of Debian's tools. Without that the address is this machine's, which lintian would
# rightly call none.
maintainer="${DEBFULLNAME:-hlm} <${DEBEMAIL:-hlm@localhost.localdomain}>"
unknown=
[ -n "${DEBEMAIL:-}" ] || unknown="--suppress-tags bogus-mail-host,bogus-mail-host-in-debian-changelog"
tree=$out/hlm-$version
rm -rf "$out"
mkdir -p "$tree"
cp -r LICENSE Makefile README.md engine models shaders ui bench monitor tests tools "$tree"
rm -rf "$tree/tests/fixtures" "$tree/tests/corpus"
cp -r tools/debian "$tree/debian"
sed -i "s/^Maintainer: .*/Maintainer: $maintainer/" "$tree/debian/control"
cat >"$tree/debian/changelog" <<EOF
hlm ($version) unstable; urgency=medium

  * Built from the source tree.

 -- $maintainer  $(date -R)
EOF
(cd "$tree" && MAKEFLAGS= dpkg-buildpackage -b -us -uc ${DEB_JOBS:+-j$DEB_JOBS}) >"$out/log" 2>&1 || {
    tail -n 30 "$out/log" >&2
    exit 1
}
rm -rf "$tree"
ls "$out"/*.deb
# shellcheck disable=SC2086
lintian --fail-on error --allow-root $unknown "$out"/*.changes
