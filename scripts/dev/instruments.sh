# shellcheck shell=bash
# Shared functions of the measuring scripts: tools, private servers, the release build of the worker, and the
# scenarios. Sourced after lib.sh by scripts/bench, budgets, gate and perf-*; never run.
# shellcheck source-path=SCRIPTDIR/.. source=lib.sh
# Invariant: settings in the caller's environment do not affect what is measured.

# The scenarios, for the callers' help.
# shellcheck disable=SC2034
readonly scenario_names='idle, sweep, probes, notifications'

work=
log=
port=
process=

# prepare_instruments PACKAGE...: builds the worker and the tools, and starts the servers. Sets $work, $log and $port.
prepare_instruments() {
  local variable
  require_swift
  install_missing "${build_packages[@]}" "$@"
  install_servers
  build_worker
  # Pages of a new binary that are not yet on disk would count as dirty.
  sync "$worker_binary"
  work=$(mktemp -d)
  at_end "rm -rf '$work'"
  log=$work/log
  at_end end_worker
  compile measure
  for variable in "${!SB_@}" "${!DATABASE_@}" "${!REDIS_@}" LOG_LEVEL; do unset "$variable"; done
  start_servers
  load_schema
  port=$(free_port)
  export SB_WORKER_LOCAL_ADDR=127.0.0.1:$port
}

# compile NAME OPTION...: compiles scripts/dev/NAME.c to $work/NAME.
compile() {
  local name=$1
  shift
  "$(dirname "$(readlink -f "$(command -v swift)")")/clang" -O2 -Wall -Wextra -Werror -o "$work/$name" \
    "$root/scripts/dev/$name.c" "$@"
}

compile_floor() {
  compile floor -lev -lpq -lhiredis
  sync "$work/floor"
}

# compile_allocations: compiles the allocation counter as a shared object for LD_PRELOAD.
compile_allocations() {
  compile allocations -shared -fPIC
  mv "$work/allocations" "$work/allocations.so"
}

# in_database OPTION...: runs psql as the private server's administrator.
in_database() { psql "${DATABASE_URL/worker:/admin:}" -qXAt -v ON_ERROR_STOP=1 "$@"; }

redis_password() {
  local rest=${REDIS_URL#redis://:}
  printf '%s\n' "${rest%%@*}"
}

# in_redis COMMAND...: runs redis-cli on the private server.
in_redis() { REDISCLI_AUTH=$(redis_password) redis-cli -h 127.0.0.1 -p "$redis_port" --no-auth-warning "$@"; }

# fill NAME=COUNT...: empties the swept tables and adds rows.
fill() {
  in_database -c 'TRUNCATE secret_wraps, secrets, agents, sync_jobs CASCADE' >&2
  add_rows "$@"
}

# add_rows NAME=COUNT...: adds rows to the swept tables, see rows.sql; due=PERCENT of the rows are due.
add_rows() {
  local pair options=() given=" $* "
  for pair in wraps=0 secrets=0 agents=0 jobs=0 due=50; do
    [[ $given == *" ${pair%=*}="* ]] || options+=(-v "$pair")
  done
  for pair in "$@"; do options+=(-v "$pair"); done
  in_database "${options[@]}" -f "$root/scripts/dev/rows.sql" >&2
}

# probe PATH: prints the status of a probe, or nothing.
probe() {
  (
    exec 3<>"/dev/tcp/127.0.0.1/$port"
    printf 'GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n' "$1" >&3
    read -r -t 3 _ status _ <&3 && printf '%s\n' "$status"
  ) 2>/dev/null || true
}

# until_status PATH STATUS: waits up to 20 s until the probe answers with that status.
until_status() {
  local ends=$((SECONDS + 20))
  until [[ $(probe "$1") == "$2" ]]; do
    ((SECONDS < ends)) || die "$1 did not answer $2 within 20 s; the worker's log ends with: $(tail -n 3 "$log")"
    sleep 0.05
  done
}

# field FILE NAME: prints the value of a line "NAME: value" of a file in /proc.
field() { awk -v name="$2:" '$1 == name { print $2 }' "$1"; }

# launch COMMAND...: starts it in the background and keeps its log; its process id is in $process. It ends with this
# script.
launch() {
  setsid setpriv --pdeathsig TERM -- "$@" </dev/null >>"$log" 2>&1 &
  process=$!
}

end_worker() {
  [[ -z $process ]] || end_process "$process" TERM
  process=
}

# start_scenario NAME [SECONDS]: starts a worker in a scenario and waits until it is ready, then SECONDS more. After
# 30 s its first sweeps, a lease after boot, are over, and connections that only they needed are closed.
start_scenario() {
  set_scenario "$1"
  launch "$worker_binary" run
  until_status /readyz 200
  say "letting the worker settle"
  step sleep "${2-30}"
}

# set_scenario NAME: sets the scenario's settings and prepares its rows.
set_scenario() {
  case $1 in
    idle | probes) ;;
    sweep)
      # All sweepers run as often as possible.
      export SB_WORKER_LEASE=3s SB_WORKER_WRAPS_EXPIRED_INTERVAL=100ms SB_WORKER_SECRETS_STALE_INTERVAL=100ms \
        SB_WORKER_AGENTS_STALE_INTERVAL=100ms SB_WORKER_JOBS_RECOVERY_INTERVAL=100ms
      fill wraps=200000
      ;;
    notifications)
      compile sink
      launch "$work/sink" "$work/sink.port"
      sink_process=$process
      process=
      at_end "end_process $sink_process TERM"
      until [[ -s $work/sink.port ]]; do sleep 0.05; done
      export SB_WORKER_LEASE=3s SB_WORKER_AGENTS_STALE_INTERVAL=100ms
      SB_WORKER_WEBHOOK_URL=http://127.0.0.1:$(<"$work/sink.port")/hook
      export SB_WORKER_WEBHOOK_URL
      ;;
    *) misuse "no such scenario: $1; there are $scenario_names" ;;
  esac
}

