# shellcheck shell=bash
# Shared functions of the scripts: installing packages, running children, private servers. Sourced, never run.
# Invariant: everything that is started or changed here is stopped or restored when the script ends, however it ends.
# Standard output belongs to the sourcing script; progress goes to standard error.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
readonly root

# ---- Messages and exit ----

# say TEXT...: prints a line of progress.
say() { printf '%s\n' "== $*" >&2; }

# die TEXT...: exits with 1: something the script needs has failed.
die() {
  printf '%s\n' "${0##*/}: $*" >&2
  exit 1
}

# misuse TEXT...: exits with a usage error.
misuse() {
  printf '%s\n' "${0##*/}: $*; see --help" >&2
  exit 64
}

# show_help FILE: prints the script's opening comment, which is its help.
show_help() { awk 'NR > 1 { if (!/^#/) exit; sub(/^# ?/, ""); print }' "$1"; }

endings=()

# at_end COMMAND: runs COMMAND when the script ends, last registered first.
at_end() { endings+=("$1"); }

run_endings() {
  local status=$? index
  trap '' INT TERM HUP
  set +e
  for ((index = ${#endings[@]} - 1; index >= 0; index--)); do eval "${endings[index]}"; done
  exit "$status"
}

attended=
signals=0
signalled=

# A signal is passed on to the current child's whole session; without a child it ends the script.
on_signal() {
  local members
  signals=$((signals + 1))
  signalled=$1
  [[ -n $attended ]] || exit "$1"
  mapfile -t members < <(session_members "$attended")
  # Not yet a session: the child is about to start one.
  kill -TERM "${members[@]:-$attended}" 2>/dev/null || true
}

# session_members SESSION: prints its processes in all groups; swift test runs the tests in a separate group.
session_members() {
  local stat line session
  for stat in /proc/[0-9]*/stat; do
    { read -r line <"$stat"; } 2>/dev/null || continue
    # After the program's name in parentheses: state, parent, group, session.
    read -r _ _ _ session _ <<<"${line##*) }"
    [[ $session != "$1" ]] || { stat=${stat#/proc/}; printf '%s\n' "${stat%/stat}"; }
  done
}

trap run_endings EXIT
trap 'on_signal 130' INT
trap 'on_signal 143' TERM
trap 'on_signal 129' HUP

# attend COMMAND...: runs a program in its own session and returns its status. The session ensures that a signal reaches
# it only once and from here; a terminal's Ctrl-C would reach it twice. It is terminated if this script dies.
attend() {
  local status=0 seen
  signalled=
  setsid setpriv --pdeathsig TERM -- "$@" <&0 &
  attended=$!
  while :; do
    seen=$signals
    wait "$attended" && status=0 || status=$?
    # A trapped signal interrupts `wait`: the child still runs, or its status is still pending.
    ((signals != seen)) || break
  done
  attended=
  return "$status"
}

# step COMMAND...: runs an intermediate step; a signal during it ends the script.
step() {
  local status=0
  attend "$@" || status=$?
  [[ -z $signalled ]] || exit "$signalled"
  return "$status"
}

# ---- Packages ----

# Needed to compile and link.
# shellcheck disable=SC2034
readonly build_packages=(
  libev-dev libpq-dev libhiredis-dev libc-ares-dev libjansson-dev libssl-dev
)

# Loaded by the worker for notifications, and used by the tests' endpoints.
# shellcheck disable=SC2034
readonly sink_packages=(libcurl4) endpoint_packages=(openssl python3 python3-aiosmtpd)
# What the tests of the manifests use.
# shellcheck disable=SC2034
readonly manifest_packages=(python3-jsonschema python3-yaml)

# package_of FILE: prints the installed package that a file of this system belongs to.
package_of() {
  local file owner
  file=$(readlink -f "$1")
  # Packages from before /usr was merged name the file without it.
  owner=$(dpkg-query -S "$file" 2>/dev/null || dpkg-query -S "${file#/usr}" 2>/dev/null) ||
    die "$file belongs to no package"
  printf '%s\n' "${owner%%:*}"
}

as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }

# Under its own name or provided by another package: Debian 13 has libcurl4 in libcurl4t64.
is_installed() {
  # Read all input: a reader that exits early would look like a failure of the writer.
  dpkg-query -W -f='${db:Status-Status} ${Package} ${Provides}\n' 2>/dev/null |
    grep -E "^installed (.* )?$1([ ,]|\$)" >/dev/null
}

# install_missing PACKAGE...: installs missing packages and says so. Calls apt only if one is missing.
install_missing() {
  local package said missing=()
  for package in "$@"; do is_installed "$package" || missing+=("$package"); done
  ((${#missing[@]})) || return 0
  command -v apt-get >/dev/null || die "these Debian packages are needed: ${missing[*]}"
  ((EUID == 0)) || command -v sudo >/dev/null || die "to install ${missing[*]}, run this as root or install sudo"
  say "installing ${missing[*]}"
  hold_services
  apt_install "${missing[@]}" 2>/dev/null || {
    say "refreshing the package lists"
    as_root apt-get update -qq >&2 || die "apt-get update failed"
    said=$(apt_install "${missing[@]}" 2>&1) || die "could not install ${missing[*]}: $(tail -n 3 <<<"$said")"
  }
  release_services
}

apt_install() {
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
    -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@" </dev/null >&2
}

# Keeps services from starting while packages are installed. An existing policy file is left alone.
readonly policy_file=/usr/sbin/policy-rc.d
services_held=

hold_services() {
  [[ ! -e $policy_file ]] || return 0
  services_held=yes
  at_end release_services
  printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy_file" >/dev/null
  as_root chmod 755 "$policy_file"
}

release_services() {
  [[ -n $services_held ]] || return 0
  services_held=
  as_root rm -f "$policy_file"
}

# Keeps the service of a package that we installed from starting at the next boot.
leave_disabled() {
  [[ -d /run/systemd/system ]] || return 0
  as_root systemctl disable --quiet "$1" 2>/dev/null || true
}

# postgres_bin: prints the directory of the newest PostgreSQL server's programs, or nothing.
postgres_bin() {
  local directory newest=
  for directory in $(printf '%s\n' /usr/lib/postgresql/*/bin | sort -V); do
    [[ ! -x $directory/initdb ]] || newest=$directory
  done
  [[ -n $newest ]] && printf '%s\n' "$newest"
}

readonly cluster_settings=/etc/postgresql-common/createcluster.conf

# install_servers: installs PostgreSQL and Redis without creating a cluster or enabling a service.
install_servers() {
  if ! postgres_bin >/dev/null; then
    install_missing postgresql-common
    as_root cp -p "$cluster_settings" "$cluster_settings.before"
    at_end restore_cluster_settings
    printf 'create_main_cluster = off\n' | as_root tee -a "$cluster_settings" >/dev/null
    install_missing postgresql
    restore_cluster_settings
    leave_disabled postgresql
  fi
  if ! command -v redis-server >/dev/null; then
    install_missing redis-server
    leave_disabled redis-server
  fi
}

restore_cluster_settings() {
  [[ ! -e $cluster_settings.before ]] || as_root mv -f "$cluster_settings.before" "$cluster_settings"
}

# fetch_prometheus: extracts prometheus and promtool, its checker, to .local/tools. The package is not installed, as it
# is a server of 100 MB with its own account. Without them the tests that need them are skipped and say so.
fetch_prometheus() {
  local directory tool absent=
  for tool in prometheus promtool; do
    command -v "$tool" >/dev/null || [[ -x $root/.local/tools/$tool ]] || absent=yes
  done
  [[ -n $absent ]] && command -v apt-get >/dev/null || return 0
  say "fetching prometheus"
  directory=$(mktemp -d)
  mkdir -p "$root/.local/tools"
  # Since Debian 13 promtool is in a package of its own.
  download() { apt-get download -qq prometheus && { apt-get download -qq promtool || true; }; }
  if (
    # Chained by &&, because errexit is off in a condition.
    cd "$directory" && { download 2>/dev/null || { as_root apt-get update -qq && download; }; } &&
      for package in ./*.deb; do
        dpkg-deb --fsys-tarfile "$package" | tar -x --wildcards './usr/bin/prom*' || exit 1
      done && mv usr/bin/* "$root/.local/tools/"
  ) >/dev/null 2>"$directory/log"; then :; else say "no prometheus: $(tail -n 1 "$directory/log")"; fi
  rm -rf "$directory"
}

# require_swift: Swift is required and not installed by the scripts.
require_swift() { command -v swift >/dev/null || die "Swift is needed: https://www.swift.org/install/linux"; }

# ---- The worker ----

# shellcheck disable=SC2034
readonly worker_binary=$root/.build/release/secrets-bridge-worker

# Empty for a position-independent program. scripts/build --fixed-address sets it.
fixed_address=

# build_options: fills an array with the release build's options for `swift build`. Each comment says what the option is
# for; docs/performance.md has the figures, docs/security.md what scripts/hardening checks.
build_options() {
  local -n options=$1
  options=(
    --static-swift-stdlib
    # Do not search for libraries beside the program: that is 14 failed attempts at each start, and nobody should be
    # able to plant one there.
    --disable-local-rpath
    # The standard library's regular expressions would add a megabyte: their use is a compile error.
    -Xswiftc -Xfrontend -Xswiftc -disable-implicit-string-processing-module-import
    # No thread pool, see NoDispatch.c.
    -Xcc -DSBW_NO_DISPATCH
    # For our C, which handles what the network sent.
    -Xcc -fstack-protector-strong -Xcc -D_FORTIFY_SOURCE=3 -Xcc -fcf-protection=full
    # LLVM's linker keeps code, constants and data in segments of their own.
    -Xswiftc -use-ld=lld -Xlinker -T -Xlinker "$root/scripts/dev/read-only-data.ld"
    # All symbols are bound before main, so the table of their addresses is read-only.
    -Xlinker -z -Xlinker relro -Xlinker -z -Xlinker now
    # No path of this checkout in the program: the same sources give the same bytes in every directory.
    -Xswiftc -file-prefix-map -Xswiftc "$root=/source" -Xcc "-ffile-prefix-map=$root=/source"
    # Nor in the debugging information, where the module cache has a name that is made from the checkout's path.
    -Xswiftc -Xfrontend -Xswiftc -no-clang-module-breadcrumbs
    # A build id would cover debugging information, and with it those paths. To remove it afterwards would remove the
    # mark of read-only relocations, too.
    -Xlinker --build-id=none
    # Export only the symbol that is looked up, see UnneededStart.swift: saves 110 kB of names.
    -Xlinker --no-export-dynamic -Xlinker --export-dynamic-symbol=_gnutls_global_init_skip
  )
  if [[ -n $fixed_address ]]; then
    # The linker resolves the relocations, instead of each start: pages of a process's own become the file's.
    options+=(-Xlinker -no-pie)
  else
    # Relocations in a compact table: 0.7 MB of the file.
    options+=(-Xlinker -z -Xlinker pack-relative-relocs)
  fi
  local parts=$root/.build/link
  rm -rf "$parts"
  mkdir -p "$parts"
  # The linker uses an archive if it finds no shared library beside it. libstdc++ serves only Swift's runtime, which
  # uses a fraction of it: saves 90 kB dirty and 1 MB resident. Three small libraries that nothing else loads: save 8 kB
  # dirty each. What parses the network's bytes for many programs stays shared (libpq, OpenSSL, c-ares), so that the
  # system keeps it up to date.
  local name archive
  for name in stdc++ ev hiredis jansson; do
    archive=$(archive_of "$name")
    # Both parts of hiredis or neither: the second would load the first again.
    if [[ $name == hiredis && -e /usr/include/hiredis/hiredis_ssl.h ]]; then
      [[ -n $(archive_of hiredis_ssl) ]] || continue
      ln -s "$(archive_of hiredis_ssl)" "$parts"
    fi
    [[ -z $archive ]] || ln -s "$archive" "$parts"
  done
  options+=(-Xlinker "-L$parts")
}

# swift_tool NAME: prints the path of a program of the Swift toolchain.
swift_tool() { printf '%s/%s\n' "$(dirname "$(readlink -f "$(command -v swift)")")" "$1"; }

# archive_of NAME: prints the path of a static library, or nothing.
archive_of() {
  local found
  found=$("$(swift_tool clang)" -print-file-name="lib$1.a")
  [[ $found != /* ]] || printf '%s\n' "$found"
}

# build_worker: makes the release build, with the standard library linked statically.
build_worker() {
  say "building the worker (release)"
  build_release secrets-bridge-worker
}

# strip_worker FILE: writes the program without symbols to FILE.
strip_worker() { strip -o "$1" "$worker_binary"; }

# build_release PRODUCT: all products are linked alike, or each would be built anew after another.
build_release() {
  local building
  build_options building
  step swift build --package-path "$root" -c release --product "$1" "${building[@]}" >&2 || die "the build failed"
}

# ---- Measuring ----

# measure PACKAGE... -- ARGUMENT...: installs the packages, builds Tests/Measure and the worker (release), and runs the
# tool's subcommand of the script's name.
measure() {
  local tool=$root/.build/debug/Measure packages=()
  while [[ $1 != -- ]]; do packages+=("$1"); shift; done
  shift
  check_options "$@"
  require_swift
  install_missing "${build_packages[@]}"
  say "building the measuring tool"
  step swift build --package-path "$root" --product Measure >&2 || die "the build failed"
  step "$tool" --check "${0##*/}" "$@"
  ((${#packages[@]} == 0)) || install_missing "${packages[@]}"
  install_servers
  build_worker
  # What measures the library by itself.
  [[ ${0##*/} != bench ]] || build_release RoundTripBenchmark
  # Pages of a fresh binary that are not on the disk yet would count as dirty.
  sync "$worker_binary"
  # Where the tool's servers can reach their data.
  at_end stop_servers
  make_servers_directory
  export TMPDIR=$servers_directory
  step "$tool" "${0##*/}" "$@"
}

# check_options ARGUMENT...: shows the script's help where it is asked for, and refuses an option that it does not name:
# a mistake is told before anything is built.
check_options() {
  local help argument
  help=$(show_help "$0")
  for argument in "$@"; do
    case $argument in
      --help | -h) printf '%s\n' "$help"; exit ;;
      -*) [[ $help =~ (^|[^-a-z])"$argument"($|[^-a-z]) ]] || misuse "no such option: $argument" ;;
    esac
  done
}

# ---- Private servers ----

# free_port: prints an unused loopback port below the kernel's ephemeral range.
free_port() {
  local port
  for _ in {1..100}; do
    port=$((20000 + RANDOM % 12000))
    is_free_port "$port" && { printf '%s\n' "$port"; return; }
  done
  die "found no free port"
}

is_free_port() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

random_password() { od -An -N18 -tx1 /dev/urandom | tr -d ' \n'; }

# PostgreSQL refuses to run as root. As root, both servers run under the account that its package created.
as_server() {
  if ((EUID == 0)); then setpriv --reuid postgres --regid postgres --init-groups -- "$@"; else "$@"; fi
}

# serve LOG COMMAND...: starts a server in its own session, with its process id in $server. It ends with this script,
# even if that is killed.
serve() {
  local log=$1 account=()
  shift
  ((EUID != 0)) || account=(--reuid postgres --regid postgres --init-groups)
  setsid setpriv "${account[@]}" --pdeathsig INT -- "$@" </dev/null >>"$log" 2>&1 &
  server=$!
}

servers_directory=
postgres_process=
postgres_port=
redis_process=
redis_port=

# start_servers: starts PostgreSQL and Redis on loopback, with fresh data under .local/ that is deleted at the end. Sets
# and exports DATABASE_URL and REDIS_URL.
start_servers() {
  at_end stop_servers
  make_servers_directory
  start_postgres
  start_redis
}

# The servers' account must be able to reach the data. Below an inaccessible home directory, use /tmp instead.
make_servers_directory() {
  local left
  mkdir -p "$root/.local"
  for left in "$root"/.local/servers.*; do
    [[ -e $left || -L $left ]] || continue
    kill -0 "${left##*.}" 2>/dev/null || { rm -rf "$(readlink -f "$left")"; rm -rf "$left"; }
  done
  servers_directory=$root/.local/servers.$$
  mkdir -m 700 "$servers_directory"
  ((EUID == 0)) || return 0
  chown postgres:postgres "$servers_directory"
  if ! as_server test -w "$servers_directory" 2>/dev/null; then
    rmdir "$servers_directory"
    local elsewhere
    elsewhere=$(mktemp -d /tmp/secrets-bridge.XXXXXX)
    chown postgres:postgres "$elsewhere"
    ln -s "$elsewhere" "$servers_directory"
    servers_directory=$elsewhere
  fi
}

start_postgres() {
  local bin data=$servers_directory/postgres password
  bin=$(postgres_bin) || die "found no PostgreSQL server"
  say "starting a private PostgreSQL"
  password=$(random_password)
  (
    cd "$servers_directory"
    umask 077
    printf '%s\n' "$password" >password
    ((EUID != 0)) || chown postgres: password
    as_server "$bin/initdb" -D "$data" -U admin --pwfile=password --auth=scram-sha-256 -N -E UTF8 --locale=C.UTF-8 \
      >"$servers_directory/initdb.log" 2>&1
  ) || die "initdb failed: $(tail -n 3 "$servers_directory/initdb.log" 2>/dev/null)"
  export PGPASSWORD=$password
  for _ in {1..5}; do
    postgres_port=$(free_port)
    serve_postgres && break
  done
  [[ -n $postgres_process ]] || die "PostgreSQL did not start: $(tail -n 3 "$servers_directory/postgres.log")"
  psql -h 127.0.0.1 -p "$postgres_port" -U admin -d postgres -qX -v ON_ERROR_STOP=1 -v password="$password" >&2 <<'SQL'
CREATE ROLE worker LOGIN PASSWORD :'password';
CREATE DATABASE secrets_bridge OWNER worker;
SQL
  unset PGPASSWORD
  export DATABASE_URL="postgres://worker:$password@127.0.0.1:$postgres_port/secrets_bridge"
}

# serve_postgres: starts PostgreSQL on its port with its existing data, and waits until it accepts connections.
serve_postgres() {
  serve "$servers_directory/postgres.log" "$(postgres_bin)/postgres" -D "$servers_directory/postgres" \
    -p "$postgres_port" -c listen_addresses=127.0.0.1 -c unix_socket_directories="$servers_directory" -c fsync=off
  postgres_process=$server
  until_up "$postgres_process" "$(postgres_bin)/pg_isready" -q -h 127.0.0.1 -p "$postgres_port" && return
  postgres_process=
  return 1
}

# The migrations at which the development schema can be loaded, oldest first.
schema_migrations=(11 28 38)

# load_schema [MIGRATION]: loads the control plane's tables at this migration, by default the newest, and the sample
# rows into the private database.
load_schema() {
  local newest=${1-${schema_migrations[-1]}} migration folder files=()
  say "loading the development schema at migration $newest and sample rows"
  for folder in schema sample; do
    for migration in "${schema_migrations[@]}"; do
      ((migration > newest)) || files+=(-f "$root/scripts/dev/$folder/$migration.sql")
    done
  done
  psql "$DATABASE_URL" -qX -v ON_ERROR_STOP=1 "${files[@]}" >&2
}

start_redis() {
  local password
  say "starting a private Redis"
  password=$(random_password)
  for _ in {1..5}; do
    redis_port=$(free_port)
    (
      umask 077
      printf '%s\n' "port $redis_port" 'bind 127.0.0.1' 'save ""' 'appendonly no' "requirepass $password" \
        "dir $servers_directory" >"$servers_directory/redis.conf"
    )
    ((EUID != 0)) || chown postgres: "$servers_directory/redis.conf"
    serve_redis && break
  done
  [[ -n $redis_process ]] || die "Redis did not start: $(tail -n 3 "$servers_directory/redis.log")"
  export REDIS_URL="redis://:$password@127.0.0.1:$redis_port/0"
}

# serve_redis: starts Redis, empty, on its port, and waits until it accepts connections.
serve_redis() {
  serve "$servers_directory/redis.log" redis-server "$servers_directory/redis.conf"
  redis_process=$server
  # Without the password it answers too: NOAUTH.
  until_up "$redis_process" sh -c "redis-cli -h 127.0.0.1 -p $redis_port ping | grep -qE 'PONG|NOAUTH'" && return
  redis_process=
  return 1
}

# until_up PROCESS COMMAND...: waits up to 30 s until COMMAND succeeds; fails if PROCESS ends first.
until_up() {
  local process=$1 ends=$((SECONDS + 30))
  shift
  until "$@" >/dev/null 2>&1; do
    kill -0 "$process" 2>/dev/null || return 1
    ((SECONDS < ends)) || { end_process "$process" QUIT; return 1; }
    sleep 0.05
  done
}

# end_process PROCESS SIGNAL: signals a child and kills it after 10 s.
end_process() {
  local process=$1 ends=$((SECONDS + 10))
  kill "-$2" "$process" 2>/dev/null || return 0
  # A process stopped by SIGSTOP would not react.
  kill -CONT "$process" 2>/dev/null || true
  while kill -0 "$process" 2>/dev/null && ((SECONDS < ends)); do sleep 0.05; done
  kill -KILL "$process" 2>/dev/null || true
  wait "$process" 2>/dev/null || true
}

stop_servers() {
  [[ -z $redis_process ]] || end_process "$redis_process" TERM
  [[ -z $postgres_process ]] || end_process "$postgres_process" INT
  redis_process=
  postgres_process=
  [[ -z $servers_directory ]] || rm -rf "$servers_directory" "$root/.local/servers.$$"
  servers_directory=
}
