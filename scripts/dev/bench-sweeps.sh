# shellcheck shell=bash
# Benchmarks of the sweeps: beside psql with a single statement, their effect on writers, and how they scale.
# Sourced by scripts/bench, whose functions these use.
# shellcheck source-path=SCRIPTDIR/.. source=lib.sh
# shellcheck source-path=SCRIPTDIR source=instruments.sh
# shellcheck disable=SC2154

# For each sweeper: its table in rows.sql, the statement of a cron job, and the query for whether anything is due.
declare -A swept_rows=([wraps-expired]=wraps [secrets-stale]=secrets [agents-stale]=agents [jobs-recovery]=jobs)
declare -A due_rows=(
  [wraps-expired]='secret_wraps WHERE expires_at <= now()'
  [secrets-stale]="secrets WHERE status = 'present' AND last_seen_at < now() - interval '24 hours'"
  [agents-stale]="agents WHERE status = 'active' AND last_seen_at < now() - interval '5 minutes'"
  [jobs-recovery]="sync_jobs WHERE status = 'claimed' AND claim_expires_at < now()"
)
declare -A statements=(
  [wraps-expired]="DELETE FROM ${due_rows[wraps-expired]}"
  [secrets-stale]="UPDATE secrets SET status = 'missing' WHERE ${due_rows[secrets-stale]#* WHERE }"
  [agents-stale]="UPDATE agents SET status = 'stale' WHERE ${due_rows[agents-stale]#* WHERE }"
  [jobs-recovery]="UPDATE sync_jobs SET status = 'expired' WHERE ${due_rows[jobs-recovery]#* WHERE }"
)

in_maintenance() { psql "${maintenance_url}" -qXAt -v ON_ERROR_STOP=1 "$@"; }

