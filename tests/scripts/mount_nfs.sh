#!/bin/bash
# mount_nfs.sh - the mount served by NFS-Ganesha with contrib/ganesha.conf: a picture that a client copies there over NFSv3
# or NFSv4 makes exactly one job, results are read back, and handles hold over a restart of the daemon and of the server.
# In network and mount namespaces of its own, so that it meets no other server and no rpcbind.
cd "$(dirname "$0")/../.." || exit 1
PATH=$PATH:/usr/sbin:/sbin
for program in jq ganesha.nfsd rpcbind nfs-cp nfs-cat ip; do
	command -v $program >/dev/null || { echo "$program is not installed"; exit 77; }
done
if [ -z "${MOUNT_NFS_INSIDE:-}" ]; then
	unshare -n -m true 2>/dev/null || { echo "no namespaces of its own here (needs root)"; exit 77; }
	MOUNT_NFS_INSIDE=1 exec tests/mount/apart.sh -n -- bash "$0"
fi
. tests/mount/lib.sh
mount -t tmpfs none /run && ip link set lo up || { echo "the loopback device cannot be set up here"; exit 77; }
mkdir "$dir/src" "$dir/recovery" /run/ganesha
mount_start -o allow_other
rpcbind -f -w &
rpcbind=$!
disown
sed -e "s|/mnt/trellis|$mnt|; s|Root_Squash|No_Root_Squash|" contrib/ganesha.conf >"$dir/ganesha.conf"
# What a test wants besides: no waiting for clients of an earlier server, no state outside this folder.
cat >>"$dir/ganesha.conf" <<CONF
NFSv4 {
	Graceless = true;
	RecoveryBackend = fs;
	RecoveryRoot = $dir/recovery;
}
LOG {
	Default_Log_Level = EVENT;
}
CONF
ganesha=
trap 'kill -9 $ganesha $rpcbind 2>/dev/null; cleanup' EXIT
serve() {
	: >"$dir/ganesha.log"
	ganesha.nfsd -F -L "$dir/ganesha.log" -f "$dir/ganesha.conf" -p "$dir/ganesha.pid" </dev/null >/dev/null 2>&1 &
	ganesha=$!
	disown
	for _ in $(seq 300); do
		if grep -q 'NFS SERVER INITIALIZED' "$dir/ganesha.log"; then
			grep -E 'CONFIG :(WARN|CRIT) :Config File' "$dir/ganesha.log" && fail "contrib/ganesha.conf"
			return
		fi
		kill -0 $ganesha 2>/dev/null || break
		sleep 0.1
	done
	echo "Ganesha does not start here: $(grep -E 'FATAL|MAJ|CRIT' "$dir/ganesha.log" | tail -n 1)"
	exit 77
}
v3=nfs://127.0.0.1$mnt
copy() { timeout 30 nfs-cp "$1" "$2" >"$dir/copied" 2>&1 || fail "nfs-cp $*: $(cat "$dir/copied")"; }
# made STEM N - one result of that name, N jobs in all
made() {
	wait_for "$mnt/out/$1.glb" 150
	settle
	[ "$(results "$dir/events" "$1")" = 1 ] || fail "$1 was announced $(results "$dir/events" "$1") times: $(cat "$dir/events")"
	[ "$(field .done)" = "$2" ] || fail "$(field .done) jobs were done, not $2"
}
serve
watch_out "$dir/events"

"$tool" png "$dir/src/three.png" 1 300000
copy "$dir/src/three.png" "$v3/in/three.png"
made three 1
cmp "$dir/src/three.png" "$mnt/in/three.png" || fail "NFSv3 changed the bytes"
copy "$v3/out/three.glb" "$dir/three.glb"
cmp "$dir/three.glb" "$mnt/out/three.glb" || fail "a mesh read over NFSv3 differs"
timeout 30 nfs-cat "$v3/status.json" >"$dir/status.json"
jq -e .version "$dir/status.json" >/dev/null || fail "status.json over NFSv3 is not whole"
timeout 30 nfs-cp "$dir/src/three.png" "$v3/out/x.glb" >/dev/null 2>&1 && fail "out/ can be written to"

# NFSv4. libnfs 4.0 sends no write of more than some 3,800 bytes there (libnfs pull request 319), so a small picture.
v4() { echo "nfs://127.0.0.1/trellis/$1?version=4"; }
"$tool" png "$dir/src/four.png" 2 3000
copy "$dir/src/four.png" "$(v4 in/four.png)"
made four 2
cmp "$dir/src/four.png" "$mnt/in/four.png" || fail "NFSv4 changed the bytes"
copy "$(v4 out/four.glb)" "$dir/four.glb"
cmp "$dir/four.glb" "$mnt/out/four.glb" || fail "a mesh read over NFSv4 differs"

# The same name again (nfs-cp does not overwrite): one more job, one more event.
rm "$mnt/in/three.png"
"$tool" png "$dir/src/again.png" 3 200000
copy "$dir/src/again.png" "$v3/in/three.png"
for _ in $(seq 150); do [ "$(results "$dir/events" three)" = 2 ] && break; sleep 0.1; done
settle
[ "$(results "$dir/events" three)" = 2 ] && [ "$(field .done)" = 3 ] || fail "the same name again made $(field .done) jobs in all, not 3"
cmp "$dir/src/again.png" "$mnt/in/three.png" || fail "NFSv3 changed the bytes of the second picture"

# A client in the middle of a file goes on with the handle that it has: after the kernel has dropped what it had cached, and
# after the daemon and the server have ended and come back.
head -c 12000000 /dev/urandom >"$mnt/in/long.bin"
cp "$mnt/in/long.bin" "$dir/long.bin"
exec 9< <(timeout 60 nfs-cat "$v3/in/long.bin" 2>"$dir/cat.errors")
head -c 1000 <&9 >"$dir/got"
echo 2 >/proc/sys/vm/drop_caches
head -c 2000000 <&9 >>"$dir/got"
kill $ganesha
for _ in $(seq 50); do kill -0 $ganesha 2>/dev/null || break; sleep 0.1; done
kill -9 $ganesha 2>/dev/null
mount_stop
mkdir /run/other && mount -t tmpfs none /run/other # takes the device number that was just freed
mount_start -o allow_other
serve
cat <&9 >>"$dir/got"
cmp "$dir/long.bin" "$dir/got" || fail "a file read over a restart of both: $(stat -c %s "$dir/got") bytes; $(cat "$dir/cat.errors")"
finish
