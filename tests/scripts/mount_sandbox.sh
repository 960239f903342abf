#!/bin/bash
# mount_sandbox.sh - the worker of a mount by root has no rights, and still reads the model wherever it lies and makes meshes; what
# a worker that was taken over can do, tried from inside by tests/attack_plugin.c; what status says of it all. Needs root.
# In a mount namespace of its own, where everybody may use /dev/fuse.
cd "$(dirname "$0")/../.." || exit 1
if [ "$(id -u)" = 0 ] && [ -z "${MOUNT_SANDBOX_INSIDE:-}" ] && unshare -m true 2>/dev/null; then
	MOUNT_SANDBOX_INSIDE=1 exec tests/mount/apart.sh -- bash "$0"
fi
. tests/mount/lib.sh
command -v jq >/dev/null || { echo "jq is not installed"; exit 77; }
[ "$(id -u)" = 0 ] && command -v setpriv >/dev/null || { echo "another user needs root and setpriv"; exit 77; }
[ -x "$TRELLIS_BUILD/trellis" ] || { echo "the real worker is not built"; exit 77; }
landlock=$("$TRELLIS_BUILD/tests/older_kernel" landlock) || { echo "this kernel has no Landlock: $landlock"; exit 77; }
full="no capabilities, Landlock $((landlock < 6 ? landlock : 6)), seccomp"

text=$(timeout 20 "$TRELLIS_BUILD/trellisfs" -o worker_user=nosuchuser,state="$state" "$mnt" 2>&1) && fail "mounted with a user that does not exist"
[ "$text" = "trellisfs: option worker_user: there is no user 'nosuchuser'" ] || fail "unknown user: $text"
text=$(timeout 20 "$TRELLIS_BUILD/trellisfs" -o sandbox=maybe,state="$state" "$mnt" 2>&1) && fail "mounted with sandbox=maybe"
[ "$text" = "trellisfs: option sandbox: wanted on|off, got 'maybe'" ] || fail "sandbox=maybe: $text"

real=worker=$TRELLIS_BUILD/trellis,steps=1,preview=off,device=cpu
picture=tests/golden/e2e/input.png
cp -r tests/golden/e2e "$dir/model"

