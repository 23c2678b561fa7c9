#!/usr/bin/env bash
# Runs a training command, and starts it again if its exit code asks for a restart.
#
#     launch/restart.sh [--print] [--hand-over] COMMAND ... --workdir=DIR ...
#
# 75 (preempted and saved)     starts again at once; with --hand-over it ends the loop with 75, for
#                              a scheduler that starts the job again itself
# 70, 71, killed by a signal   starts again after a pause that doubles each time, at most
#                              RESTART_LIMIT times without a newer valid checkpoint
# anything else                ends the loop with that code
#
# SIGTERM, SIGHUP and Ctrl-C are passed to the command as SIGTERM. The loop ends when the command
# has ended, with 75 if it would have started the command again.
#
# Settings: RESTART_LIMIT (default 5) and RESTART_PAUSE (the first pause in seconds, default 10).
# --print shows the command and runs nothing.
set -uo pipefail

limit=${RESTART_LIMIT:-5}
first_pause=${RESTART_PAUSE:-10}
longest_pause=600

say() {
    echo "restart: $*" >&2
}

print='' hand_over='' workdir=''
while [[ ${1-} == --print || ${1-} == --hand-over ]]; do
    if [[ $1 == --print ]]; then print=1; else hand_over=1; fi
    shift
done
for argument in "$@"; do
    if [[ $argument == --workdir=?* ]]; then workdir=${argument#--workdir=}; fi
done
if [[ -z $workdir ]]; then
    say "--workdir=DIR is missing: a restart goes on only in a workdir that has a name"
    exit 78
fi
if [[ -n $print ]]; then
    printf '%q ' "$@"
    echo
    exit
fi

if [[ $workdir == gs://* ]] && ! command -v gcloud >/dev/null; then
    say "gcloud is not installed: progress in $workdir is not seen, and every failure counts"
fi

newest_step() {
    # A step is valid when its manifest exists.
    case $workdir in
        gs://*) gcloud storage ls "$workdir/checkpoints/*/manifest.json" ;;
        *) find "$workdir/checkpoints" -mindepth 2 -maxdepth 2 -name manifest.json ;;
    esac 2>/dev/null | xargs -n1 dirname 2>/dev/null | sed 's|/*$||; s|.*/||' | grep -xE '[0-9]+' | sort -n | tail -n 1
}

child='' stopping='' interrupted=''
stop() {
    stopping=1 interrupted=1
    if [[ -n $child ]]; then kill -TERM "$child" 2>/dev/null; fi
}
trap stop TERM INT HUP
# A closed output must not end the run.
trap '' PIPE

# The command runs in the background, because a shell runs its traps only while it waits.
run() {
    "$@" &
    child=$!
    if [[ -n $stopping ]]; then kill -TERM "$child" 2>/dev/null; fi
    interrupted=''
    wait "$child"
    local code=$?
    # A signal ends `wait`, but not the command, which may still be saving.
    while [[ -n $interrupted ]]; do
        interrupted=''
        wait "$child"
        code=$?
    done
    child=''
    return "$code"
}

step=$(newest_step)
failures=0
pause=$first_pause
while true; do
    run "$@"
    code=$?
    # The most common signals are those of a lost peer (134, from JAX) and lack of memory (137).
    if [[ $code -ne 70 && $code -ne 71 && $code -ne 75 && $code -le 128 ]]; then exit "$code"; fi
    if [[ -n $stopping ]]; then
        say "stopped (exit code $code); the same command goes on from the newest checkpoint"
        exit 75
    fi
    if [[ $code -eq 75 ]]; then
        if [[ -n $hand_over ]]; then exit 75; fi
        say "exit code 75: starting again"
        continue
    fi

    before=$step
    step=$(newest_step)
    if [[ ${step:--1} -gt ${before:--1} ]]; then
        failures=0
        pause=$first_pause
    fi
    if [[ $failures -ge $limit ]]; then
        say "exit code $code: giving up after $limit restarts without a checkpoint newer than" \
            "${step:-none} in $workdir"
        exit "$code"
    fi
    failures=$((failures + 1))
    say "exit code $code: starting again in $pause s" \
        "(restart $failures of $limit; newest checkpoint: ${step:-none})"
    run sleep "$pause"
    if [[ -n $stopping ]]; then exit 75; fi
    pause=$((pause * 2 < longest_pause ? pause * 2 : longest_pause))
done
