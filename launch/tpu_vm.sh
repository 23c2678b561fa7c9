#!/usr/bin/env bash
# Trains on a Cloud TPU slice: creates the slice, installs, trains on all workers, watches, deletes.
#
#     launch/tpu_vm.sh [--print] VERB --name=NAME --zone=ZONE [OPTIONS] [-- TRAINING ARGUMENTS]
#
# create   request the slice as a queued resource and wait      --type=TYPE [--spot] [--runtime=R]
# setup    install the last commit on all workers (uv brings Python 3.12)
# stage    copy the data to /mnt/data on all workers            --data=gs://BUCKET/FOLDER [--mount]
# run      start training on all workers, and return            -- --config=... --workdir=gs://...
# logs     follow a worker's log                                [--worker=N], default 0
# status   print the state of the slice and of each worker
# watch    setup, stage and run if they are not done yet; after a preemption delete the slice and
#          create it again; until training ends. Takes all the options above
# delete   delete the slice and its disks
#
# --spot is cheaper, but the slice can be preempted at any time; without it the slice is on demand.
# --mount reads the bucket through gcsfuse instead of copying it: a worker's disk has 100 GiB.
# --runtime is the software version; the default depends on the type (v2 to v6e).
# --print prints the commands and runs nothing.
# TPU_POLL is the pause between two checks of the slice, in seconds (default 60).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
poll=${TPU_POLL:-60}
uv_version=0.13.9
commit=HEAD

fail() {
    echo "error: $*" >&2
    exit 78
}

# ── Arguments ─────────────────────────────────────────────────────────────────────────────────────
print='' verb='' name='' zone='' type='' spot='' runtime='' data='' mount='' worker=0
while [[ $# -gt 0 && $1 != -- ]]; do
    case $1 in
        --print) print=1 ;;
        --name=?*) name=${1#*=} ;;
        --zone=?*) zone=${1#*=} ;;
        --type=?*) type=${1#*=} ;;
        --spot) spot=1 ;;
        --runtime=?*) runtime=${1#*=} ;;
        --data=gs://?*) data=${1#*=} ;;
        --mount) mount=1 ;;
        --worker=?*) worker=${1#*=} ;;
        create | setup | stage | run | logs | status | watch | delete) verb=$1 ;;
        *) fail "$1 is not known here; training arguments come after --" ;;
    esac
    shift
done
if [[ ${1-} == -- ]]; then shift; fi
training=("$@")

[[ -n $verb ]] ||
    fail "a verb is missing: create, setup, stage, run, logs, status, watch or delete"
[[ -n $name && -n $zone ]] || fail "--name=NAME and --zone=ZONE are needed"
if [[ $verb == create || $verb == watch ]]; then
    [[ -n $type ]] || fail "$verb needs --type=TYPE, such as v5litepod-64"
fi
if [[ $verb == stage ]]; then
    [[ -n $data ]] || fail "stage needs --data=gs://BUCKET/FOLDER"
fi
if [[ $verb == run || $verb == watch ]]; then
    [[ " $* " == *" --workdir=gs://"* ]] ||
        fail "$verb needs --workdir=gs://... after --: workers have no disk in common, and a" \
            "preempted slice takes its disks with it"
fi
if [[ -z $runtime ]]; then
    case $type in
        v6e-*) runtime=v2-alpha-tpuv6e ;;
        v5p-*) runtime=v2-alpha-tpuv5 ;;
        v5litepod-*) runtime=v2-alpha-tpuv5-lite ;;
        v[234]-* | '') runtime=tpu-ubuntu2204-base ;;
        *) fail "--type=$type: its software version is not known here; add --runtime=VERSION" ;;
    esac
fi

# ── How commands are run, and printed ─────────────────────────────────────────────────────────────
# Prints words for a shell, in quotes if they contain special characters.
quote() {
    local word space=''
    for word in "$@"; do
        case $word in
            *[!A-Za-z0-9_./:=,@%+-]* | '') printf "%s'%s'" "$space" "${word//\'/\'\\\'\'}" ;;
            *) printf '%s%s' "$space" "$word" ;;
        esac
        space=' '
    done
}

execute() {
    if [[ -z $print ]]; then
        "$@"
    else
        quote "$@"
        echo
    fi
}

note() {
    echo "# $*"
}

tpus() {
    execute gcloud compute tpus "$@" --zone="$zone" --quiet
}

on_workers() {
    tpus tpu-vm ssh "$name" --worker="$1" --command="$2"
}

# ── Verbs ─────────────────────────────────────────────────────────────────────────────────────────
slice_state() {
    # `list` distinguishes a missing slice (no output) from a failed call (an error).
    tpus queued-resources list --filter="name~/$name\$" --format="value(state.state)"
}

create() {
    note "tear down with: launch/tpu_vm.sh delete --name=$name --zone=$zone"
    local options=(--node-id="$name" --accelerator-type="$type" --runtime-version="$runtime")
    if [[ -n $spot ]]; then options+=(--spot); fi
    tpus queued-resources create "$name" "${options[@]}" || return
    if [[ -n $print ]]; then
        note "every $poll s until it says ACTIVE:"
        slice_state
        return
    fi
    local state=''
    while [[ $state != ACTIVE ]]; do
        sleep "$poll"
        state=$(slice_state) || continue
        note "$name: ${state:-gone}"
        case $state in
            FAILED | '') fail "$name will not come; for the reason: gcloud compute tpus" \
                "queued-resources describe $name --zone=$zone" ;;
            SUSPENDED) return 1 ;;
        esac
    done
}