# keep_rows: saves the database's contents for restore_rows.
keep_rows() {
  maintenance_url=${DATABASE_URL/worker:/admin:}
  maintenance_url=${maintenance_url%/*}/postgres
  in_maintenance -c 'DROP DATABASE IF EXISTS kept' \
    -c 'CREATE DATABASE kept TEMPLATE secrets_bridge OWNER worker STRATEGY file_copy'
}

restore_rows() {
  in_maintenance -c 'DROP DATABASE secrets_bridge WITH (FORCE)' \
    -c 'CREATE DATABASE secrets_bridge TEMPLATE kept OWNER worker STRATEGY file_copy' -c CHECKPOINT
  # Load the tables into memory, for both sides alike, and flush pending writes, or the kernel would make the next
  # writer wait for them.
  in_database -c "SELECT count(*) FROM $1" >>"$log"
  sync
}

# statement_ms SQL: prints the time that psql reports. The end time is in $work/ended.
statement_ms() {
  in_database -c '\timing on' -c "$1" | awk '/^Time:/ { print $2 }'
  date +%s.%N >"$work/ended"
}

# worker_ms SWEEPER [RUNS]: prints the duration of RUNS sweeps from a running worker's log. Like psql's time, it
# excludes connecting. The end time is in $work/ended, the worker's peak resident memory in kB in $work/peak.
worker_ms() {
  local runs=${2-1} ends=$((SECONDS + 300)) log=$work/sweeping interval=SB_WORKER_${1^^}_INTERVAL period=1s
  # A single run is due because its record was deleted. No other follows, because it would meet dead index entries.
  ((runs > 1)) || period=24h
  in_redis del "secrets-bridge:schedule:{secrets-bridge:lock:worker:sweeper:$1}" >>"$work/log"
  : >"$log"
  launch env LOG_LEVEL=debug SB_WORKER_LEASE=3s SB_WORKER_WRAPS_EXPIRED_INTERVAL=24h \
    SB_WORKER_SECRETS_STALE_INTERVAL=24h SB_WORKER_AGENTS_STALE_INTERVAL=24h SB_WORKER_JOBS_RECOVERY_INTERVAL=24h \
    "${interval//-/_}=$period" "$worker_binary" run
  until (($(swept_lines "$1" | wc -l) >= runs)); do
    if ((SECONDS >= ends)) || ! kill -0 "$process"; then die "no sweep; its log ends with: $(tail -n 3 "$log")"; fi
    sleep 0.2
  done
  field "/proc/$process/status" VmHWM >"$work/peak"
  end_worker
  swept_lines "$1" | head -n "$runs" | sed 's/.*"duration_ms":"\?\([0-9]*\).*/\1/'
  date +%s.%N -d "$(swept_lines "$1" | sed -n "$runs"'s/.*"time":"\([^"]*\)".*/\1/p')" >"$work/ended"
}

swept_lines() { grep -F '"msg":"swept"' "$work/sweeping" | grep -F "\"task\":\"$1\"" || true; }

# settle: prevents what would take a core from one side during its measurement: autovacuum, and the first sweeps on a
# new Redis.
settle() {
  in_database -c 'ALTER SYSTEM SET autovacuum = off' -c 'SELECT pg_reload_conf()' >>"$log"
  fill
  "$worker_binary" run --once --force 2>>"$log" || die "a run failed: $(tail -n 3 "$log")"
}

# watch_transactions: starts recording how long the worker's transactions last, every millisecond.
watch_transactions() {
  in_maintenance -c 'CREATE TABLE IF NOT EXISTS watched (stop BOOLEAN)' -c 'TRUNCATE watched'
  in_maintenance -c "DO \$\$
    DECLARE longest INTERVAL := '0'; seen INTERVAL;
    BEGIN
      LOOP
        PERFORM pg_stat_clear_snapshot();
        SELECT max(clock_timestamp() - xact_start) INTO seen FROM pg_stat_activity
         WHERE usename = 'worker' AND state <> 'idle';
        longest := greatest(longest, seen);
        EXIT WHEN EXISTS (SELECT FROM watched);
        PERFORM pg_sleep(0.0005);
      END LOOP;
      RAISE NOTICE 'longest %', round(extract(epoch FROM longest) * 1000, 1);
    END \$\$" 2>"$work/watched" &
  watcher=$!
}

# longest_transaction: stops recording and prints the longest in ms.
longest_transaction() {
  in_maintenance -c 'INSERT INTO watched VALUES (true)'
  wait "$watcher"
  awk '/longest/ { print $NF }' "$work/watched"
}

bench_wraps() { bench_sweep wraps-expired "$(pick 200000 2000000)" 1 50 "$(pick 3 5)"; }
bench_secrets() { bench_sweep secrets-stale "$(pick 100000 1000000)" 1.1 100 3; }
bench_agents() { bench_sweep agents-stale "$(pick 100000 1000000)" 1.1 100 "$(pick 3 5)"; }
bench_jobs() { bench_sweep jobs-recovery "$(pick 100000 1000000)" 1.1 100 "$(pick 3 5)"; }

samples() { tr '\n' ' ' <"$work/$1.$sweeper"; }

# bench_sweep SWEEPER ROWS RATIO LONGEST ROUNDS: alternates with psql on the same rows. Both are recorded alike.
bench_sweep() {
  local sweeper=$1 round table=${due_rows[$1]%% *}
  settle
  fill "${swept_rows[$sweeper]}=$2"
  keep_rows
  for ((round = 0; round < $5; round++)); do
    restore_rows "$table"
    watch_transactions
    statement_ms "${statements[$sweeper]}" >>"$work/psql.$sweeper"
    longest_transaction >>"$work/log"
    restore_rows "$table"
    watch_transactions
    worker_ms "$sweeper" >>"$work/worker.$sweeper"
    longest_transaction >>"$work/longest.$sweeper"
  done
  say "psql: $(samples psql), worker: $(samples worker), longest: $(samples longest)"
  row "${swept_rows[$sweeper]}_ms" "$sweeper: half of $2 rows due" "$(median <"$work/worker.$sweeper")" ms \
    "ratio-max $3" "$(median <"$work/psql.$sweeper")" psql
  row "${swept_rows[$sweeper]}_longest_ms" "$sweeper: longest transaction" "$(median <"$work/longest.$sweeper")" ms \
    "max $4"
}

bench_nothing() {
  local sweeper round table limit
  settle
  for sweeper in wraps-expired secrets-stale agents-stale jobs-recovery; do
    table=${due_rows[$sweeper]%% *}
    fill "${swept_rows[$sweeper]}=$(pick 200000 1000000)" due=0
    # The first run may read the whole table; later runs need not.
    worker_ms "$sweeper" >>"$work/log"
    for ((round = 0; round < $(pick 1 3); round++)); do
      for _ in {1..3}; do
        statement_ms "SELECT count(*) FROM ${due_rows[$sweeper]}" >>"$work/count.$sweeper"
      done
      worker_ms "$sweeper" 3 >>"$work/nothing.$sweeper"
    done
    limit='max 5'
    # No index covers the expiry of a claim.
    [[ $sweeper != jobs-recovery ]] || limit='ratio-max 1'
    row "nothing_${swept_rows[$sweeper]}_ms" "$sweeper: nothing due of $(pick 200000 1000000)" \
      "$(median <"$work/nothing.$sweeper")" ms "$limit" "$(median <"$work/count.$sweeper")" "psql's count"
  done
}

# writers_p99 LOG BEGIN END: prints the p99 of pgbench's transactions in that period, in ms.
writers_p99() {
  awk -v begin="$2" -v end="$3" '{ at = $5 + $6 / 1e6 } at >= begin && at <= end { print $3 / 1000 }' "$1".* |
    sort -n | awk '{ values[NR] = $1 } END { if (NR) printf "%.2f\n", values[int(NR * 0.99 + 0.999)] }'
}

# Writers arrive at a fixed rate, and a wait counts from the scheduled start. Without a rate two clients saturate two
# cores by themselves, and the measurement would show only the kernel's time slices.
readonly writers_a_second=500

# beside_writers NAME COMMAND...: writes the writers' p99 during COMMAND to $work/writers.NAME. COMMAND prints its
# duration in ms and writes its end time to $work/ended.
beside_writers() {
  local name=$1 end writers
  shift
  rm -f "$work"/pgbench.*
  (cd "$work" && exec setpriv --pdeathsig TERM -- "$(postgres_bin)/pgbench" -n -c 2 -T 600 -l --log-prefix=pgbench \
    "--rate=$writers_a_second" -f "$work/writer.sql" "${DATABASE_URL/worker:/admin:}") >>"$work/log" 2>&1 &
  writers=$!
  sleep 1
  "$@" >"$work/took"
  end=$(<"$work/ended")
  end_process "$writers" INT
  writers_p99 "$work/pgbench" "$(awk -v end="$end" '{ printf "%.6f", end - $1 / 1000 }' "$work/took")" "$end" \
    >>"$work/writers.$name"
}

undisturbed() {
  sleep "$1"
  date +%s.%N >"$work/ended"
  printf '%s\n' "$(($1 * 1000))"
}

bench_writers() {
  local round
  settle
  cat >"$work/writer.sql" <<'SQL'
INSERT INTO secret_wraps
  (encrypted_value, nonce, data_key_ciphertext, kms_key_id, content_hash, byte_length, expires_at)
VALUES ('\x00', '\x00', '\x00', 'key', '\x00', 1, now() + interval '1 hour') RETURNING id AS wrap \gset
UPDATE secret_wraps SET consumed_at = now(), consumed_by_user = 'someone' WHERE id = ':wrap';
SQL
  fill "wraps=$(pick 200000 2000000)"
  keep_rows
  for ((round = 0; round < $(pick 2 5); round++)); do
    restore_rows secret_wraps
    beside_writers alone undisturbed 2
    beside_writers worker worker_ms wraps-expired
    restore_rows secret_wraps
    beside_writers psql statement_ms "${statements[wraps-expired]}"
  done
  row writers_ms "$writers_a_second writers a second: p99 beside the wraps' sweep" \
    "$(median <"$work/writers.worker")" ms 'ratio-max 2' "$(median <"$work/writers.alone")" undisturbed
  row writers_psql_ms "the same beside the one DELETE" "$(median <"$work/writers.psql")" ms '' \
    "$(median <"$work/writers.alone")" undisturbed
}

bench_growth() {
  local count points=() peaks=()
  settle
  for count in $(pick '20000 200000' '20000 200000 2000000 20000000'); do
    fill "wraps=$count"
    points+=("$((count / 2)) $(worker_ms wraps-expired)")
    peaks+=("$((count / 2)) $(<"$work/peak")")
    row "growth_${count}_ms" "wraps-expired: $((count / 2)) of $count due" "${points[-1]#* }" ms
    row "growth_${count}_kb" 'the same: peak of resident memory' "${peaks[-1]#* }" kB
  done
  printf '%s\n' "${points[@]}" | plot growth 'Milliseconds against due rows: wraps-expired, half of the table due'
  printf '%s\n' "${peaks[@]}" | plot growth-memory 'Peak of resident memory in kB against due rows'
}