# told FILTER - until the jq filter is true of status.json
told() {
	for _ in $(seq 200); do
		jq -e "$1" "$mnt/status.json" >/dev/null 2>&1 && return
		sleep 0.1
	done
	fail "never: $1; status: $(cat "$mnt/status")"
	return 1
}
# confined TEXT - what the worker tells of its sandbox
confined() { told '.worker.sandbox == "'"$1"'"' && grep -qxF "sandbox     $1" "$mnt/status"; }
# mesh NAME - of a picture, with options of its own so that it is made and not taken from an equal one
seed=0
mesh() {
	seed=$((seed + 1))
	echo "seed = $seed" >"$mnt/config"
	cp "$picture" "$mnt/in/$1.png"
	wait_for "$mnt/out/$1.glb" 600 || { cat "$mnt/status"; cat "$mnt/out/$1.error.txt" 2>/dev/null; }
}
# threads FIELD - its values over all threads of the worker
threads() { cat "/proc/$(field .worker.pid)"/task/*/status | sed -n "s/^$1:\t//p" | sort -u; }
is() { [ "$2" = "$3" ] || fail "$1: '$3', not '$2'"; }

# ---- A model that only root can read, in a folder that only root can look into. ----
chmod 700 "$dir/model"
mount_start -o "$real,model=$dir/model"
mesh a
confined "user nobody, $full"
nobody=$(id -u nobody)
is Uid "$(printf '%s\t%s\t%s\t%s' "$nobody" "$nobody" "$nobody" "$nobody")" "$(threads Uid)"
is Groups "" "$(threads Groups | tr -d ' ')"
for field in CapInh CapPrm CapEff CapBnd CapAmb; do is $field 0000000000000000 "$(threads $field)"; done
is Seccomp 2 "$(threads Seccomp)"
is NoNewPrivs 1 "$(threads NoNewPrivs)"
# It is loaded again, by the next worker, and also after the system has forgotten the names of its files.
kill_worker || fail "no worker was found"
mesh b
told '.worker.starts == 2'
# Ended by somebody politely, or idle: as ever.
kill -TERM "$(field .worker.pid)"
told '.worker.starts == 3 and .model.state == "ready"'
mount_stop

# ---- As other users, and as root without rights. ----
for user in 1000 root; do
	name=$(id -un $user 2>/dev/null || echo $user)
	mount_start -o "$real,model=$dir/model,worker_user=$user"
	mesh "as$user"
	confined "user $name, $full"
	is Uid "$(id -u $user 2>/dev/null || echo $user)" "$(threads Uid | cut -f 1)"
	is CapEff 0000000000000000 "$(threads CapEff)"
	mount_stop
done

# ---- From a Hugging Face cache, whose files are links. ----
hub=$dir/hub/models--some--model
mkdir -p "$hub/refs" "$hub/blobs" "$hub/snapshots/1/ckpts" "$dir/elsewhere"
printf 1 >"$hub/refs/main"
cp "$dir/model/pipeline.json" "$hub/blobs/pipeline"
ln -s ../../blobs/pipeline "$hub/snapshots/1/pipeline.json"
for file in "$dir"/model/ckpts/*; do
	name=$(basename "$file")
	cp "$file" "$hub/blobs/$name"
	ln -s "../../../blobs/$name" "$hub/snapshots/1/ckpts/$name"
done
mv "$hub/blobs/ss_dec_conv3d_16l8.safetensors" "$dir/elsewhere/" # and two that lead out of the cache
ln -s "$dir/elsewhere/ss_dec_conv3d_16l8.safetensors" "$hub/blobs/"
cp -r "$dir/model/dinov2" "$hub/snapshots/1/"
mv "$hub/snapshots/1/dinov2/model.safetensors" "$dir/elsewhere/eyes"
ln -s "$dir/elsewhere/eyes" "$hub/snapshots/1/dinov2/model.safetensors"
chmod 700 "$dir/hub" "$dir/elsewhere"
HF_HUB_CACHE=$dir/hub mount_start -o "$real,model=some/model"
mesh hub
mount_stop

# ---- With the encoder beside the model, under a name of its own, and a network that the pipeline names by its path. ----
mkdir -m 700 "$dir/models"
cp -r "$dir/model" "$dir/models/model"
mv "$dir/models/model/dinov2" "$dir/models/eyes"
mv "$dir"/models/model/ckpts/ss_dec_conv3d_16l8.* "$dir/elsewhere/"
sed -i "s|\"ckpts/ss_dec_conv3d_16l8\"|\"$dir/elsewhere/ss_dec_conv3d_16l8\"|" "$dir/models/model/pipeline.json"
mount_start -o "$real,model=$dir/models/model"
mesh beside
is "what the model's own notes say" "" "$(field .model.note)"
mount_stop

# ---- Off. ----
mount_start -o "$real,model=$dir/model,sandbox=off"
mesh off
told '.worker.sandbox | startswith("off (user root, capabilities ")'
is Uid 0 "$(threads Uid | cut -f 1)"
is Seccomp 0 "$(threads Seccomp)"
mount_stop

# ---- On kernels that have less: the rest holds, and the reason is told. Then the worker has to be able to read the model. ----
older() {
	local lacking=$1
	shift
	printf '#!/bin/sh\nexec %s %s %s "$@"\n' "$TRELLIS_BUILD/tests/older_kernel" "$lacking" "$TRELLIS_BUILD/trellis" >"$dir/older"
	chmod 755 "$dir/older"
	mount_start -o "$real,worker=$dir/older,model=$dir/model" "$@"
}
older landlock
told '.model.state == "failed" and (.model.reason | test("model"))'
mount_stop
chmod 755 "$dir" "$dir/model"
older landlock
mesh older1
confined "user nobody, no capabilities, no Landlock (Function not implemented), seccomp"
is CapPrm 0000000000000000 "$(threads CapPrm)"
mount_stop
older seccomp
mesh older2
confined "user nobody, ${full%, *}, no seccomp (Function not implemented)"
mount_stop

# ---- Taken over. Modes allow all that they can here, so that the sandbox is what refuses. ----
rm -rf "$state"
mkdir "$dir/plugin"
cp "$TRELLIS_BUILD/tests/plugins/attack/trellis-cuda.so" "$dir/plugin/"
chmod 700 "$dir/plugin" "$dir/plugin/trellis-cuda.so" # it is loaded while it can be read
chmod -R a+rwX "$dir/model"
export ATTACK_STATE=$state ATTACK_MNT=$mnt ATTACK_MODEL=$dir/model TRELLIS_PLUGIN_DIR=$dir/plugin
# attack WANTED NAME OPTIONS - what succeeds
attack() {
	: >"$dir/model/attack-me"
	chmod 666 "$dir/model/attack-me"
	mount_start -o "$real,model=$dir/model,device=auto,$3"
	told '.device.name == "cpu" and (.device.note | startswith("cuda: succeeded:"))'
	is "what succeeded $2" "$1" "$(field .device.note | sed 's/^cuda: succeeded:\( *\)//')"
	mesh "attacked-$RANDOM"
	mount_stop
}
all="read-shadow read-passwd read-state read-model list-model read-mount write-mount write-model change-model shorten-model"
all+=" chmod-model link-model unlink-model mkdir-model write-tmp write-shm read-tmp list-root read-cwd read-environ parent-mem init-mem handle"
all+=" execve execveat fork kill kill-group pidfd ptrace prlimit nice socket-inet socket-unix datagram"
(: </proc/1/mem) 2>/dev/null || all=${all/ init-mem/} # not even root's, in some containers
all+=" setuid unshare unshare-user mount bpf perf io_uring keyctl userfaultfd"
attack "$all" "without a sandbox" sandbox=off
rm -rf "$dir"/model/attack-*
attack "" "as nobody" sandbox=on
attack setuid "as root, who is root already" worker_user=root

# ---- The mount of an ordinary user, whose worker is the same user as the daemon. ----
as() { setpriv --reuid=1000 --regid=1000 --clear-groups "$@"; }
[ -n "${MOUNT_SANDBOX_INSIDE:-}" ] && mknod -m 666 "$dir/fuse" c 10 229 && mount --bind "$dir/fuse" /dev/fuse
if as sh -c ': <>/dev/fuse' 2>/dev/null; then
	state=$dir/theirs
	mkdir "$state" "$dir/bin"
	chown -R 1000:1000 "$mnt" "$state" "$dir/model" "$dir/plugin"
	export ATTACK_STATE=$state
	# lib.sh starts what is called trellisfs there
	printf '#!/bin/sh\nexec setpriv --reuid=1000 --regid=1000 --clear-groups %s/trellisfs "$@"\n' "$TRELLIS_BUILD" >"$dir/bin/trellisfs"
	chmod 755 "$dir/bin/trellisfs"
	worker=$TRELLIS_BUILD/trellis TRELLIS_BUILD=$dir/bin
	"$dir/bin/trellisfs" -o "worker=$worker,state=$state,steps=1,preview=off,model=$dir/model" "$mnt" || fail "an ordinary user cannot mount"
	for _ in $(seq 300); do as grep -q succeeded "$mnt/status" && break || sleep 0.1; done
	is "what succeeded as an ordinary user" "cuda: succeeded:" "$(as jq -r .device.note "$mnt/status.json")"
	is "an ordinary user's sandbox" "user $(id -un 1000 2>/dev/null || echo 1000), $full" "$(as jq -r .worker.sandbox "$mnt/status.json")"
	as cp "$picture" "$mnt/in/theirs.png"
	for _ in $(seq 600); do as test -e "$mnt/out/theirs.glb" && break || sleep 0.1; done
	as test -s "$mnt/out/theirs.glb" || fail "an ordinary user gets no mesh: $(as cat "$mnt/status")"
	as fusermount3 -u "$mnt"
	wait_gone 60 || fail "the daemon did not end within 6 s of unmounting"
else
	echo "without an ordinary user's mount, who cannot use /dev/fuse here"
fi
finish
