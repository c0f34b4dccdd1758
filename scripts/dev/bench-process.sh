# shellcheck shell=bash
# Benchmarks of the process: size, start, probes, idle cost, memory, and round trips to Redis.
# Sourced by scripts/bench, whose functions these use.
# shellcheck source-path=SCRIPTDIR/.. source=lib.sh
# shellcheck source-path=SCRIPTDIR source=instruments.sh
# shellcheck disable=SC2154

bench_size() {
  strip -o "$work/stripped" "$worker_binary"
  row binary_mb 'binary, stripped' "$(stat -c %s "$work/stripped" | awk '{ printf "%.1f", $1 / 1048576 }')" MB 'max 10'
}

bench_start() {
  local round
  for ((round = 0; round < $(pick 9 31); round++)); do
    "$work/measure" said ready "$work/floor" >>"$work/start.floor"
    "$work/measure" said '"msg":"worker ready"' "$worker_binary" run >>"$work/start.worker"
  done
  row ready_ms 'exec to ready' "$(median <"$work/start.worker")" ms 'ratio-max 1.2' \
    "$(median <"$work/start.floor")" floor
}

# pinned CORE COMMAND...: runs it on that core, if there are two.
pinned() {
  local core=$1
  shift
  if (($(nproc) > 1)); then taskset -c "$core" "$@"; else "$@"; fi
}

cpu_nanoseconds() { cut -d ' ' -f 1 "/proc/$1/schedstat"; }

# load_probe NAME PROCESS URL: one round. Writes requests a second, p99 in µs and CPU in ns a request to files of NAME.
load_probe() {
  local before after
  before=$(cpu_nanoseconds "$2")
  pinned 0 wrk -t1 -c32 "-d$(pick 2 4)s" --latency "$3" >"$work/wrk"
  after=$(cpu_nanoseconds "$2")
  awk '/Requests\/sec/ { printf "%d\n", $2 }' "$work/wrk" >>"$work/rate.$1"
  awk '$1 == "99%" { value = $2 + 0; if ($2 ~ /ms$/) value *= 1000; if ($2 ~ /[0-9]s$/ && $2 !~ /[um]s$/) value *= 1e6
    print value }' "$work/wrk" >>"$work/p99.$1"
  awk -v nanoseconds=$((after - before)) '/requests in/ { printf "%d\n", nanoseconds / $1 }' "$work/wrk" \
    >>"$work/cpu.$1"
}

serve_nginx() {
  nginx_port=$(free_port)
  mkdir -p "$work/nginx"
  cat >"$work/nginx/nginx.conf" <<CONF
worker_processes 1;
daemon off;
pid $work/nginx/pid;
error_log $work/nginx/error.log;
events { worker_connections 256; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path $work/nginx/body;
  proxy_temp_path $work/nginx/proxy;
  fastcgi_temp_path $work/nginx/fastcgi;
  uwsgi_temp_path $work/nginx/uwsgi;
  scgi_temp_path $work/nginx/scgi;
  server {
    listen 127.0.0.1:$nginx_port;
    location / { default_type application/json; return 200 '{"status":"ok"}'; }
  }
}
CONF
  launch taskset -c "$(($(nproc) > 1))" nginx -c "$work/nginx/nginx.conf" -e "$work/nginx/error.log"
  nginx_process=$process
  process=
  at_end "end_process $nginx_process TERM"
  until [[ -s $work/nginx/pid ]] && pgrep -P "$nginx_process" >/dev/null; do sleep 0.05; done
  nginx_worker=$(pgrep -P "$nginx_process")
}

