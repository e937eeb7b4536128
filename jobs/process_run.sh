#!/usr/bin/env bash
#SBATCH --job-name=xfelmpi
#SBATCH --partition=upex
#SBATCH --nodes=1
#SBATCH --exclusive
#SBATCH --time=02:00:00
#SBATCH --signal=TERM@60
#SBATCH --requeue
#SBATCH --open-mode=append
#
# Processes one run: under Slurm with srun, elsewhere with mpirun. From any folder:
#
#   sbatch jobs/process_run.sh RUN [options of xfelmpi]
#   sbatch --array=50-60 jobs/process_run.sh [options]      one run per array task
#   bash jobs/process_run.sh RUN [options]
#   sbatch jobs/process_run.sh darks RUN [RUN RUN] [options of xfelmpi darks]
#
# EXP_PREFIX names the experiment folder (or --prefix). The log is OUTPUT/log/r0050_<job>.log; what
# goes wrong before that folder is known stands where Slurm puts output, slurm-<job>.out in the folder
# of the sbatch, which is removed when it stayed empty. A --output given to sbatch is left alone.
# RANKS is the number of ranks (default: the job's --ntasks, else one per core); XFELMPI_ROOT names
# the project if it cannot be found. The exit status is the program's: 0 complete, 3 complete but
# some input was excluded, 2 wrong use or unusable input, 1 a bug, 143 stopped; 75 ranks that Slurm
# failed to start, also when asked again. The last line of the log tells it: "xfelmpi 50 done, status 0".
#
# 60 s before the time limit Slurm sends SIGTERM to the ranks (--signal above; another --time may be
# given to sbatch, and another --signal, but none with B:, which this script alone would get). They
# write down what they have read and end; so does the log, with the command that continues:
# sbatch jobs/process_run.sh RUN --resume. A job that Slurm puts back into its queue, because it was
# preempted or its node failed, continues by itself.
#
# XFELMPI_RESULT names a file for whoever submitted the job: "job NUMBER" when it begins, "end STATUS"
# when it ends. Of two jobs with the same file only the first does anything.
set -euo pipefail

# Slurm runs a copy of this script from a folder of its own.
find_root() {
    local command='' folder
    if [[ -n ${SLURM_JOB_ID:-} ]]; then
        command=$(scontrol show job "$SLURM_JOB_ID" 2>/dev/null |
            sed -n 's|^ *Command=\(/.*\)/jobs/process_run\.sh.*|\1|p' | head -n 1) || true
    fi
    for folder in "${XFELMPI_ROOT:-}" "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." \
        "$command" "${SLURM_SUBMIT_DIR:-}" "${SLURM_SUBMIT_DIR:-}/.."; do
        if [[ -n $folder && -r $folder/jobs/common.sh ]]; then
            printf '%s\n' "$folder" && return
        fi
    done
    printf 'process_run.sh: the project was not found; name its folder with XFELMPI_ROOT\n' >&2
    return 2
}

root=$(find_root)
# shellcheck source=jobs/common.sh
source "$root/jobs/common.sh"

usage() {
    die "$*
usage: process_run.sh RUN [options of xfelmpi]
       sbatch --array=FIRST-LAST process_run.sh [options of xfelmpi]"
}

