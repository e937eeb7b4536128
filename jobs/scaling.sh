#!/usr/bin/env bash
#SBATCH --job-name=xfelmpi-scaling
#SBATCH --partition=upex
#SBATCH --exclusive
#SBATCH --time=02:00:00
#
# Measures how the main job scales on one run: strong (the whole run) and weak (trains in proportion
# to the ranks). Writes scaling.csv and scaling.png into TARGET.
#
#   sbatch --nodes=4 jobs/scaling.sh TARGET RUN RANKS... [-- options of xfelmpi]
#   bash jobs/scaling.sh /tmp/scaling 50 1 2 4 -- --prefix demo
#
# Under Slurm from the folder of the project, or with XFELMPI_ROOT naming it. EXP_PREFIX names the
# experiment folder (or --prefix), REPEATS how often everything is measured (default 3).
set -euo pipefail

for root in "${XFELMPI_ROOT:-}" "${SLURM_SUBMIT_DIR:-}" "$(dirname -- "${BASH_SOURCE[0]}")/.."; do
    if [[ -n $root && -r $root/jobs/common.sh ]]; then break; fi
done
# shellcheck source=jobs/common.sh
source "$root/jobs/common.sh"

(($# >= 3)) || die "usage: scaling.sh TARGET RUN RANKS... [-- options of xfelmpi]"
load_site
use_venv
limit_threads
most=1
for ranks in "${@:3}"; do
    [[ $ranks != -- ]] || break
    [[ $ranks =~ ^[1-9][0-9]*$ ]] || die "found '$ranks', expected a number of ranks"
    ((ranks <= most)) || most=$ranks
done
prepare_mpi "$((most / ${SLURM_JOB_NUM_NODES:-1}))"
exec python "$ROOT/tests/benchmarks/scaling.py" "$@"
