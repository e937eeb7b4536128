#!/usr/bin/env bash
# Makes .venv with everything xfelmpi needs; run again, it does only what is missing or has changed.
#
#   bash jobs/setup.sh            what the program needs
#   bash jobs/setup.sh --docs     and what builds its documentation
#   bash jobs/setup.sh --tests    and what its tests need, which is this, too
#
# As root on Debian the missing Debian packages are installed; elsewhere it says what to load.
# Environment: PYTHON (default: the newest of python3), MPICC (default: mpicc), HDF5_DIR (a parallel
# HDF5; default: found by pkg-config or h5pcc), XFELMPI_MODULES (modules to load first),
# XFELMPI_WHEELS (folder that keeps the built mpi4py and h5py; default .venv/wheels).
set -Eeuo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"
# Whatever ends the script says so: `set -e` alone would leave without a word.
trap 'printf "%s: failed (status %s) in line %s: %s\n" "${0##*/}" $? "$LINENO" "$BASH_COMMAND" >&2' ERR

with_tests=0 with_docs=0
for argument in "$@"; do
    case $argument in
    --tests) with_tests=1 with_docs=1 ;;
    --docs) with_docs=1 ;;
    -h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) die "unknown argument '$argument'; there are --tests and --docs" ;;
    esac
done

mkdir -p "$VENV"
LOG=$VENV/setup.log
exec 9>"$VENV/setup.lock"
if ! flock -n 9; then
    say "another setup of this folder is running; waiting for it"
    flock 9
fi
: >"$LOG"
load_site
unset PYTHONPATH PYTHONHOME

# step TEXT COMMAND...: one line on the terminal, the command's own output in the log.
step() {
    local text=$1 start=$SECONDS
    shift
    printf '  %s ... ' "$text"
    printf '\n=== %s\n' "$text" >>"$LOG"
    # A daemon started by a package's installation must not inherit the lock.
    if "$@" >>"$LOG" 2>&1 </dev/null 9>&-; then
        printf 'done (%d s)\n' $((SECONDS - start))
    else
        printf 'FAILED\n\nThe end of %s:\n' "$LOG"
        tail -n 40 -- "$LOG"
        printf '\n%s: failed: %s\n' "${0##*/}" "$text" >&2
        exit 1
    fi
}

# ------------------------------------------------------------------ what the machine must have

good_python() { "$1" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))'; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if good_python "$candidate" 2>/dev/null; then
            PYTHON=$(command -v "$candidate") && return 0
        fi
    done
    return 1
}