command=()
if [[ ${1:-} == darks ]]; then
    [[ ${2:-} =~ ^[rR]?([0-9]+) ]] || usage "found '${2:-nothing}' after darks, expected a run number"
    command=(darks) run=$((10#${BASH_REMATCH[1]}))
    shift
elif [[ ${1:-} =~ ^[rR]?([0-9]+)$ ]]; then
    run=$((10#${BASH_REMATCH[1]}))
    command=("$run")
    shift
    # All tasks of the array would write the same files.
    [[ -z ${SLURM_ARRAY_TASK_ID:-} ]] || usage "found run $run in an array job, which has a run per task"
elif [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    command=("$SLURM_ARRAY_TASK_ID") run=$SLURM_ARRAY_TASK_ID
else
    usage "found '${1:-nothing}', expected a run number"
fi

# begin_result: whether this job is the first one of its result file, or the same one again.
begin_result() {
    local job=${SLURM_JOB_ID:-$$} owner=''
    [[ -n ${XFELMPI_RESULT:-} ]] || return 0
    [[ -n ${SLURM_JOB_ID:-} ]] || job="$$ $(uname -n)"
    mkdir -p -- "${XFELMPI_RESULT%/*}"
    if ! (set -o noclobber && printf 'job %s\n' "$job" >"$XFELMPI_RESULT") 2>/dev/null; then
        IFS= read -r owner <"$XFELMPI_RESULT" || true
        [[ -z $owner || $owner == "job $job" ]] || return 1
        printf 'job %s\n' "$job" >>"$XFELMPI_RESULT"
    fi
}

if ! begin_result; then
    say "nothing to do: $(head -n 1 -- "$XFELMPI_RESULT") does it ($XFELMPI_RESULT)"
    exit 0
fi

# finish STATUS: the last line of the log.
finish() {
    if [[ -n ${XFELMPI_RESULT:-} ]]; then printf 'end %d\n' "$1" >>"$XFELMPI_RESULT"; fi
    say "xfelmpi $run done, status $1"
}
trap 'finish $?' EXIT
# Else the shell would end with the status of its last command, which is 0 before the program runs.
for name in HUP INT USR1 TERM; do
    # shellcheck disable=SC2064
    trap "exit $((128 + $(kill -l "$name")))" "$name"
done

load_site
use_venv
limit_threads

# Where the outputs go, by the program's rules: the command line, then --config, then EXP_PREFIX.
# Nothing if the experiment folder does not exist: the program explains that itself.
output_folder() {
    python - "$@" 2>/dev/null <<'PYTHON'
import argparse
import os
import sys
import tomllib
from pathlib import Path

parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
for option in ("--prefix", "--output", "--config"):
    parser.add_argument(option)
given = parser.parse_known_args()[0]
config = tomllib.loads(Path(given.config).read_text("utf-8")) if given.config else {}
prefix = Path(given.prefix or config.get("prefix") or os.environ["EXP_PREFIX"])
if prefix.is_dir():
    output = Path(given.output or config.get("output") or prefix / "scratch")
    sys.stdout.write(str(output.absolute()))
PYTHON
}

# move_log FOLDER: from here on into FOLDER/log, if the output still goes where Slurm puts it.
move_log() {
    local first
    first=$(readlink -f "/proc/$$/fd/1") || return 0
    [[ -n $1 && ${first##*/} == slurm-*.out ]] || return 0
    mkdir -p -- "$1/log" || return 0
    # it may be that of a colleague
    chmod a+rx -- "$1/log" 2>/dev/null || true
    log=$1/log/$(printf 'r%04d_%s.log' "$run" "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}")
    if : >>"$log"; then
        exec >>"$log" 2>&1
        [[ -s $first ]] || rm -f -- "$first"
    fi
}

# explain_status STATUS: what a quiet mpirun leaves out, and the program could not say.
explain_status() {
    case $1 in
    13[45679]) say "process_run.sh: a rank was killed by SIG$(kill -l $(($1 - 128))), status $1" >&2 ;;
    0 | 2 | 3 | 129 | 130 | 138 | 143) ;;
    *) say "process_run.sh: status $1; OMPI_MCA_orte_execute_quiet=0 shows what mpirun says" >&2 ;;
    esac
}

# For the log: how a stopped job is continued.
launcher() { printf '%s %q' "$1" "$root/jobs/process_run.sh"; }

if [[ -z ${SLURM_JOB_ID:-} ]]; then
    XFELMPI_LAUNCHER=$(launcher bash)
    export XFELMPI_LAUNCHER
    # A rank ends within a block of frames, of which one of raw data takes longer than a second.
    export OMPI_MCA_odls_base_sigkill_timeout=${OMPI_MCA_odls_base_sigkill_timeout:-30}
    export PRTE_MCA_odls_base_sigkill_timeout=${PRTE_MCA_odls_base_sigkill_timeout:-30}
    # Else Open MPI adds lines of its own to every message of ours (docs/decisions/mpirun-messages.md).
    export OMPI_MCA_orte_execute_quiet=${OMPI_MCA_orte_execute_quiet:-1}
    ranks=${RANKS:-$(cpus)}
    prepare_mpi "$ranks"
    # mpirun in a process group of its own: who signals this script, or types Ctrl-C, reaches it once
    set -m
    "$MPIRUN" -n "$ranks" python -m xfelmpi "${command[@]}" "$@" </dev/null &
    child=$!
    set +m
    for name in TERM INT HUP USR1; do
        # shellcheck disable=SC2064
        trap "kill -s $name -- -$child 2>/dev/null || true" "$name"
    done
    status=0
    while kill -0 "$child" 2>/dev/null; do
        status=0
        wait "$child" || status=$?
    done
    explain_status "$status"
    exit "$status"
fi

# Slurm has begun the job again: what it had read before need not be read again.
if ((${SLURM_RESTART_COUNT:-0} > 0)) && [[ ${command[0]} != darks ]] &&
    [[ " $* " != *" --resume "* && " $* " != *" --from-events "* ]]; then
    set -- "$@" --resume
fi

output=$(output_folder "$@" || true)
move_log "$output"

# One rank per core of the nodes, unless the job says how many.
per_core=$(LC_ALL=C lscpu 2>/dev/null | sed -n 's/^Thread(s) per core: *//p')
per_node=$((${SLURM_CPUS_ON_NODE:-1} / ${per_core:-1} / ${SLURM_CPUS_PER_TASK:-1}))
per_node=${SLURM_NTASKS_PER_NODE:-$((per_node > 0 ? per_node : 1))}
ranks=${RANKS:-${SLURM_NTASKS:-$((per_node * ${SLURM_JOB_NUM_NODES:-1}))}}
prepare_mpi "$((ranks / ${SLURM_JOB_NUM_NODES:-1}))"
XFELMPI_LAUNCHER=$(launcher sbatch)
export XFELMPI_LAUNCHER
say "$(date '+%F %T') job $SLURM_JOB_ID, run $run, $ranks ranks on ${SLURM_JOB_NODELIST:-$(hostname)}"

# writes_outputs OPTIONS: whether a successful job writes a new events file.
writes_outputs() {
    local option
    for option; do
        case $option in -h | --help | --dry-run) return 1 ;; esac
    done
}

# Tells whether the events file is another one than before, whatever the clocks of the nodes say.
events=$output/events/$(printf 'r%04d_events.h5' "$run")
events_stamp() { stat -c '%i %.9Y' -- "$events" 2>/dev/null || true; }

before=$(events_stamp)
# Slurm signals srun, too: this shell has to see how it ends.
stopped=0
for name in HUP INT USR1 TERM; do
    # shellcheck disable=SC2064
    trap "stopped=$((128 + $(kill -l "$name")))" "$name"
done
# Slurm's own errors, such as a job that has just been put back into the queue, whose step of before
# is not over yet. The program has no such status.
readonly NOT_STARTED=75
for pause in 2 4 8 ''; do
    status=0
    SLURM_EXIT_ERROR=$NOT_STARTED srun --mpi=pmix --kill-on-bad-exit=1 --ntasks="$ranks" \
        --cpus-per-task="${SLURM_CPUS_PER_TASK:-1}" \
        python -m xfelmpi "${command[@]}" "$@" || status=$?
    if ((status != NOT_STARTED || stopped)) || [[ -z $pause ]]; then break; fi
    say "Slurm did not start the ranks; once more in $pause s"
    sleep "$pause" || true
    if ((stopped)); then break; fi
done
if ((status == NOT_STARTED && stopped)); then exit "$stopped"; fi
# When Slurm fails to start the ranks, srun may return 0 all the same.
if ((status == 0 || status == 3)) && [[ -n $output && ${command[0]} != darks ]] &&
    writes_outputs "$@" &&
    [[ $(events_stamp) == "$before" ]]; then
    printf 'process_run.sh: srun ended with status %d, but %s was not written: the ranks never ran. %s\n' \
        "$status" "$events" 'See above what Slurm says of it, and submit the job again' >&2
    exit "$NOT_STARTED"
fi
exit "$status"
