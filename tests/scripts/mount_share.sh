#!/bin/bash
# mount_share.sh - the mount served by smbd on the loopback device with contrib/smb.conf: put, overwrite, get, ls, rename, del
# and change notification; a picture put there makes exactly one job.
cd "$(dirname "$0")/../.." || exit 1
. tests/mount/lib.sh
PATH=$PATH:/usr/sbin
for program in jq smbd smbclient; do
	command -v $program >/dev/null || { echo "$program is not installed"; exit 77; }
done
port=$((20000 + RANDOM % 20000))
mount_start
mkdir "$dir/run" "$dir/src"
cat >"$dir/smb.conf" <<CONF
[global]
	interfaces = lo
	bind interfaces only = yes
	smb ports = $port
	server role = standalone
	map to guest = bad user
	guest account = $(id -un)
	disable spoolss = yes
	load printers = no
	private dir = $dir/run
	lock directory = $dir/run
	state directory = $dir/run
	cache directory = $dir/run
	pid directory = $dir/run
	ncalrpc dir = $dir/run/ncalrpc
	log file = $dir/smb.log
CONF
sed "s|/mnt/trellis|$mnt|" contrib/smb.conf >>"$dir/smb.conf"
echo 'guest ok = yes' >>"$dir/smb.conf"
smbd --foreground --configfile="$dir/smb.conf" </dev/null >/dev/null 2>"$dir/smb.errors" &
smbd=$!
disown
trap 'kill $smbd 2>/dev/null; sleep 0.2; cleanup' EXIT
client() { timeout 20 smbclient --no-pass --port=$port --configfile="$dir/smb.conf" //127.0.0.1/trellis --command="$1" 2>&1; }
for _ in $(seq 50); do
	client ls >/dev/null && break
	kill -0 $smbd 2>/dev/null || { echo "smbd does not start here: $(tail -n 1 "$dir/smb.errors")"; exit 77; }
	sleep 0.2
done
watch_out "$dir/events"
"$tool" png "$dir/src/a.png" 1 200000
"$tool" png "$dir/src/b.png" 2 100000

(sleep 30 | timeout 25 stdbuf -oL smbclient --no-pass --port=$port --configfile="$dir/smb.conf" //127.0.0.1/trellis --command='notify out' >"$dir/notified" 2>&1) &
watchers+=($!)
sleep 0.5
client "put \"$dir/src/a.png\" in\\a.png" | grep -q NT_STATUS && fail "put"
wait_for "$mnt/out/a.glb"
sleep 0.5
[ "$(results "$dir/events" a)" = 1 ] || fail "put announced $(results "$dir/events" a) results"
cmp "$dir/src/a.png" "$mnt/in/a.png" || fail "put changed the bytes"
grep -q 'a.glb' "$dir/notified" || fail "a client that asked for change notification heard nothing: $(cat "$dir/notified")"

client "put \"$dir/src/b.png\" in\\a.png" | grep -q NT_STATUS && fail "overwrite"
for _ in $(seq 80); do [ "$(results "$dir/events" a)" = 2 ] && break; sleep 0.1; done
settle
[ "$(results "$dir/events" a)" = 2 ] && [ "$(field .done)" = 2 ] || fail "overwriting made $(field .done) jobs in all, not 2"
cmp "$dir/src/b.png" "$mnt/in/a.png" || fail "overwriting changed the bytes"

client "get out\\a.glb $dir/got.glb" | grep -q NT_STATUS && fail "get"
cmp "$dir/got.glb" "$mnt/out/a.glb" || fail "get differs"
client "get status.json $dir/got.json" >/dev/null
jq -e .version "$dir/got.json" >/dev/null || fail "status.json over the share is not whole"
client 'ls out\*' | grep -q 'a.glb' || fail "ls"
client "mkdir in\\d; rename in\\a.png in\\d\\moved.png" | grep -q NT_STATUS && fail "rename"
[ -e "$mnt/in/d/moved.png" ] || fail "rename did nothing"
client "put \"$dir/src/a.png\" out\\x.glb" | grep -q NT_STATUS_ACCESS_DENIED || fail "out/ can be written to"
wait_for "$mnt/out/d/moved.glb" && [ ! -e "$mnt/out/a.glb" ] || fail "the result did not follow its picture"
client "del out\\d\\moved.glb" | grep -q NT_STATUS && fail "del"
[ ! -e "$mnt/out/d/moved.glb" ] || fail "del did nothing"
sleep 1
[ "$(field .done)" = 2 ] || fail "rename or del made a job"
finish
