#!/usr/bin/env bash
# Measures the program against its targets, and shows them side by side; half an hour on 2 cores.
# Simulates its runs into FOLDER (a few GB) unless they are there. The table goes to FOLDER/benchmark.csv
# as well. Nothing else should run meanwhile.
#
#   bash jobs/benchmark.sh FOLDER             REPEATS=3 bash jobs/benchmark.sh FOLDER
#   bash jobs/benchmark.sh --long FOLDER      a run of 10⁶ frames instead (15 GB)
#   bash jobs/benchmark.sh --peers FOLDER     against EXtra-redu and a pipeline of scripts instead
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

what=all
case ${1:-} in --long | --peers) what=${1#--} && shift ;; esac
folder=${1:?usage: bash jobs/benchmark.sh [--long | --peers] FOLDER}
repeats=${REPEATS:-5}
mkdir -p -- "$folder"
folder=$(cd -- "$folder" && pwd)
load_site
use_venv
limit_threads
prepare_mpi 16
export BENCHMARK_CSV=$folder/benchmark.csv
programs=$ROOT/tests/benchmarks
printf 'what,value,unit,target\n' >"$BENCHMARK_CSV"

say "machine: $(cpus) CPUs, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo)"
say "date: $(date -u +%Y-%m-%d), commit: $(git -C "$ROOT" rev-parse --short HEAD)"
case $what in
long) python "$programs/long_run.py" "$folder/long" "$repeats" ;;
peers) python "$programs/peers.py" "$folder/peers" "$repeats" ;;
all)
    python "$programs/pass_floor.py" "$folder/pass" 16 352 libdeflate zlib
    python "$programs/pass_floor.py" "$folder/plain" 4 64 u2 f4 u2-plain f4-plain
    "$MPIRUN" -n 2 python "$programs/raw_pass.py" "$folder/raw"
    python "$programs/write_hits.py" "$folder/hits" 2000 "$repeats"
    python "$programs/index_run.py" "$folder/index" "$repeats"
    python "$programs/mask_layouts.py" "$folder/masks" "$repeats"
    python "$programs/rethreshold.py" "$folder/again" 2 64 "$repeats"
    python "$programs/whole_job.py" "$folder/jobs" "$repeats" 16 64 256
    if type perf >/dev/null 2>&1; then
        python "$programs/microsecond.py" "$folder/microsecond" "$folder/microsecond.svg"
    else
        say "no perf here: $folder/microsecond.svg is not drawn"
    fi
    ;;
esac

say ""
say "All together (also in $BENCHMARK_CSV):"
python "$programs/bench.py" "$BENCHMARK_CSV"
