#!/usr/bin/env bash
# Says the version of the sources, for meson.build: at the git tag v0.2.0 it is 0.2.0, seven commits
# later 0.2.1.dev7, before the first tag 0.2.0.dev and the number of commits.
#
#   jobs/version.sh         without git: what an archive of the sources has kept, or 0.2.0.dev0
#   jobs/version.sh keep    called by `meson dist`: keeps the version in the archive
set -euo pipefail

readonly FIRST=0.2.0
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
kept=.version

# The folder may belong to somebody else than who installs it.
ask() { git -c safe.directory='*' -C "$root" "$@" 2>/dev/null; }

version() {
    local tag since
    if [[ ! -e $root/.git ]] || ! since=$(ask rev-list --count HEAD); then
        if [[ -r $root/$kept ]]; then cat -- "$root/$kept"; else echo "$FIRST.dev0"; fi
    elif tag=$(ask describe --tags --abbrev=0 --match 'v[0-9]*'); then
        since=$(ask rev-list --count "$tag..HEAD")
        tag=${tag#v}
        if ((since)); then echo "${tag%.*}.$((${tag##*.} + 1)).dev$since"; else echo "$tag"; fi
    else
        echo "$FIRST.dev$since"
    fi
}

case ${1:-} in
'') version ;;
keep) version >"$MESON_DIST_ROOT/$kept" ;;
*) echo "usage: ${0##*/} [keep]" >&2 && exit 2 ;;
esac