has_python_headers() {
    find_python || return 0 # said once is enough
    [[ -r $("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h ]]
}

has_compiler() { command -v "${CC:-cc}" || command -v gcc; }

has_pkg_config() { command -v pkg-config; }

find_mpi() {
    local found
    found=$(command -v "${MPICC:-mpicc}") && command -v mpirun && MPICC=$found
}

# parallel_hdf5 FLAGS...: sets HDF5_VERSION if these headers are those of a parallel HDF5.
parallel_hdf5() {
    local found
    found=$(
        "$MPICC" "$@" -E -P -x c - 2>/dev/null <<'C'
#include <H5public.h>
#ifdef H5_HAVE_PARALLEL
version H5_VERS_MAJOR H5_VERS_MINOR H5_VERS_RELEASE
#endif
C
    ) || return 1
    HDF5_VERSION=$(sed -n 's/^version \([0-9]*\) \([0-9]*\) \([0-9]*\)$/\1.\2.\3/p' <<<"$found")
    [[ -n $HDF5_VERSION ]]
}

# Sets HDF5_VERSION and either HDF5_DIR or HDF5_PKGCONFIG_NAME, which h5py's build reads.
find_hdf5() {
    local names name flags folder
    find_mpi >/dev/null || return 1
    if [[ -n ${HDF5_DIR:-} ]]; then
        parallel_hdf5 "-I$HDF5_DIR/include"
        return
    fi
    names="hdf5-mpi hdf5"
    case $MPI_VERSION in
    *"Open MPI"*) names="hdf5-openmpi $names" ;;
    *MPICH*) names="hdf5-mpich $names" ;;
    esac
    for name in $names; do
        flags=$(pkg-config --cflags "$name" 2>/dev/null) || continue
        # shellcheck disable=SC2086
        if parallel_hdf5 $flags; then
            export HDF5_PKGCONFIG_NAME=$name
            return 0
        fi
    done
    folder=$(command -v h5pcc || true)
    for folder in "${folder%/bin/h5pcc}" "${HDF5_ROOT:-}" "${EBROOTHDF5:-}" "${CONDA_PREFIX:-}"; do
        if [[ -n $folder ]] && parallel_hdf5 "-I$folder/include"; then
            export HDF5_DIR=$folder
            return 0
        fi
    done
    return 1
}

has_libdeflate() {
    pkg-config --exists libdeflate ||
        "${CC:-cc}" -E -x c - <<<'#include <libdeflate.h>' ||
        { [[ -r ${CONDA_PREFIX:-}/include/libdeflate.h ]] && export CPATH=$CONDA_PREFIX/include${CPATH:+:$CPATH} \
            LIBRARY_PATH=$CONDA_PREFIX/lib${LIBRARY_PATH:+:$LIBRARY_PATH}; }
}

has_gsl() { command -v gsl-config; }

has_chromium() { command -v "${CHROMIUM:-chromium}"; }

has_valgrind() {
    command -v valgrind && "${CC:-cc}" -E -x c - <<<'#include <valgrind/callgrind.h>'
}

has_slurm() { command -v sbatch && command -v slurmctld && command -v slurmd && command -v munged; }

# check FUNCTION PACKAGES HINT: collects what is missing.
check() {
    if ! "$1" >/dev/null 2>&1; then
        packages+=" $2"
        hints+=$'\n'"  - $3"
    fi
}

check_machine() {
    packages='' hints=''
    local hdf5_package=libhdf5-openmpi-dev
    if find_mpi >/dev/null; then MPI_VERSION=$(mpi_version); fi
    if [[ ${MPI_VERSION:-} == *MPICH* ]]; then hdf5_package=libhdf5-mpich-dev; fi
    check find_python "python3 python3-venv" "Python 3.11 or newer with venv (or name one: PYTHON=...)"
    check has_python_headers python3-dev "the headers of that Python (Python.h)"
    check has_compiler build-essential "a C compiler"
    check has_pkg_config pkg-config "pkg-config"
    check find_mpi "libopenmpi-dev openmpi-bin" \
        "mpicc and mpirun, e.g. 'module load openmpi' (or name one: MPICC=.../bin/mpicc)"
    check find_hdf5 "$hdf5_package" \
        "parallel HDF5 for that MPI, e.g. 'module load hdf5/<version>-mpi' (or HDF5_DIR=its folder)"
    check has_libdeflate libdeflate-dev "libdeflate with its header, e.g. 'module load libdeflate'"
    if ((with_tests)); then
        check has_gsl libgsl-dev "the GNU Scientific Library (gsl-config)"
        check has_valgrind valgrind "valgrind with its headers (valgrind/callgrind.h)"
    fi
}

is_debian_root() { [[ $(id -u) == 0 && -r /etc/debian_version ]] && command -v apt-get >/dev/null; }

# install_debian PACKAGES...
install_debian() {
    local try=(apt-get install -y --no-install-recommends -o DPkg::Lock::Timeout=300 "$@")
    export DEBIAN_FRONTEND=noninteractive
    "${try[@]}" || { apt-get update && "${try[@]}"; }
}

check_machine
if [[ -n $packages ]] && is_debian_root; then
    # shellcheck disable=SC2086
    step "installing$packages" install_debian $packages
    hash -r
    check_machine
fi
if [[ -n $hints ]]; then
    die "this machine lacks:$hints
On Debian, as root: apt-get install$packages
With conda or mamba: openmpi openmpi-mpicc 'hdf5=*=mpi_openmpi_*' libdeflate pkg-config in an active
environment. Then run this again."
fi
if ((with_tests)) && ! has_chromium >/dev/null; then
    if is_debian_root; then
        step "installing chromium" install_debian chromium fonts-dejavu-core
    else
        say "  no Chromium here (or name one: CHROMIUM=...): the tests that need it will be skipped"
    fi
fi
if ((with_tests)) && ! has_slurm >/dev/null; then
    if is_debian_root; then
        step "installing slurm-wlm munge" install_debian slurm-wlm munge
    else
        say "  no Slurm daemons here: the tests that need them will be skipped"
    fi
fi

# ------------------------------------------------------------------ .venv

PY=$VENV/bin/python
STAMPS=$VENV/stamps

venv_works() {
    [[ -x $PY ]] && "$PY" -c 'import sys, pip; sys.exit(sys.prefix == sys.base_prefix)' 2>/dev/null &&
        [[ ! -r $STAMPS/venv || $(<"$STAMPS/venv") == "$VENV" ]]
}

make_venv() {
    find "$VENV" -mindepth 1 -maxdepth 1 ! -name 'setup.lo[cg]*' ! -name wheels -exec rm -rf -- {} + &&
        "$PYTHON" -m venv "$VENV"
}

if ! venv_works; then
    step "making $VENV" make_venv
fi
export VIRTUAL_ENV=$VENV PATH=$VENV/bin:$PATH # meson-python looks for meson and ninja there
mkdir -p "$STAMPS"
printf '%s\n' "$VENV" >"$STAMPS/venv"

# What common.sh needs in a job that starts without today's environment.
{
    printf '# Written by setup.sh, read by common.sh.\n'
    printf 'SITE_MODULES=%q\n' "${XFELMPI_MODULES:-$(tr : ' ' <<<"${LOADEDMODULES:-}")}"
    printf 'MPICC=%q\nHDF5_DIR=%q\n' "$MPICC" "${HDF5_DIR:-}"
} >"$VENV/site.sh"

pip_install() { "$PY" -m pip install --disable-pip-version-check "$@"; }

# requirements KEY...: the requirements under these keys of pyproject.toml, one a line.
requirements() {
    "$PY" - "$ROOT/pyproject.toml" "$@" <<'PYTHON'
import sys
import tomllib

with open(sys.argv[1], "rb") as file:
    node = tomllib.load(file)
for key in sys.argv[2:]:
    node = node[key]
sys.stdout.write("".join(f"{requirement}\n" for requirement in node))
PYTHON
}

# is_current STAMP KEY, set_stamp STAMP KEY
is_current() { [[ -r $STAMPS/$1 && $(<"$STAMPS/$1") == "$2" ]]; }
set_stamp() { printf '%s\n' "$2" >"$STAMPS/$1"; }

# ------------------------------------------------------------------ mpi4py and h5py, built here

# Says which HDF5 an h5py with MPI was built against; nothing otherwise. Without MPI_Init.
probe_h5py() {
    "$PY" - 2>>"$LOG" <<'PYTHON' || true
import sys

import mpi4py

mpi4py.rc.initialize = False
import h5py

if h5py.get_config().mpi:
    sys.stdout.write(h5py.version.hdf5_version)
PYTHON
}

build_tools() {
    # What a build that pip does not isolate must find: ours, and that of mpi4py and h5py.
    mapfile -t wanted < <(requirements build-system requires)
    pip_install --upgrade 'setuptools>=77' wheel pkgconfig ninja 'meson>=1.2' "${wanted[@]}"
}

# build NAME: the wheel of one package, from source, against this machine's MPI and HDF5.
build() {
    local requirement
    requirement=$(requirements project dependencies | grep -E "^$1([^A-Za-z0-9_-]|\$)")
    if ! compgen -G "$wheels/$1-*.whl" >/dev/null; then
        # pip's cache holds wheels by name only: one built elsewhere must not be picked up.
        "$PY" -m pip wheel --disable-pip-version-check --no-build-isolation --no-deps --no-cache-dir \
            --no-binary="$1" --wheel-dir "$wheels.part" "$requirement" || return
        mkdir -p "$wheels" && mv -- "$wheels.part/$1"-*.whl "$wheels/" && rm -r -- "$wheels.part" || return
    fi
    pip_install --force-reinstall --no-deps "$wheels/$1"-*.whl
}
# Without debugging symbols the large generated sources compile faster.
build_mpi4py() { CFLAGS="${CFLAGS:-} -g0" MPICC=$MPICC build mpi4py; }
build_h5py() { CFLAGS="${CFLAGS:-} -g0" CC=$MPICC HDF5_MPI=ON build h5py; }

python_version=$("$PY" -VV)
base="$python_version; $MPICC $MPI_VERSION; HDF5 $HDF5_VERSION ${HDF5_DIR:-}"
wheels=${XFELMPI_WHEELS:-$VENV/wheels}/$(sha256sum <<<"$base" | cut -c 1-16)
if [[ $(probe_h5py) != "$HDF5_VERSION" ]] || { [[ -r $STAMPS/base ]] && ! is_current base "$base"; }; then
    rm -f -- "$STAMPS"/{base,package,docs,tests}
    step "installing build tools" build_tools
    step "building mpi4py with $MPICC (up to 3 minutes)" build_mpi4py
    step "building h5py with HDF5 $HDF5_VERSION ${HDF5_DIR:-($HDF5_PKGCONFIG_NAME)} (1 to 4 minutes)" build_h5py
    [[ $(probe_h5py) == "$HDF5_VERSION" ]] ||
        die "h5py was built, but not with MPI and HDF5 $HDF5_VERSION (the whole output: $LOG)"
fi
set_stamp base "$base"

# ------------------------------------------------------------------ xfelmpi and what it imports

# pip must never replace the two packages that were built here.
install_requirements() {
    "$PY" -m pip list --format=freeze --disable-pip-version-check |
        grep -E '^(mpi4py|h5py)==' >"$VENV/constraints.txt" &&
        pip_install --constraint "$VENV/constraints.txt" "$@"
}

build_package() {
    "$PY" -m pip wheel --disable-pip-version-check --no-build-isolation --no-deps \
        --wheel-dir "$VENV/dist" --config-settings=build-dir="$VENV/build" "$ROOT"
}

install_package() {
    build_tools || return
    mapfile -t wanted < <(requirements project dependencies)
    install_requirements "${wanted[@]}" || return
    # A build folder that is kept compiles only what changed; one that another compiler left may fail.
    rm -rf -- "$VENV/dist"
    build_package || { rm -rf -- "$VENV/build" && build_package; } || return
    pip_install --force-reinstall --no-deps "$VENV/dist"/xfelmpi-*.whl
}

sources() {
    cd -- "$ROOT" && find src cython meson.build meson.options pyproject.toml -type f \
        ! -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum -- | sha256sum
}

package="$base $(sources)"
if ! is_current package "$package" || ! [[ -x $VENV/bin/xfelmpi ]]; then
    step "building and installing xfelmpi" install_package
    set_stamp package "$package"
fi

# ------------------------------------------------------------------ what the documentation needs

install_docs() {
    mapfile -t wanted < <(requirements project optional-dependencies docs)
    install_requirements "${wanted[@]}"
}

docs="$base $(requirements project optional-dependencies docs | sha256sum)"
if ((with_docs)) && ! is_current docs "$docs"; then
    step "installing what the documentation needs" install_docs
    set_stamp docs "$docs"
fi

# ------------------------------------------------------------------ what the tests need

# Dragonfly (which imports scipy without asking for it here) looks for HDF5 with h5cc; it gets the
# parallel one, so that a process has only one.
install_dragonfly() {
    local shim flags
    if [[ -n ${HDF5_DIR:-} ]]; then
        flags="-I$HDF5_DIR/include -L$HDF5_DIR/lib"
    else
        flags=$(pkg-config --cflags --libs-only-L "$HDF5_PKGCONFIG_NAME")
    fi
    shim=$(mktemp -d) && printf '#!/bin/sh\necho "%s"\n' "$flags" >"$shim/h5cc" && chmod +x "$shim/h5cc" &&
        PATH=$shim:$PATH CC=$MPICC pip_install --no-build-isolation --no-deps --no-cache-dir \
            --no-binary=dragonfly-spi dragonfly-spi
    rm -rf -- "$shim"
    (cd / && "$PY" -c 'from dragonfly import EMCReader')
}

install_tests() {
    mapfile -t wanted < <(requirements project optional-dependencies "test")
    install_requirements "${wanted[@]}" scipy && install_dragonfly || return
    mapfile -t wanted < <(requirements project optional-dependencies catalogue)
    pip_install --no-deps "${wanted[@]}"
}

tests="$base $(requirements project optional-dependencies "test" | sha256sum)"
if ((with_tests)) && ! is_current tests "$tests"; then
    step "installing what the tests need, with Dragonfly" install_tests
    set_stamp tests "$tests"
fi
say "xfelmpi is ready in $VENV"
