#!/usr/bin/env bash
# The whole program on this machine, with nothing given: sets up, simulates run 50 into ./demo/ of
# the project, processes it with mpirun and compares what was found with what was simulated.
#
#   bash jobs/demo.sh            RANKS=4 TRAINS=4 CELLS=64 bash jobs/demo.sh
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

bash "$ROOT/jobs/setup.sh"
load_site
use_venv
limit_threads
ranks=${RANKS:-2} trains=${TRAINS:-16} cells=${CELLS:-352}
geometry=demo/scratch/det/agipd.geom
prepare_mpi "$ranks"
cd -- "$ROOT"

say ""
say "Simulating run 50 on $ranks ranks: $trains trains of $cells cells, 16 modules"
rm -rf -- demo
"$MPIRUN" -n "$ranks" python -m xfelmpi simulate 50 --prefix demo --trains "$trains" --cells "$cells"

say ""
say "Processing it: $MPIRUN -n $ranks python -m xfelmpi 50 --prefix demo --geometry $geometry"
# 3: complete, but some input was excluded; the comparison shows what that means.
"$MPIRUN" -n "$ranks" python -m xfelmpi 50 --prefix demo --geometry "$geometry" || (($? == 3))

say ""
python jobs/demo_summary.py demo 50
