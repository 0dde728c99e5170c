#!/bin/sh
# deb: the Debian packages, built from a copy of the tree; then what lintian says of them.
#
#     deb.sh BUILD/deb VERSION
#
# The packages lie in BUILD/deb afterwards. Fails when lintian finds an error.
set -eu

out=$1 version=$2
tree=$out/hlm-$version
rm -rf "$out"
mkdir -p "$tree"
cp -r LICENSE Makefile README.md engine models shaders ui bench tests tools "$tree"
rm -rf "$tree/tests/fixtures" "$tree/tests/corpus"
cp -r tools/debian "$tree/debian"
cat >"$tree/debian/changelog" <<EOF
hlm ($version) unstable; urgency=medium

  * Built from the source tree.

 -- hlm developers <hlm@localhost.localdomain>  $(date -R)
EOF
(cd "$tree" && MAKEFLAGS= dpkg-buildpackage -b -us -uc ${DEB_JOBS:+-j$DEB_JOBS}) >"$out/log" 2>&1 || {
    tail -n 30 "$out/log" >&2
    exit 1
}
rm -rf "$tree"
ls "$out"/*.deb
# Names that a distribution's own package would have are its maintainers' business.
lintian --fail-on error --suppress-tags initial-upload-closes-no-bugs "$out"/*.changes
