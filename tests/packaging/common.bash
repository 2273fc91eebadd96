#!/usr/bin/env bash
# The other half of boot-unshare: one state directory for each guest, the wait for its boot, commands inside it,
# and its end.
#
# STATE (made by mktemp, removed by stop):
#   outer    pid and start time of the process on this machine that holds the guest
#   leader   pid, seen from this machine, of the guest's PID 1
#   log      what the outer process printed
#   cgroup   directories to remove at the end
#   root     mount point of the guest's root, only inside the guest's mount namespace
#   upper    what the guest wrote; with-upper: what it wrote below --with

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

need() {
  local command
  for command; do [[ -n $(type -P "$command") ]] || die "the command '$command' is missing"; done
  ((EUID == 0)) || die "needs root"
}

# The start time tells a process from a later one with the same pid.
started_at() {
  local stat field
  stat=$(<"/proc/$1/stat") && read -ra field <<<"${stat##*) }" && echo "${field[19]}"
} 2>/dev/null

outer_alive() {
  local pid started
  read -r pid started <"$1/outer" && [[ $(started_at "$pid") == "$started" ]]
}

# The guest's PID 1: a process below the outer one that is number 1 in its own pid namespace.
find_leader() {
  local pid child
  for pid in $1 $(pgrep -P "$1"); do
    for child in $(pgrep -P "$pid"); do
      if [[ $(awk '/^NSpid:/ {print NF, $NF}' "/proc/$child/status") == "3 1" &&
            $(<"/proc/$child/comm") == systemd ]]; then
        echo "$child"
        return
      fi
    done
  done
} 2>/dev/null

in_guest() {
  local leader=$1
  shift
  nsenter -t "$leader" -m -p -u -i -n -- env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
    TERM=dumb LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"
}

new_state() {
  local state
  state=$(mktemp -d "${TMPDIR:-/tmp}/x0d-boot.XXXXXX")
  chmod 755 "$state"  # it holds the guest's root directory, which services enter with their own uid
  mkdir "$state"/{root,upper,work,with,with-upper,with-work}
  : >"$state/cgroup"
  echo "$state"
}

check_root() {
  [[ -x $1/lib/systemd/systemd ]] || die "$1: no lib/systemd/systemd in it"
  [[ $1 == /* && $1 != *[,:]* ]] || die "$1: give an absolute path without ',' and ':'"
}

# STATE SECONDS: until systemd in the guest says running or degraded. Polls are counted, not
# seconds: a machine that stood still for a minute has not used up the guest's time.
wait_boot() {
  local state=$1 limit_s=$2 pid leader poll status=none from=$EPOCHREALTIME
  read -r pid _ <"$state/outer"
  for ((poll = 0; poll < limit_s * 10; poll++)); do
    outer_alive "$state" || { limit_s=-1; break; }
    sleep 0.1
    leader=$(find_leader "$pid")
    [[ $leader ]] || continue
    echo "$leader" >"$state/leader"
    status=$(in_guest "$leader" systemctl is-system-running 2>/dev/null) || true
    if [[ $status == running || $status == degraded ]]; then
      awk -v state="$status" -v leader="$leader" -v from="$from" -v now="$EPOCHREALTIME" \
        'BEGIN {printf "%s after %.1f s, leader %d\n", state, now - from, leader}' >&2
      return
    fi
  done
  if ((limit_s < 0)); then
    echo "${0##*/}: the guest ended before it had booted; the end of its log:" >&2
  else
    echo "${0##*/}: no boot within ${limit_s} s (state: ${status:-no answer}); the end of its log:" >&2
  fi
  tail -n 20 "$state/log" >&2
  return 1
}

# STATE SECONDS: whether the guest ended in that time.
ended_within() {
  local poll
  for ((poll = 0; poll < $2 * 10; poll++)); do
    outer_alive "$1" || return 0
    sleep 0.1
  done
  return 1
}

# STATE: ends the guest, by its pid alone, and removes what start made.
end_guest() {
  local state=$1 pid leader directory
  [[ -f $state/outer && -f $state/cgroup ]] || die "$state: not a state directory"
  read -r pid _ <"$state/outer" || true
  if outer_alive "$state"; then
    leader=$(find_leader "$pid")
    # RTMIN+4 asks systemd to power off; it stops every service in order.
    [[ ! $leader ]] || kill -s RTMIN+4 "$leader" || true
    if [[ ! $leader ]] || ! ended_within "$state" "${STOP_S:-30}"; then
      echo "${0##*/}: no clean end, killing the guest" >&2
      # The death of its PID 1 takes every process of the guest along, and that of the outer
      # process takes PID 1 along.
      [[ ! $leader ]] || kill -s KILL "$leader" || true
      kill -s KILL "$pid" 2>/dev/null || true
      ended_within "$state" 5 || echo "${0##*/}: process $pid does not end" >&2
    fi
  fi
  while read -r directory; do
    for _ in {1..50}; do
      [[ -d $directory ]] || break
      find "$directory" -depth -type d -exec rmdir {} + 2>/dev/null && break
      sleep 0.1
    done
    [[ ! -d $directory ]] || echo "${0##*/}: $directory is still in use" >&2
  done <"$state/cgroup"
  rm -rf --one-file-system "$state"
}

# The verbs that both have; STATE is what start printed.
run_verb() {
  local verb=$1 state=${2:-}
  [[ $state && -f $state/outer ]] || die "$verb: '$state' is not a state directory"
  case $verb in
    exec)
      shift 2
      (($#)) || die "exec STATE COMMAND..."
      in_guest "$(<"$state/leader")" "$@" ;;
    stop) end_guest "$state" ;;
  esac
}