bench_probes() {
  local round path nginx_port nginx_process nginx_worker
  serve_nginx
  launch taskset -c "$(($(nproc) > 1))" "$worker_binary" run
  until_status /readyz 200
  for ((round = 0; round < $(pick 3 7); round++)); do
    load_probe nginx "$nginx_worker" "http://127.0.0.1:$nginx_port/healthz"
    for path in healthz metrics readyz; do load_probe "$path" "$process" "http://127.0.0.1:$port/$path"; done
  done
  end_worker
  end_process "$nginx_process" TERM
  row healthz_rate '/healthz, 32 connections' "$(median <"$work/rate.healthz")" 1/s 'ratio-min 1' \
    "$(median <"$work/rate.nginx")" nginx
  row healthz_p99_us '/healthz, p99' "$(median <"$work/p99.healthz")" µs 'ratio-max 1' \
    "$(median <"$work/p99.nginx")" nginx
  row healthz_cpu_ns '/healthz, CPU a request' "$(median <"$work/cpu.healthz")" ns 'ratio-max 1' \
    "$(median <"$work/cpu.nginx")" nginx
  row metrics_rate '/metrics, 32 connections' "$(median <"$work/rate.metrics")" 1/s 'ratio-min 0.5' \
    "$(median <"$work/rate.healthz")" /healthz
  row readyz_rate '/readyz, 32 connections' "$(median <"$work/rate.readyz")" 1/s 'min 14000'
}

bench_lock() {
  local round count linking
  count=$(pick 20000 50000)
  # With the worker's options, or everything would be rebuilt.
  link_options linking
  step swift build --package-path "$root" -c release --product RoundTripBenchmark "${linking[@]}" >&2 ||
    die "the build failed"
  for ((round = 0; round < $(pick 3 7); round++)); do
    redis-benchmark -h 127.0.0.1 -p "$redis_port" -a "$(redis_password)" -c 1 -n "$count" --csv -t set 2>>"$log" |
      tr -d '"' | awk -F , '$1 == "SET" { printf "%.2f\n", 1e6 / $2 }' >>"$work/trip.redis"
    "$root/.build/release/RoundTripBenchmark" "$count" >>"$work/trip.worker"
  done
  row lock_us 'lock: SET NX PX, one client' "$(median <"$work/trip.worker")" µs 'ratio-max 1.1' \
    "$(median <"$work/trip.redis")" redis-benchmark
}

# memory_of PROCESS NAME: prints kB.
memory_of() { field "/proc/$1/smaps_rollup" "$2"; }

bench_idle() {
  local floor switches cpu dirty
  launch "$work/floor"
  floor=$process
  launch "$worker_binary" run
  until_status /readyz 200
  step sleep 60
  dirty=$(memory_of "$process" Private_Dirty)
  row idle_dirty_kb 'idle, 60 s after boot: private dirty' "$dirty" kB 'max 2048'
  row idle_dirty_ratio 'the same beside the floor' "$dirty" kB 'ratio-max 1.6' \
    "$(memory_of "$floor" Private_Dirty)" floor
  row idle_resident_kb 'idle, 60 s after boot: resident' "$(memory_of "$process" Rss)" kB 'max 10240' \
    "$(memory_of "$floor" Rss)" floor
  end_process "$floor" TERM
  row threads threads "$(field "/proc/$process/status" Threads)" '' 'max 1'
  row postgres_connections 'connections to PostgreSQL' "$(in_database -c "SELECT count(*) FROM pg_stat_activity
    WHERE usename = 'worker'")" '' 'max 1'
  row redis_connections 'connections to Redis' "$(in_redis client list |
    awk '!/cmd=client/ { count++ } END { print count + 0 }')" '' 'max 1'
  switches=$(field "/proc/$process/status" voluntary_ctxt_switches)
  cpu=$(cpu_nanoseconds "$process")
  step sleep 60
  row wakeups 'idle: wake-ups a minute' \
    $(($(field "/proc/$process/status" voluntary_ctxt_switches) - switches)) '' 'max 20'
  cpu=$(($(cpu_nanoseconds "$process") - cpu))
  row idle_cpu_ms 'idle: CPU a minute' "$(awk -v cpu="$cpu" 'BEGIN { printf "%.2f", cpu / 1e6 }')" ms 'max 2'
  # Tracing slows calls down but does not change their number.
  timeout 60 strace -f -qq -o "$work/calls" -p "$process" 2>>"$log" || true
  row syscalls 'idle: system calls a minute' "$(wc -l <"$work/calls")" '' 'max 60'
  end_worker
  bench_webhook
}