# drive NAME SECONDS: generates the scenario's load for SECONDS.
drive() {
  local ends=$((SECONDS + $2))
  case $1 in
    idle) step sleep "$2" ;;
    sweep)
      while ((SECONDS < ends)); do
        add_rows wraps=20000 due=100
        sleep 0.5
      done
      ;;
    probes) step wrk -t1 -c32 "-d${2}s" "http://127.0.0.1:$port${probe_path-/healthz}" >&2 ;;
    notifications)
      while ((SECONDS < ends)); do
        in_database -c "INSERT INTO agents (name, scope, secret_hash, last_seen_at)
          SELECT gen_random_uuid(), '{}', '\x00', now() - interval '1 hour' FROM generate_series(1, 5)"
        sleep 0.1
      done
      ;;
  esac
}

# in_cgroup BYTES: succeeds if the worker becomes ready and sweeps its rows within this memory limit.
in_cgroup() {
  local group=/sys/fs/cgroup/memory/secrets-bridge-$$ ends left=1 status=
  fill wraps=100000 due=100
  mkdir "$group"
  printf '%s\n' "$1" >"$group/memory.limit_in_bytes"
  # shellcheck disable=SC2016
  SB_WORKER_LEASE=3s SB_WORKER_WRAPS_EXPIRED_INTERVAL=1s \
    launch sh -c 'echo $$ >"$1/tasks" && exec "$2" run' sh "$group" "$worker_binary"
  ends=$((SECONDS + 20))
  while ((SECONDS < ends)) && kill -0 "$process" 2>/dev/null; do
    left=$(in_database -c 'SELECT count(*) FROM secret_wraps')
    ((left)) || { status=$(probe /readyz); break; }
    sleep 0.2
  done
  say "limit $(($1 / 1024)) kB: $left rows left, ready ${status:-no}, most $(<"$group/memory.max_usage_in_bytes") bytes"
  end_worker
  while ! rmdir "$group" 2>/dev/null; do sleep 0.05; done
  [[ $left == 0 && $status == 200 ]]
}

can_limit_memory() { [[ -d /sys/fs/cgroup/memory && -w /sys/fs/cgroup/memory ]]; }

# smallest_cgroup_kb: prints the smallest limit in kB at which in_cgroup succeeds, or nothing.
smallest_cgroup_kb() {
  local kilobytes smallest=
  for kilobytes in 4096 3072 2560 2304 2176 2048 1984 1920 1856 1792 1728; do
    in_cgroup $((kilobytes * 1024)) || break
    smallest=$kilobytes
  done
  printf '%s\n' "$smallest"
}
