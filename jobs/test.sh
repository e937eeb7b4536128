#!/usr/bin/env bash
# Sets up, then checks the style, the types and the imports of the sources and runs all the tests:
# in one process each, and those of tests/mpi on 1, 2, 3 and 5 ranks; then the tests of the kernels
# once more, with every index of an array checked. Goes on after a failure and lists the failures at
# the end.
#
#   bash jobs/test.sh                      everything
#   bash jobs/test.sh --quick              some tests of every package, in less than a minute
#   bash jobs/test.sh -k kernels -x        arguments go to every pytest
#   bash jobs/test.sh tests/unit/run/test_frame_dataset.py   some tests
#   bash jobs/test.sh --bounds ...         with a build that checks every index of an array
#   bash jobs/test.sh --sanitize ...       the same with AddressSanitizer and UBSan (gcc)
#
# RANKS="1 2" for other numbers of ranks, WORKERS=1 for one test file at a time (default: 6, of which
# some wait, and fewer if less than 2 GB of memory are free for each; 2 with --quick). The last
# line is "N passed, N failed", in which a check of the style counts as one. The status is 0 if
# nothing failed and at least one test ran. See docs/testing.md.
#
# A test that hangs fails by its name, and the others go on; nothing limits the whole. The limits
# grow with the load of the machine, and with XFELMPI_TEST_PATIENCE=5 (tests/conftest.py).
#
# Without TMPDIR, and with 18 GB of memory free, files of tests go to /dev/shm instead of the disk.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

build=release quick=0
case ${1:-} in
-h | --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}" && exit 0 ;;
--bounds | --sanitize) build=${1#--} && shift ;;
--quick) quick=1 && shift ;;
esac
bash "$ROOT/jobs/setup.sh" --tests
load_site
use_venv
limit_threads
prepare_mpi 5 # also for the tests that call mpirun themselves
# Where setup.sh installs Slurm and Chromium, their tests must not be skipped.
if [[ $(id -u) == 0 && -r /etc/debian_version ]]; then
    export XFELMPI_TEST_SLURM=1 XFELMPI_TEST_DAMNIT=1 XFELMPI_TEST_BROWSER=1 XFELMPI_TEST_PIP=1 XFELMPI_TEST_CATALOGUE=1
fi
cd -- "$ROOT"
# pytest keeps what it makes of the tests' assertions, which takes five seconds for each process
unset PYTHONDONTWRITEBYTECODE
# in_memory: whether there is much more memory than 6 workers need, and a file system in it.
in_memory() {
    local free room
    free=$(awk '/^MemAvailable/ { print int($2 / 1e6) }' /proc/meminfo)
    room=$(df -Pk /dev/shm 2>/dev/null | awk 'NR == 2 { print int($4 / 1e6) }')
    ((free >= 18 && ${room:-0} >= 8))
}

# Small jobs spend a quarter of their time on files; memory takes them in a third of that.
scratch=
if [[ -z ${TMPDIR:-} ]] && in_memory; then
    scratch=$(mktemp -d /dev/shm/xfelmpi-tests.XXXX)
    chmod 1777 -- "$scratch" # as /tmp is
    export TMPDIR=$scratch
fi
results=$(mktemp -d)
# what runs in the background does not get what is typed
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf -- "$results" ${scratch:+"$scratch"}' EXIT
passed=0 failed=0 tests_run=0
failures=()

# Seconds without a result, on a quiet machine: what hangs outside of any test.
readonly IDLE=600

# The tests that reach the kernels soonest; none of them is a whole job or a program in C.
readonly KERNEL_TESTS=(tests/unit/kernels tests/unit/io/test_chunk_index.py
    tests/unit/calibration/test_{calibration_constants,pixel_mask}.py
    tests/unit/run/test_{frame_dataset,frame_masks}.py tests/unit/workflows/test_cell_sums.py
    --deselect=tests/unit/kernels/test_properties.py::test_whole_jobs
    --deselect=tests/unit/kernels/test_{sparse_inflate,kernel_loops}.py::test_fuzz)

style() {
    say "" && say "=== $*"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        failures+=("$*")
    fi
}