bench_webhook() {
  local dirty resident
  (
    set_scenario notifications
    unset SB_WORKER_LEASE SB_WORKER_AGENTS_STALE_INTERVAL
    launch "$worker_binary" run
    until_status /readyz 200
    step sleep 60
    printf '%s %s\n' "$(memory_of "$process" Private_Dirty)" "$(memory_of "$process" Rss)" >"$work/webhook"
  )
  read -r dirty resident <"$work/webhook"
  row webhook_dirty_kb 'with a webhook, 60 s after boot: private dirty' "$dirty" kB 'max 2560'
  row webhook_resident_kb 'with a webhook, 60 s after boot: resident' "$resident" kB 'max 13312'
}

bench_load() {
  local path
  launch "$worker_binary" run
  until_status /readyz 200
  for path in healthz metrics readyz; do
    wrk -t1 -c64 "-d$(($(pick 3 10) / 3 + 1))s" "http://127.0.0.1:$port/$path" >>"$log"
  done
  sleep 1
  row load_dirty_kb 'after 10 s of probes, 64 connections: private dirty' "$(memory_of "$process" Private_Dirty)" kB \
    'max 2560'
  row load_resident_kb 'after 10 s of probes, 64 connections: resident' "$(memory_of "$process" Rss)" kB 'max 12288'
  end_worker
}

bench_cgroup() {
  local kilobytes
  if ! can_limit_memory; then
    say "skipped: needs root and memory cgroups of version 1"
    return
  fi
  kilobytes=$(smallest_cgroup_kb)
  if [[ -z $kilobytes ]]; then
    say "no figure: 4096 kB did not suffice"
    return
  fi
  row cgroup_kb 'smallest memory cgroup: boots, sweeps 100,000 rows' "$kilobytes" kB 'max 2048'
}

# Separate processes, each with its own connections, as in a fleet.
bench_fleet() {
  local replicas count=0 before after processes=() points=()
  in_database -c 'ALTER SYSTEM SET max_connections = 1200'
  end_process "$postgres_process" INT
  serve_postgres || die "PostgreSQL did not start again"
  for replicas in $(pick '1 50' '1 10 100 300 1000'); do
    while ((count < replicas)); do
      SB_WORKER_LOCAL_ADDR=127.0.0.1:0 launch "$worker_binary" run
      processes+=("$process")
      process=
      at_end "kill -TERM ${processes[-1]} 2>/dev/null"
      count=$((count + 1))
      ((count % 20)) || sleep 1
    done
    sleep 20
    before=$(redis_cpu)
    step sleep 60
    after=$(redis_cpu)
    points+=("$replicas $(awk -v a="$before" -v b="$after" 'BEGIN { printf "%.3f", (b - a) / 60 * 100 }')")
  done
  kill -TERM "${processes[@]}"
  wait "${processes[@]}" || true
  row fleet_percent "one Redis, $replicas replicas: of a core" "${points[-1]#* }" % 'max 5'
  printf '%s\n' "${points[@]}" | plot fleet "Redis' core in percent against replicas, default intervals"
}

redis_cpu() {
  in_redis info cpu | tr -d '\r' |
    awk -F : '$1 == "used_cpu_sys" || $1 == "used_cpu_user" { sum += $2 } END { print sum }'
}

# plot NAME TITLE: plots lines "x y" from standard input to docs/plots/NAME.svg, both axes logarithmic.
plot() {
  mkdir -p "$plots"
  awk -v title="$2" -f "$root/scripts/dev/plot.awk" >"$plots/$1.svg"
}
