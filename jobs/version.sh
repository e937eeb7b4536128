#!/usr/bin/env bash
# Says the version of the sources, for meson.build: at the git tag v0.2.0 it is 0.2.0, seven commits
# later 0.2.1.dev7, before the first tag 0.2.0.dev and the number of commits.
#
#   jobs/version.sh         without git: what an archive of the sources has kept, or 0.2.0.dev0
#   jobs/version.sh commit  the commit of the sources instead, or "unknown"
#   jobs/version.sh keep    called by `meson dist`: keeps both in the archive
set -euo pipefail

readonly FIRST=0.2.0
root=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
kept_version=.version kept_commit=.commit

# The folder may belong to somebody else than who installs it.
ask() { git -c safe.directory='*' -C "$root" "$@" 2>/dev/null; }

version() {
    local tag since
    if [[ ! -e $root/.git ]] || ! since=$(ask rev-list --count HEAD); then
        if [[ -r $root/$kept_version ]]; then cat -- "$root/$kept_version"; else echo "$FIRST.dev0"; fi
    elif tag=$(ask describe --tags --abbrev=0 --match 'v[0-9]*'); then
        since=$(ask rev-list --count "$tag..HEAD")
        tag=${tag#v}
        if ((since)); then echo "${tag%.*}.$((${tag##*.} + 1)).dev$since"; else echo "$tag"; fi
    else
        echo "$FIRST.dev$since"
    fi
}

# commit [OPTION]: --dirty marks sources that were changed since.
commit() {
    if [[ -e $root/.git ]]; then
        ask describe --always --abbrev=12 --exclude='*' "$@" || echo unknown
    elif [[ -r $root/$kept_commit ]]; then
        cat -- "$root/$kept_commit"
    else
        echo unknown
    fi
}

case ${1:-} in
'') version ;;
commit) commit --dirty ;;
keep) version >"$MESON_DIST_ROOT/$kept_version" && commit >"$MESON_DIST_ROOT/$kept_commit" ;;
*) echo "usage: ${0##*/} [commit|keep]" >&2 && exit 2 ;;
esac
