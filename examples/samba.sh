#!/bin/bash
# samba.sh MOUNT PICTURE [FOLDER] - the same over a network share: smbd serves MOUNT on the loopback device, smbclient
# writes the picture, looks for the mesh and fetches it to FOLDER (default: this one). The share needs no option of its own:
# copy the section below into /etc/samba/smb.conf to serve a mount for good (mount it with -o allow_other then).
set -eu
[ $# -ge 2 ] || { echo "usage: samba.sh MOUNT PICTURE [FOLDER]" >&2; exit 2; }
mount=$(realpath "$1") picture=$2 folder=${3:-.}
name=${picture##*/}
port=${SMB_PORT:-4455}
dir=$(mktemp -d)
smbd=
trap '[ -z "$smbd" ] || kill "$smbd" 2>/dev/null; wait; rm -rf "$dir"' EXIT

mkdir "$dir/run"
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
	log file = $dir/log
[trellis]
	path = $mount
	read only = no
	guest ok = yes
CONF
PATH=$PATH:/usr/sbin
smbd --foreground --configfile="$dir/smb.conf" </dev/null >/dev/null 2>"$dir/errors" &
smbd=$!
client() { smbclient --no-pass --port="$port" --configfile="$dir/smb.conf" //127.0.0.1/trellis --command="$1" 2>&1; }
for _ in $(seq 50); do
	client 'ls' >/dev/null && break
	kill -0 $smbd 2>/dev/null || { echo "samba.sh: smbd ended: $(tail -n 1 "$dir/errors" "$dir/log")" >&2; exit 1; }
	sleep 0.2
done

client "put \"$picture\" \"in/$name\"" >/dev/null
for _ in $(seq "${SMB_WAIT_S:-600}"); do
	sleep 1
	found=$(client 'ls out/*')
	case $found in
	*"${name%.*}.error.txt"*) client "get \"out/${name%.*}.error.txt\" -" >&2; exit 1 ;;
	*"${name%.*}.glb"*)
		client "get \"out/${name%.*}.glb\" \"$folder/${name%.*}.glb\"" >/dev/null
		echo "$folder/${name%.*}.glb"
		exit 0
		;;
	esac
done
echo "samba.sh: $name has no result yet" >&2
exit 1
