# shellcheck shell=bash
# Sourced by the scripts of this folder, from any working folder: where the project is, the site's
# modules where there are any, the project's Python, and what MPI and the threads need.
#
#   XFELMPI_MODULES   modules to load (default: those that were loaded when setup.sh ran)

ROOT=$(CDPATH='' cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd)
VENV=$ROOT/.venv

say() { printf '%s\n' "$*"; }

# die MESSAGE: stop for a reason that the user can do something about.
die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 2
}

# Loads the site's modules. `module` is a shell function that a batch job may not have yet, and
# that does not survive `set -u`.
load_site_modules() {
    local init name modules=${XFELMPI_MODULES:-${SITE_MODULES:-}}
    [[ -n $modules ]] || return 0
    set +u
    for init in /etc/profile.d/{modules,lmod,z00_lmod}.sh "${MODULESHOME:-}/init/bash"; do
        # shellcheck disable=SC1090
        if ! type module >/dev/null 2>&1 && [[ -r $init ]]; then source "$init"; fi
    done
    if type module >/dev/null 2>&1; then
        for name in $modules; do
            [[ :${LOADEDMODULES:-}: == *":$name:"* ]] || module load "$name"
        done
    fi
    set -u
}

# load_site: what setup.sh found (SITE_MODULES, MPICC, HDF5_DIR); the environment wins. Sets MPIRUN,
# the launcher of that MPI.
load_site() {
    local mpicc=${MPICC:-} hdf5=${HDF5_DIR:-} bin
    # shellcheck disable=SC1091
    if [[ -r $VENV/site.sh ]]; then source "$VENV/site.sh"; fi
    MPICC=${mpicc:-${MPICC:-}}
    HDF5_DIR=${hdf5:-${HDF5_DIR:-}}
    load_site_modules
    bin=${MPICC%/*}
    if [[ $MPICC == /*/* && $bin != /usr/bin && $bin != /bin && -x $bin/mpirun ]]; then
        PATH=$bin:$PATH
    fi
    # Debian has several MPIs side by side: mpicc.mpich and mpirun.mpich
    MPIRUN=mpirun
    if [[ ${MPICC##*/} == mpicc.* && -x $bin/mpirun.${MPICC##*.} ]]; then
        MPIRUN=$bin/mpirun.${MPICC##*.}
    fi
}

# mpi_version: what compiler and MPI $MPICC is, in one line. Open MPI, MPICH and its relatives (Intel
# MPI, MVAPICH) tell it in different ways, and take the others' options for those of the compiler.
mpi_version() {
    local option said
    for option in --showme:version -v --version; do
        # MPICH's says its name and version first, and may then fail for want of a source file
        said=$("$MPICC" "$option" 2>&1 </dev/null) || [[ ${said%%$'\n'*} == *[Ff]or*MPI* ]] || continue
        [[ -n $said ]] || continue
        printf '%s\n' "${said%%$'\n'*}"
        return 0
    done
    die "'$MPICC' does not say what it is with --showme:version, -v or --version: ${said:-nothing}"
}

use_venv() {
    [[ -x $VENV/bin/python ]] || die "no Python in $VENV; run 'bash $ROOT/jobs/setup.sh' first"
    export VIRTUAL_ENV=$VENV PATH=$VENV/bin:$PATH
    # Modules of a site put their own h5py and mpi4py there, ahead of ours.
    unset PYTHONPATH PYTHONHOME
}

# CPUs this process may use; nproc alone would answer OMP_NUM_THREADS.
cpus() { env -u OMP_NUM_THREADS -u OMP_THREAD_LIMIT nproc; }

# limit_threads: ranks are the parallelism here. Must come before the first import.
limit_threads() {
    local threads=${SLURM_CPUS_PER_TASK:-1}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$threads}
    export OPENBLAS_NUM_THREADS=${OPENBLAS_NUM_THREADS:-$threads}
    export EXTRA_NUM_THREADS=${EXTRA_NUM_THREADS:-$threads}
}

# prepare_mpi RANKS: what Open MPI needs for that many ranks on this machine (others ignore it).
prepare_mpi() {
    if [[ $(id -u) == 0 ]]; then
        export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
    fi
    if (($1 > $(cpus))); then
        export OMPI_MCA_mpi_yield_when_idle=${OMPI_MCA_mpi_yield_when_idle:-1}
    fi
    # Containers usually forbid a process to read another's memory.
    if [[ -e /.dockerenv || -e /run/.containerenv ]]; then
        export OMPI_MCA_btl_vader_single_copy_mechanism=${OMPI_MCA_btl_vader_single_copy_mechanism:-none}
    fi
    if [[ -z ${SLURM_JOB_ID:-} ]]; then
        # Ranks of two jobs that start together would be bound to the same cores.
        export OMPI_MCA_hwloc_base_binding_policy=${OMPI_MCA_hwloc_base_binding_policy:-none}
        export OMPI_MCA_rmaps_base_oversubscribe=${OMPI_MCA_rmaps_base_oversubscribe:-1}
        # The same for Open MPI 5
        export PRTE_MCA_hwloc_default_binding_policy=${PRTE_MCA_hwloc_default_binding_policy:-none}
        export PRTE_MCA_rmaps_default_mapping_policy=${PRTE_MCA_rmaps_default_mapping_policy:-:oversubscribe}
    fi
}