setup() {
    local archive=${TMPDIR:-/tmp}/fsvfm_jax.tar.gz
    execute git archive --format=tar.gz --output="$archive" "$commit" &&
        tpus tpu-vm scp "$archive" "$name:fsvfm_jax.tar.gz" --worker=all &&
        on_workers all "curl -LsSf https://astral.sh/uv/$uv_version/install.sh | sh \
&& mkdir -p fsvfm_jax && tar -xzf fsvfm_jax.tar.gz -C fsvfm_jax && cd fsvfm_jax \
&& ~/.local/bin/uv venv --clear --python=3.12 && ~/.local/bin/uv pip install -e '.[tpu,gcs]'"
}

stage() {
    local folder="sudo install -d -o \"\$(id -un)\" /mnt/data"
    if [[ -z $mount ]]; then
        on_workers all "$folder && gcloud storage rsync --recursive $data /mnt/data"
        return
    fi
    local path=${data#gs://} apt="sudo apt-get -o DPkg::Lock::Timeout=600 -qq"
    local bucket=${path%%/*} only=''
    if [[ $path == */?* ]]; then only="--only-dir=${path#*/}"; fi
    # Nothing writes to the bucket while training, so the metadata cache does not expire.
    on_workers all "command -v gcsfuse || { \
curl -LsSf https://packages.cloud.google.com/apt/doc/apt-key.gpg \
| sudo tee /usr/share/keyrings/cloud.google.asc >/dev/null \
&& echo \"deb [signed-by=/usr/share/keyrings/cloud.google.asc] \
https://packages.cloud.google.com/apt gcsfuse-\$(lsb_release -cs) main\" \
| sudo tee /etc/apt/sources.list.d/gcsfuse.list && $apt update && $apt install -y gcsfuse; } \
&& { mountpoint -q /mnt/data || { $folder && gcsfuse --implicit-dirs -o ro $only \
--metadata-cache-ttl-secs=-1 --cache-dir=/tmp/gcsfuse --file-cache-max-size-mb=50000 \
$bucket /mnt/data; }; }"
}

run() {
    # A systemd unit outlives the connection, gets SIGTERM when the machine shuts down, and keeps
    # the exit code. With KillMode=mixed only restart.sh gets the signal, and passes it on.
    local clear="sudo systemctl stop fsvfm; sudo systemctl reset-failed fsvfm; true"
    on_workers all "cd fsvfm_jax && { $clear; } 2>/dev/null \
&& sudo systemd-run --unit=fsvfm --remain-after-exit --uid=\$(id -u) \
--working-directory=\$PWD --setenv=PATH=\$PATH --property=KillMode=mixed \
--property=TimeoutStopSec=300 launch/restart.sh .venv/bin/python -m fsvfm_jax.main \
$(quote "${training[@]}")"
}

logs() {
    on_workers "$worker" "sudo journalctl --unit=fsvfm --output=cat --lines=100 --follow"
}

workers_state() {
    on_workers all "systemctl show fsvfm --property=SubState,ExecMainStatus | xargs"
}

# Starts training (again) on an existing slice.
begin() {
    setup && { [[ -z $data ]] || stage; } && run
}

watch() {
    if [[ -n $print ]]; then
        note "every $poll s:"
        status
        note "after a preemption (SUSPENDED):"
        delete
        create
        begin
        return
    fi
    # The whole run uses this commit, even if there are newer ones later.
    commit=$(git rev-parse HEAD)
    local state code failures=0
    while true; do
        state=$(slice_state) || state='not known'
        note "$name: ${state:-gone}"
        code=''
        case $state in
            ACTIVE) code=$(ended "$(workers_state)") ;;
            SUSPENDED) code=lost ;;
            FAILED | '') fail "there is no slice $name to watch any more" ;;
        esac
        if [[ $code == lost ]]; then
            if [[ $state == ACTIVE ]] || { delete && create; } && begin; then
                failures=0
            else
                failures=$((failures + 1))
                note "failed $failures times in a row"
                [[ $failures -lt 5 ]] || code=70
            fi
        fi
        if [[ -n $code && $code != lost ]]; then
            note "ended with exit code $code"
            note "tear down with: launch/tpu_vm.sh delete --name=$name --zone=$zone"
            exit "$code"
        fi
        sleep "$poll"
    done
}

# Prints how training ended, from the workers' states: its exit code; "lost" if a worker shuts down
# (75) or was restarted without the unit; nothing while training runs or no worker answers.
ended() {
    local failed
    failed=$(grep SubState=failed <<<"$1" | grep -o 'ExecMainStatus=[0-9]*' | sort -t= -nk2) || true
    if [[ -n $failed && ${failed##*=} -ne 75 ]]; then
        echo "${failed##*=}"
    elif [[ -n $failed ]] || grep -q SubState=dead <<<"$1"; then
        echo lost
    elif grep -q SubState=exited <<<"$1" && ! grep -q SubState=running <<<"$1"; then
        echo 0
    fi
}

status() {
    slice_state
    workers_state
}

delete() {
    tpus queued-resources delete "$name" --force
}

"$verb"