# count LABEL STATUS FOLDER: adds up what the processes of a phase left in FOLDER/*.results.
count() {
    local label=$1 status=$2 counted good bad name names
    counted=$(python tests/helpers/count_results.py "$3")
    { read -r good bad && mapfile -t names; } <<<"$counted"
    passed=$((passed + good)) failed=$((failed + bad)) tests_run=$((tests_run + good + bad))
    for name in "${names[@]}"; do failures+=("$label: $name"); done
    # 5: no tests were selected, which is no failure for somebody who asked for a subset.
    if ((status != 0 && bad == 0)) && ! ((status == 5 && ${#arguments[@]})); then
        failed=$((failed + 1))
        ((status == 124)) && status="124, hung between two tests"
        failures+=("$label: status $status")
    fi
}

arguments=("$@")
named_paths=0
for argument in "$@"; do
    if [[ -e ${argument%%::*} ]]; then named_paths=1; fi
done

# What stands before the command of a phase, and what its pytest leaves out.
environment=()
left_out=()

# make_build NAME: makes a build of its own, below .venv.
make_build() {
    local folder=$VENV/builds/$1 options=(-Dbounds_checks=true) option settings=() flags=${CFLAGS:-}
    if [[ $1 == sanitize ]]; then
        # Of an optimised build, debugging symbols.
        options+=('-Db_sanitize=address,undefined' -Db_lundef=false -Dbuildtype=debugoptimized)
    else
        # Compiled in two thirds of the time; its tests take as long. No option: of several, pip before
        # 23.1 takes the last one.
        flags+=" -O1"
    fi
    for option in "${options[@]}"; do settings+=("--config-settings=setup-args=$option"); done
    say "" && say "=== building with ${options[*]}"
    rm -rf -- "$folder" # the folder beside it, which compiles only what has changed, stays
    CFLAGS=$flags python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps \
        --target "$folder" --config-settings=build-dir="$folder.build" "${settings[@]}" "$ROOT"
}

# prepare: what phases need later.
prepare() {
    make_build bounds || return
    # what pytest makes of the tests' assertions, which every worker of a new folder would make; what
    # fails here fails again where it is shown
    [[ -e tests/unit/kernels/__pycache__ ]] || python -m pytest -q --collect-only -m "$markers" >/dev/null || true
}

# use_build NAME: has the phases from here on import this build.
use_build() {
    local folder=$VENV/builds/$1
    # Instructions are counted in the release build.
    left_out=(--ignore=tests/unit/kernels/test_instructions.py)
    if [[ $1 == sanitize ]]; then
        # Python leaks by design, and Chromium and Slurm's daemons cannot have the sanitizers loaded
        # into them, which take memory of their own.
        left_out+=(--ignore=tests/jobs/test_browser.py --ignore=tests/cluster
            --deselect=tests/unit/run/test_run_index.py::test_memory_of_a_long_run)
        environment=(env "LD_PRELOAD=$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so)"
            "ASAN_OPTIONS=detect_leaks=0:handle_segv=0:suppressions=$ROOT/tests/helpers/asan_suppressions.txt"
            UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
            "XFELMPI_TEST_PATIENCE=${XFELMPI_TEST_PATIENCE:-5}")
    fi
    export PYTHONPATH=$folder
    "${environment[@]}" python tests/helpers/which_build.py "$folder" "$1"
}

# What runs a command as long as it leaves results in a folder.
readonly watched=(python tests/helpers/watch_results.py)

# What pytest takes for the results to be counted, and which tests run in one process.
readonly recorded=(-p record_results)
markers="not mpi"
files=()
if ((quick)); then
    markers="quick or not (mpi or job or cluster or browser or slow)"
    # what has none of these is not even imported
    ((named_paths)) || mapfile -t files < <(printf '%s\n' tests/{unit,project} && grep -l mark.quick tests/jobs/*.py)
fi

# workers: how many test files at a time.
workers() {
    local most=$(($(cpus) < 2 ? 1 : 6 - 4 * quick)) fit
    fit=$(awk '/^MemAvailable/ { print int($2 / 2e6) }' /proc/meminfo)
    echo $((fit < 1 ? 1 : fit < most ? fit : most))
}

# space: what a phase that fails for want of it should have said.
space() {
    awk '/^MemAvailable/ { printf "memory free: %.1f GB, ", $2 / 1e6 }' /proc/meminfo
    df -Pk "${TMPDIR:-/tmp}" | awk 'NR == 2 { printf "disk free: %.1f GB\n", $4 / 1e6 }'
}

# single LABEL ARGUMENTS...: in one process, or in several if all tests are run, whole files each.
single() {
    local label=$1 folder=$results/single-$1 status=0 workers=()
    shift
    if ((${#arguments[@]} == 0)); then
        # in the order of the folders: whole jobs first, many short files at the end
        workers=(-n "${WORKERS:-$(workers)}" --dist loadfile --no-loadscope-reorder)
    fi
    [[ -t 1 ]] && workers+=(--color=yes)
    say "" && say "=== pytest, $label ($(space))"
    mkdir -p "$folder"
    "${environment[@]}" "${watched[@]}" "$folder" "$IDLE" python -m pytest -m "$markers" "${recorded[@]}" \
        --results="$folder/all.results" "${workers[@]}" "${left_out[@]}" \
        "$@" "${arguments[@]}" | tee "$folder/pytest.out" || status=$?
    count "$label" "$status" "$folder"
    ((${#arguments[@]})) || python tests/helpers/slow_files.py "$folder"
    if grep -q ^INTERNALERROR "$folder/pytest.out"; then
        failures+=("$label: pytest itself failed ($(space)):"
            "$(grep -E '^INTERNALERROR> +(E |[A-Za-z.]+(Error|Exception|Exit|Interrupt)\b)' "$folder/pytest.out" | tail -n 5)")
    fi
}

# start_ranks LABEL RANKS: in the background, each rank with its own report and output.
start_ranks() {
    local folder=$results/$1-$2 paths=(tests/mpi)
    ((named_paths)) && paths=()
    mkdir -p "$folder"
    # shellcheck disable=SC2016
    exec "${environment[@]}" "${watched[@]}" "$folder" "$IDLE" "$MPIRUN" -n "$2" bash -c '
        export RANK=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}
        exec python -m pytest --results="$0/rank$RANK.results" --basetemp="$0/tmp$RANK" \
            "$@" >"$0/rank$RANK.out" 2>&1' \
        "$folder" --with-mpi -m mpi "${recorded[@]}" -p no:cacheprovider \
        "${paths[@]}" "${arguments[@]}" >"$folder/mpirun.out" 2>&1 </dev/null &
    started[$2]=$!
}

# wait_for_ranks LABEL RANKS: what came of them.
wait_for_ranks() {
    local label=$1 ranks=$2 folder=$results/$1-$2 status=0 file
    say "" && say "=== pytest on $ranks ranks, $label"
    wait "${started[$ranks]}" || status=$?
    if ((status == 0 || status == 5)); then
        tail -n 1 "$folder/rank0.out" || true
    else
        for file in "$folder"/mpirun.out "$folder"/rank*.out; do
            say "--- ${file##*/}" && tail -n 150 -- "$file"
        done
    fi
    count "$ranks ranks, $label" "$status" "$folder"
}
started=()

# on_ranks LABEL RANKS...: one after the other, or all at a time because ranks often wait.
on_ranks() {
    local label=$1 ranks together=$((${WORKERS:-$(workers)} > 1))
    shift
    for ranks in "$@"; do
        start_ranks "$label" "$ranks"
        ((together)) || wait_for_ranks "$label" "$ranks"
    done
    ((together)) || return 0
    for ranks in "$@"; do wait_for_ranks "$label" "$ranks"; done
}

whole=0 building='' built=0
if [[ $build == release ]] && ((!quick && ${#arguments[@]} == 0)); then
    whole=1
    # beside the checks of the style, each of which uses one processor
    prepare >"$results/build.out" 2>&1 </dev/null &
    building=$!
fi
style python -m ruff check --no-cache .
style python -m ruff format --check .
style cython-lint cython
style codespell --skip=.git,.venv,build,demo .
style env PYTHONPATH=src lint-imports
style python -m mypy
if [[ $build != release ]]; then
    make_build "$build"
    use_build "$build"
fi
if ((whole)); then
    wait "$building" || built=$?
    cat "$results/build.out"
    ((built == 0))
fi
single "$build" "${files[@]}"
if ((!quick)); then
    # shellcheck disable=SC2086
    on_ranks "$build" ${RANKS:-1 2 3 5}
fi
if ((whole)); then
    use_build bounds
    single bounds "${KERNEL_TESTS[@]}"
    on_ranks bounds 3
fi

say ""
if ((${#failures[@]})); then
    say "Failed:"
    printf '  %s\n' "${failures[@]}"
fi
((tests_run)) || say "No tests ran."
say "$passed passed, $failed failed"
((failed == 0 && tests_run > 0))
