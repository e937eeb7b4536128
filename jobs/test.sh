#!/usr/bin/env bash
# Sets up, then checks the style of the sources and runs all the tests: in one process, and those
# of tests/mpi on 1, 2, 3 and 5 ranks. Goes on after a failure and lists the failures at the end.
#
#   bash jobs/test.sh                      everything
#   bash jobs/test.sh -k kernels -x        arguments go to every pytest
#   bash jobs/test.sh tests/test_read.py   a quick subset
#
# RANKS="1 2" for other numbers of ranks. The last line is "N passed, N failed", in which a check of
# the style counts as one. The status is 0 if nothing failed and at least one test ran.
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

bash "$ROOT/jobs/setup.sh" --tests
load_site
use_venv
limit_threads
prepare_mpi 5 # also for the tests that call mpirun themselves
# Where setup.sh installs Slurm and Chromium, their tests must not be skipped.
if [[ $(id -u) == 0 && -r /etc/debian_version ]]; then
    export XFELMPI_TEST_SLURM=1 XFELMPI_TEST_BROWSER=1
fi
cd -- "$ROOT"
results=$(mktemp -d)
trap 'rm -rf -- "$results"' EXIT
passed=0 failed=0 tests_run=0
failures=()

# Seconds: a deadlock of the ranks must not last for ever.
readonly SINGLE_LIMIT=1800 MPI_LIMIT=300

style() {
    say "" && say "=== $*"
    if "$@"; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        failures+=("$*")
    fi
}

# count LABEL STATUS FOLDER: adds up the results that the ranks of a phase left in FOLDER/*.xml.
count() {
    local label=$1 status=$2 counted good bad name names
    counted=$(python tests/count_results.py "$3")
    { read -r good bad && mapfile -t names; } <<<"$counted"
    passed=$((passed + good)) failed=$((failed + bad)) tests_run=$((tests_run + good + bad))
    for name in "${names[@]}"; do failures+=("$label: $name"); done
    # 5: no tests were selected, which is no failure for somebody who asked for a subset.
    if ((status != 0 && bad == 0)) && ! ((status == 5 && ${#arguments[@]})); then
        failed=$((failed + 1))
        ((status == 124)) && status="124, took too long"
        failures+=("$label: status $status")
    fi
}

arguments=("$@")
named_paths=0
for argument in "$@"; do
    if [[ -e ${argument%%::*} ]]; then named_paths=1; fi
done

# In one process, then on several ranks, each with its own report and output.
single() {
    local status=0
    say "" && say "=== pytest"
    mkdir -p "$results/single"
    timeout --kill-after=30 "$SINGLE_LIMIT" python -m pytest -m "not mpi" -o faulthandler_timeout=600 \
        --junitxml="$results/single/rank0.xml" "${arguments[@]}" || status=$?
    count pytest "$status" "$results/single"
}

on_ranks() {
    local ranks=$1 folder=$results/$1 status=0 file paths=(tests/mpi)
    ((named_paths)) && paths=()
    mkdir -p "$folder"
    say "" && say "=== pytest on $ranks ranks"
    # shellcheck disable=SC2016
    timeout --kill-after=30 "$MPI_LIMIT" mpirun -n "$ranks" bash -c '
        export RANK=${OMPI_COMM_WORLD_RANK:-${PMI_RANK:-0}}
        exec python -m pytest --junitxml="$0/rank$RANK.xml" "$@" >"$0/rank$RANK.out" 2>&1' \
        "$folder" --with-mpi -m mpi -o faulthandler_timeout=240 -p no:cacheprovider \
        "${paths[@]}" "${arguments[@]}" >"$folder/mpirun.out" 2>&1 || status=$?
    if ((status == 0 || status == 5)); then
        tail -n 1 "$folder/rank0.out" || true
    else
        for file in "$folder"/mpirun.out "$folder"/rank*.out; do
            say "--- ${file##*/}" && tail -n 150 -- "$file"
        done
    fi
    count "$ranks ranks" "$status" "$folder"
}

style python -m ruff check .
style python -m ruff format --check .
style cython-lint cython
style codespell --skip=.git,.venv,build,demo .
single
for ranks in ${RANKS:-1 2 3 5}; do
    on_ranks "$ranks"
done

say ""
if ((${#failures[@]})); then
    say "Failed:"
    printf '  %s\n' "${failures[@]}"
fi
((tests_run)) || say "No tests ran."
say "$passed passed, $failed failed"
((failed == 0 && tests_run > 0))
